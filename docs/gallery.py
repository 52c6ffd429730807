"""The pictures of the gallery: one function a picture. Building the documentation runs them all.

python docs/gallery.py FOLDER
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from miniattn import analysis, distributed, masks, models, nn, plot, trace
from miniattn import functional as F

TOKENS = "the cat sat on the mat and slept .".split()  # noqa: SIM905
T = len(TOKENS)


def scores(*shape: int) -> np.ndarray:
    """Return made-up scores: this gallery is about pictures, not about a model."""
    return 2 * np.random.default_rng(0).standard_normal(shape)


def attention_map() -> plot.Figure:
    """One head; what the mask hides is hatched."""
    causal = masks.causal()
    weights = F.softmax(scores(T, T), mask=causal.to_array(1, 1, T, T)[0, 0])
    return plot.attention_map(weights, TOKENS, mask=causal)


def attention_heads() -> plot.Figure:
    """The heads of a layer on one scale, here logarithmic."""
    return plot.attention_heads(F.softmax(scores(3, T, T)), TOKENS, scale="log")


def attention_layers() -> plot.Figure:
    """Every head of every layer of a model, of one call."""
    rng = np.random.default_rng(0)
    model = nn.TransformerEncoder(2, 32, 4, rng=rng)
    x = 3 * rng.standard_normal((1, T, 32), dtype=np.float32)
    _, maps = trace.run(model, x, mask=masks.causal())
    return plot.attention_layers(maps)


def attention_lines() -> plot.Figure:
    """Tokens joined by lines, as strong as the weight."""
    return plot.attention_lines(F.softmax(2 * scores(2, T, T)), TOKENS)


def attention_on_image() -> plot.Figure:
    """Weights over the patches of an image; a patch that is no key is hatched."""
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    image = np.exp(-4 * (x**2 + y**2))
    keys = np.ones((4, 4), bool)
    keys[0, 0] = False
    weights = F.softmax(6 * image[4::8, 4::8].reshape(-1), mask=keys.reshape(-1)).reshape(4, 4)
    return plot.attention_on_image(weights, image, mask=keys)


def mask() -> plot.Figure:
    """Any mask, and which rule hides what."""
    rules = masks.causal() & masks.padding([T - 1]) & masks.documents([[0] * 4 + [1] * 5])
    return plot.mask(rules, tokens=TOKENS)


def gradient_map() -> plot.Figure:
    """Weights, and beside them how the loss changes with each."""
    causal = masks.causal()
    weights = F.softmax(scores(T, T), mask=causal.to_array(1, 1, T, T)[0, 0])
    return plot.gradient_map(weights, scores(T, T)[::-1], TOKENS, mask=causal)


def head_summary() -> plot.Figure:
    """Entropy, mean distance and mass on the first key of every head."""
    return plot.head_summary(F.softmax(scores(3, 4, T, T)))


def timeline() -> plot.Figure:
    """Ranks that share a sequence: what each computes when, and where it waits."""
    q, k, v = np.random.default_rng(0).standard_normal((3, 1, 1, 4096, 64), dtype=np.float32)

    def attend(comm: distributed.Comm, layout: Literal["contiguous", "striped"]) -> None:
        mine = [distributed.share(x, comm, layout=layout) for x in (q, k, v)]
        distributed.ring_attention(*mine, comm=comm, mask=masks.causal(), layout=layout)

    spans = {}
    simulation = distributed.simulate(4, latency=1e-5, bandwidth=1e9)
    for layout in ("contiguous", "striped"):
        simulation.run(attend, layout)  # the first run may compile
        simulation.run(attend, layout)
        spans[layout] = simulation.spans
    return plot.timeline(spans)


def history() -> plot.Figure:
    """Training curves: a panel a quantity, training solid, held out dashed."""
    epochs = np.arange(1, 13)
    return plot.history(
        {
            "epoch": epochs,
            "loss": 2.3 * np.exp(-epochs / 4),
            "valid_loss": 2.3 * np.exp(-epochs / 4) + 0.02 * epochs,
            "valid_accuracy": 1 - 0.9 * np.exp(-epochs / 3),
        }
    )


def residual_stream() -> plot.Figure:
    """How long the stream's vectors are, and their gradients, by place in the model and token."""
    rng = np.random.default_rng(0)
    model = nn.TransformerEncoder(3, 32, 4, rng=rng)
    x = rng.standard_normal((1, T, 32), dtype=np.float32)
    y, t = trace.run(model, x, mask=masks.causal(), tokens=TOKENS)
    dy = np.zeros_like(y)
    dy[:, -1] = 1.0  # a loss of the last token
    return plot.residual_stream(t, t.gradients(dy))


def patching() -> plot.Figure:
    """Results of an experiment, here every edge between the parts of a small model."""
    model = models.GPT(20, T, embed_dim=32, num_heads=4, num_layers=2, rng=np.random.default_rng(0))
    clean, corrupted = np.random.default_rng(1).integers(0, 20, (2, 1, T))
    metric = analysis.LogitDifference([1], [2])
    edges = analysis.path_patching(model, clean, corrupted, metric)
    return plot.patching(edges, baseline=metric(model(clean)), label="logit difference")


STORY = "the cat sat on the mat . the dog saw the cat and the cat saw the dog .".split()  # noqa: SIM905


def page() -> plot.Page:
    """Two layers of heads with known habits, to look at by hand."""
    words, (i, j) = np.array(STORY), np.mgrid[: len(STORY), : len(STORY)]
    same = words[:, None] == words
    habits = {
        "layers.0.attn": [j == i - 1, same, j == 0],  # the previous token, the same one, the first
        "layers.1.attn": [np.roll(same, 1, axis=1) & (j > 0), j > i - 4],  # what followed the same
    }
    noise = np.random.default_rng(0).standard_normal(i.shape)
    weights = {
        name: F.softmax(4.0 * np.array(heads) + noise, mask=j <= i)
        for name, heads in habits.items()
    }
    return plot.html(weights, STORY, mask=masks.causal(), title="Five heads and their habits")


PICTURES: list[Callable[[], plot.Figure]] = [
    attention_map,
    attention_heads,
    attention_layers,
    attention_lines,
    attention_on_image,
    mask,
    gradient_map,
    head_summary,
    history,
    timeline,
    residual_stream,
    patching,
]


def draw(folder: Path) -> None:
    """Write every picture as PNG, and the interactive pages."""
    (folder / "live").mkdir(parents=True, exist_ok=True)
    page().save(folder / "live" / "attention.html")
    plot.backprop(mask=masks.causal()).save(folder / "live" / "backprop.html")
    for picture in PICTURES:
        picture().savefig(folder / f"{picture.__name__}.png", dpi=110)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
