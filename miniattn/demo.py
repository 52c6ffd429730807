"""The demo: handwritten digits as sequences of inked pixels, and what a transformer looks at.

Each 8 × 8 image of scikit-learn's digits becomes the list of its inked pixels in reading order, one
step (row, column, intensity) a pixel. Digits have different amounts of ink, so sequences have
different lengths and the padding mask does real work. A two-layer transformer encoder reads the
list, and the mean over its steps gives the class. The order is not told: a pixel says itself where
it is.
"""

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from miniattn import models, optim, trace
from miniattn._command import output_folder, whole
from miniattn._typing import Array
from miniattn._warmup import ahead
from miniattn.training import Trainer

SIDE = 8  # pixels a side
CENTRE = (SIDE - 1) / 2
INK = 16  # the value of the darkest pixel
BATCH = 32

Example = tuple[Array, int]


class Digits(NamedTuple):
    """The data set as (sequence, class) pairs."""

    train: list[Example]
    test: list[Example]


def load_digits(*, held_out: float = 0.2) -> Digits:
    """Return scikit-learn's digits as sequences; the same fifth of each class is always held out.

    Needs scikit-learn, whose wheel carries the 1,797 images: nothing is downloaded.
    """
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    images, classes = datasets.load_digits(return_X_y=True)
    examples = [
        (as_sequence(image.reshape(SIDE, SIDE)), int(digit))
        for image, digit in zip(images, classes, strict=True)
    ]
    return Digits(*train_test_split(examples, test_size=held_out, random_state=0, stratify=classes))


def as_sequence(image: Array) -> Array:
    """Return the inked pixels of an image (8, 8) as steps (T, 3): row, column, intensity.

    Places are in pixels from the centre, ±3.5; intensities run from -2 to 2. Places in ±1 would
    also do, but neighbouring pixels would look alike to the first layer, and learning is slower.
    """
    rows, columns = np.nonzero(image)
    steps = [rows - CENTRE, columns - CENTRE, 4 * image[rows, columns] / INK - 2]
    return np.stack(steps, axis=1).astype(np.float32)


def on_pixels(sequence: Array, values: Array) -> Array:
    """Put ``values`` (..., T), one a step, on an image (..., 8, 8), masked where no pixel is."""
    rows, columns = np.rint(sequence[:, :2] + CENTRE).astype(int).T
    shape = (*values.shape[:-1], SIDE, SIDE)
    image: Array = np.ma.masked_array(np.zeros(shape), np.ones(shape, np.bool_))
    image[..., rows, columns] = values
    return image


class Wobbled:
    """The training digits, each slightly turned, stretched and moved every time it is drawn.

    1,437 images are few. As sequences they are easily varied: the pixels' places are numbers, so an
    affine map of the first two columns is all it takes.
    """

    def __init__(self, examples: Sequence[Example], rng: np.random.Generator) -> None:
        self.examples = examples
        self.rng = rng

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int, /) -> Example:
        sequence, digit = self.examples[index]
        turn, grow = self.rng.uniform(-0.1, 0.1, size=2)  # up to 6 degrees, 10 %
        move = self.rng.uniform(-0.35, 0.35, size=2)  # of a pixel
        cos, sin = (1 + grow) * np.cos(turn), (1 + grow) * np.sin(turn)
        affine = np.array([[cos, -sin], [sin, cos]], np.float32)
        places = sequence[:, :2] @ affine + move.astype(np.float32)
        return np.concatenate([places, sequence[:, 2:]], axis=1), digit


def new_model(rng: np.random.Generator) -> models.SequenceClassifier:
    """Return the untrained classifier: 2 layers of width 64 with 4 heads."""
    return models.SequenceClassifier(
        10, input_dim=3, embed_dim=64, num_heads=4, num_layers=2, ffn_dim=128, rng=rng
    )


