"""Three small models that the gallery and the book look at, and how they were trained.

Their weights lie in `docs/_trained`, in half precision. `python docs/trained.py` trains them anew,
in some minutes.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from miniattn import analysis, data, demo, models, nn, optim, plot
from miniattn.training import Trainer

FOLDER = Path(__file__).parent / "_trained"

# --------------------------------------------------------------- what comes again comes again

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import induction_heads  # noqa: E402


def copyist_model(rng: np.random.Generator) -> nn.Module:
    """The model of the example: two layers of attention alone."""
    return induction_heads.AttentionOnly(rng)


# --------------------------------------------------------------- sentences whose verbs agree

NOUNS = {"cat": "cats", "dog": "dogs", "bird": "birds", "fox": "foxes", "child": "children"}
VERBS = {"sleeps": "sleep", "runs": "run", "sings": "sing", "waits": "wait"}
PREPOSITIONS = ["near", "behind", "with"]
FORMS = [word for pair in (*NOUNS.items(), *VERBS.items()) for word in pair]
WORDS = ["<pad>", "the", *PREPOSITIONS, "and", "it", "they", ".", *FORMS]
LONGEST = 13
SENTENCE = "the cats near the dog sleep and they run .".split()  # noqa: SIM905


def encode(words: list[str]) -> np.ndarray:
    """Return words as ids (1, T)."""
    return np.array([[WORDS.index(word) for word in words]])


def sentence(rng: np.random.Generator) -> list[str]:
    """Return a sentence: its verbs and its pronoun agree with its first noun, not its last."""
    several = int(rng.integers(2))
    nouns, verbs = list(NOUNS.items()), list(VERBS.items())
    words = ["the", nouns[rng.integers(len(nouns))][several]]
    for _ in range(rng.integers(3)):
        other = nouns[rng.integers(len(nouns))][rng.integers(2)]
        words += [PREPOSITIONS[rng.integers(len(PREPOSITIONS))], "the", other]
    first, second = rng.choice(len(verbs), 2, replace=False)
    words += [verbs[first][several], "and", ["it", "they"][several]]
    return [*words, verbs[second][several], "."]


class Sentences:
    """Sentences with, for each word, the next one."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int, /) -> tuple[np.ndarray, np.ndarray]:
        [ids] = encode(sentence(np.random.default_rng([self.seed, index])))
        return ids[:-1], ids[1:]


def sentence_model(rng: np.random.Generator) -> models.GPT:
    """Two layers of four heads."""
    size = {"embed_dim": 32, "num_heads": 4, "num_layers": 2}
    return models.GPT(len(WORDS), LONGEST, **size, rng=rng)


# --------------------------------------------------------------------- handwritten digits


def digits_model(rng: np.random.Generator) -> models.SequenceClassifier:
    """The demo's model, half as wide."""
    size = {"embed_dim": 32, "num_heads": 4, "num_layers": 2, "ffn_dim": 64}
    return models.SequenceClassifier(10, input_dim=3, **size, positions=None, rng=rng)


# ------------------------------------------------------------------------------ all of them


def load(name: str) -> tuple[nn.Module, dict[str, np.ndarray]]:
    """Return the model of that name with its weights, and what was recorded as it learned."""
    model = {"copyist": copyist_model, "sentence": sentence_model, "digits": digits_model}[name](
        np.random.default_rng(0)
    )
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = {key: file[key].astype(np.float32) for key in file.files}
    recorded = {key: arrays.pop(key) for key in list(arrays) if key.startswith("recorded.")}
    model.load_state_dict(arrays)
    return model, {key.removeprefix("recorded."): value for key, value in recorded.items()}


def save(name: str, model: nn.Module, **recorded: Any) -> None:
    """Write the weights and what was recorded, in half precision."""
    arrays = {key: np.float16(value) for key, value in model.state_dict().items()}
    arrays |= {f"recorded.{key}": np.float16(value) for key, value in recorded.items()}
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(FOLDER / f"{name}.npz", **arrays)


def trainer(model: nn.Module, steps: int, lr: float, **options: Any) -> Trainer:
    """Return what trains all three."""
    optimizer = optim.AdamW(model.named_parameters(), lr=lr, decay=optim.only_matrices)
    schedule = optim.cosine(steps // 20, steps, floor=0.02)
    return Trainer(model, optimizer, schedule=schedule, clip_norm=1.0, progress=False, **options)


def train_copyist(steps: int = 1_000) -> None:
    """Train the copyist, and record the last layer's heads as they learn."""
    model, row = copyist_model(np.random.default_rng(1)), induction_heads.Repeats(1, 3)[0][0][None]
    heads = range(induction_heads.HEADS)
    recorders = [plot.Recorder(row, head=head, every=steps // 20) for head in heads]
    options = {"batch_size": 32, "collate": data.stack, "callbacks": recorders}
    learning = trainer(model, steps, 4e-3, rng=np.random.default_rng(1), **options)
    every = {"steps": steps, "evaluate_every": steps // 4}
    repeats = induction_heads.Repeats
    learning.fit(repeats(32 * steps, seed=1), valid=repeats(128, seed=2), **every)
    print(learning.history["valid_accuracy"].values)
    last = recorders[max(heads, key=lambda head: looks_after(recorders[head].maps[-1], row))]
    save("copyist", model, maps=last.maps, steps=last.steps)


def looks_after(weights: np.ndarray, row: np.ndarray) -> float:
    """Return how much of an induction head it is."""
    return float(analysis.induction_score(weights[None, None], row)[0, 0])


def train_sentence(steps: int = 1_200) -> None:
    """Train the sentences' model."""
    model = sentence_model(np.random.default_rng(0))
    options = {"batch_size": 32, "collate": partial(data.pad, lengths=(None,))}
    learning = trainer(model, steps, 5e-3, rng=np.random.default_rng(1), **options)
    learning.fit(
        Sentences(32 * steps, 1), valid=Sentences(200, 3), steps=steps, evaluate_every=steps // 4
    )
    print(learning.history["valid_loss"].values)
    save("sentence", model)


def train_digits(epochs: int = 16) -> None:
    """Train the digits' model, and record its curves."""
    digits, rng = demo.load_digits(), np.random.default_rng(1)
    model = digits_model(np.random.default_rng(0))
    steps = epochs * -(-len(digits.train) // 32)
    learning = trainer(model, steps, 5e-3, rng=rng, batch_size=32, pool=8)
    learning.fit(demo.Wobbled(digits.train, rng), valid=digits.test, epochs=epochs)
    curves = learning.history
    print(curves["valid_accuracy"].values)
    every = steps // epochs
    loss = curves["loss"].values[: epochs * every].reshape(epochs, every).mean(axis=1)
    held_out = {name: curves[name].values for name in ("valid_loss", "valid_accuracy")}
    save("digits", model, loss=loss, **held_out)


if __name__ == "__main__":
    for train in (train_copyist, train_sentence, train_digits):
        train()