def new_trainer(
    model: models.SequenceClassifier, rng: np.random.Generator, steps: int, progress: bool = True
) -> Trainer:
    """Return what trains the classifier for so many steps."""
    return Trainer(
        model,
        optim.AdamW(model.named_parameters(), lr=3e-3),
        rng=rng,
        batch_size=BATCH,
        clip_norm=1.0,
        schedule=optim.cosine(warmup=steps // 10, total=steps),
        progress=progress,
    )


def rehearse(argument: str) -> None:
    """Make a step and an evaluation with a model that is thrown away: for `compile_ahead`."""
    digits, rng = load_digits(), np.random.default_rng(0)
    trainer = new_trainer(new_model(rng), rng, 1, progress=False)
    trainer.fit(digits.train[:BATCH], valid=digits.test[:BATCH], steps=1)


def received(model: models.SequenceClassifier, sequence: Array) -> tuple[int, dict[str, Array]]:
    """Return the predicted class, and by layer the attention (H, T) that each pixel receives.

    Every pixel is a query, and the classifier averages over queries: so the mean of a map's rows
    is how much of each pixel's value reaches the average.
    """
    logits, ctx = model.forward(sequence[None])
    maps = trace.attention_weights(ctx)
    return int(logits.argmax()), {name: maps[name][0].mean(axis=1) for name in maps.names}


def draw_attention(model: models.SequenceClassifier, examples: Sequence[Example]) -> Any:
    """Return a figure with a row for each example: the digit, and what each head looks at."""
    from miniattn import plot

    rows = []
    for sequence, digit in examples:
        guess, maps = received(model, sequence)
        image = np.ma.getdata(on_pixels(sequence, (sequence[:, 2] + 2) * INK / 4))
        weights = on_pixels(sequence, list(maps.values())[-1])
        rows.append((f"a {digit}, read as {guess}", image, weights))
    heads = len(rows[0][2])
    top = max(float(weights.max()) for *_, weights in rows)
    fig = plot.Figure(figsize=(2 * heads + 3.4, 2 * len(rows) + 0.8), layout="constrained")
    grid = fig.subplots(len(rows), heads + 1, squeeze=False)
    for axes, (title, image, weights) in zip(grid, rows, strict=True):
        axes[0].imshow(image, cmap="gray_r", vmin=0, vmax=INK, origin="upper")
        axes[0].set(xticks=[], yticks=[], title=title)
        for values, ax in zip(weights, axes[1:], strict=True):
            plot.attention_on_image(values, ax=ax, vmax=top, colorbar=False)
    for head in range(heads):
        grid[0, head + 1].set_title(f"head {head + 1}")
    label = "attention weight (hatched: not in the sequence)"
    fig.colorbar(grid[0, -1].images[-1], ax=grid, label=label, aspect=30, pad=0.01)
    fig.suptitle("Attention that each pixel receives in the last layer, mean over all pixels")
    return fig


def one_of_each(examples: Sequence[Example], digits: Sequence[int]) -> Iterator[Example]:
    """Yield the first example of each of the given digits."""
    for wanted in digits:
        yield next(example for example in examples if example[1] == wanted)


# -------------------------------------------------------------------------------- command line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``python -m miniattn demo``."""
    parser.add_argument(
        "--out", type=Path, default=Path("miniattn-demo"), help="folder to write to"
    )
    parser.add_argument(
        "--epochs", type=whole(1), default=30, help="passes over the training digits"
    )
    parser.add_argument("--seed", type=whole(0), default=0, help="of weights, order and wobble")


def run(args: argparse.Namespace) -> int:
    """Train, report the accuracy on the held-out digits, and draw."""
    from miniattn import plot

    started = time.perf_counter()
    output_folder(args.out)
    digits = load_digits()
    print(
        f"{len(digits.train)} digits to learn from, {len(digits.test)} held out, "
        f"{min(map(_length, digits.train))} to {max(map(_length, digits.train))} pixels each"
    )
    rng = np.random.default_rng(args.seed)
    model = new_model(rng)
    print(f"{model.num_parameters():,} parameters")
    ahead(f"{__name__}:rehearse")

    trainer = new_trainer(model, rng, args.epochs * math.ceil(len(digits.train) / BATCH))
    history = trainer.fit(Wobbled(digits.train, rng), valid=digits.test, epochs=args.epochs)
    accuracy = trainer.evaluate(digits.test)["accuracy"]
    print(f"test accuracy: {100 * accuracy:.1f} %")

    curve = args.out / "training.png"
    shown = ("step", "loss", "valid_loss", "valid_accuracy")
    records = [{name: r[name] for name in shown if name in r} for r in history.records()]
    plot.history(records, title="Learning to read digits").savefig(curve, dpi=150)
    figure = args.out / "attention.png"
    draw_attention(model, list(one_of_each(digits.test, (0, 3, 8)))).savefig(figure, dpi=150)
    print(f"training curve: {curve}\nattention: {figure}")
    print(f"{time.perf_counter() - started:.0f} s in all")
    return 0


def _length(example: Example) -> int:
    return len(example[0])
