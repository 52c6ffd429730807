"""The main figures look as they did: a perceptual hash of each, kept here.

The hash is of the picture without its text, in coarse cells, and may differ by a few bits: another
version of Matplotlib draws a line a pixel off. After a change that is meant, look at the figures
and run ``python tests/plot/test_pictures.py``, which writes the new hashes.
"""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text

from miniattn import masks, plot
from miniattn.distributed import Span

ROWS = 14  # cells from top to bottom
STEP = 8.0  # of 255: a smaller difference between neighbouring cells is none
BITS = 6 * ROWS * (ROWS - 1)  # 1,092: three colours, two directions
TOLERATED = 30

TOKENS = "the cat sat on the mat .".split()  # noqa: SIM905
T = len(TOKENS)


def weights(*shape):
    """Causal maps without a random number, each head of its own."""
    i, j = np.mgrid[:T, :T]
    head = np.arange(int(np.prod(shape, initial=1))).reshape(*shape, 1, 1)
    w = np.where(j <= i, np.exp(2 * np.cos(1.3 * (i - j) * (head + 1)) + 0.3 * head * (j == 0)), 0)
    return w / w.sum(axis=-1, keepdims=True)


def patches():
    y, x = np.mgrid[-1:1:16j, -1:1:16j]
    image = np.exp(-4 * (x**2 + y**2))
    return image[2::4, 2::4] / 4, image


def fall(rate):
    return np.exp(-np.arange(20) / rate)


def even(rank, step):
    return True


def ring(works):
    """What four ranks of a ring do: in each step they work, or wait for those that do."""
    return [
        Span(
            rank,
            f"keys of rank {(rank - step) % 4}" if works(rank, step) else "waiting",
            step,
            1 + step,
        )
        for rank in range(4)
        for step in range(4)
    ]


RULES = masks.causal() & masks.window(2, 0) & masks.documents([[0] * 3 + [1] * 4])
CAUSAL = masks.causal()

# Each figure as it should be, and the same call gone wrong.
FIGURES = {
    "attention_map": (
        lambda: plot.attention_map(weights(), TOKENS, mask=CAUSAL),
        lambda: plot.attention_map(weights(), TOKENS),
    ),
    "attention_map, log": (
        lambda: plot.attention_map(weights(), TOKENS, scale="log"),
        lambda: plot.attention_map(weights(), TOKENS),
    ),
    "attention_heads": (
        lambda: plot.attention_heads(weights(4), TOKENS),
        lambda: plot.attention_heads(weights(4)[::-1], TOKENS),
    ),
    "attention_layers": (
        lambda: plot.attention_layers(weights(2, 3)),
        lambda: plot.attention_layers(weights(2, 3).swapaxes(-1, -2)),
    ),
    "attention_lines": (
        lambda: plot.attention_lines(weights(2), TOKENS),
        lambda: plot.attention_lines(weights(2).swapaxes(-1, -2), TOKENS),
    ),
    "attention_on_image": (
        lambda: plot.attention_on_image(*patches()),
        lambda: plot.attention_on_image(patches()[0][:, ::-1].T, 1 - patches()[1]),
    ),
    "mask": (
        lambda: plot.mask(RULES, tokens=TOKENS),
        lambda: plot.mask(CAUSAL & masks.window(2, 0), tokens=TOKENS),
    ),
    "gradient_map": (
        lambda: plot.gradient_map(weights(), weights() - 0.3, TOKENS, mask=CAUSAL),
        lambda: plot.gradient_map(weights(), 0.3 - weights(), TOKENS, mask=CAUSAL),
    ),
    "head_summary": (
        lambda: plot.head_summary(weights(2, 4)),
        lambda: plot.head_summary(weights(2, 4)[:, ::-1]),
    ),
    "history": (
        lambda: plot.history({"loss": fall(4), "valid_loss": fall(6), "accuracy": 1 - fall(5)}),
        lambda: plot.history({"loss": fall(4), "valid_loss": fall(4), "accuracy": 1 - fall(5)}),
    ),
    "timeline": (
        lambda: plot.timeline({"contiguous": ring(lambda r, s: s <= r), "striped": ring(even)}),
        lambda: plot.timeline({"contiguous": ring(even), "striped": ring(lambda r, s: s <= r)}),
    ),
}

FILE = Path(__file__).with_name("pictures.json")
HASHES = json.loads(FILE.read_text()) if FILE.exists() else {}


def cells(figure, dpi):
    """Return the colours (ROWS, ROWS, 3) of the picture without text, a cell's mean each."""
    figure.draw_without_rendering()  # the layout, which text is part of
    figure.set_layout_engine("none")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", lambda *_: None)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="rgba", dpi=dpi)
    width, height = (int(side) for side in figure.get_size_inches() * dpi)
    picture = np.frombuffer(buffer.getvalue(), np.uint8).reshape(height, width, 4)[..., :3]
    for axis in (0, 1):
        edges = np.arange(ROWS + 1) * picture.shape[axis] // ROWS
        sums = np.add.reduceat(picture.astype(float), edges[:-1], axis=axis)
        shape = [1, 1, 1]
        shape[axis] = ROWS
        picture = sums / np.diff(edges).reshape(shape)
    return picture


def bits(figure, dpi=70):
    """Return whether each cell is clearly darker than its right neighbour, and than the lower."""
    colours = cells(figure, dpi)
    right, down = (np.diff(colours, axis=axis) > STEP for axis in (1, 0))
    return np.concatenate([right.ravel(), down.ravel()])


def kept(name):
    return np.unpackbits(np.frombuffer(bytes.fromhex(HASHES[name]), np.uint8), count=BITS) > 0


def distance(name, figure, **options):
    return int((bits(figure, **options) != kept(name)).sum())


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_looks_as_it_did(name):
    assert distance(name, FIGURES[name][0]()) <= TOLERATED


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_gone_wrong_is_noticed(name):
    assert distance(name, FIGURES[name][1]()) > 1.4 * TOLERATED


# Thin slanted lines are not the same picture at another size.
@pytest.mark.parametrize("name", [name for name in FIGURES if name != "attention_lines"])
def test_every_line_a_fraction_of_a_pixel_off_is_tolerated(name):
    assert distance(name, FIGURES[name][0](), dpi=69) <= TOLERATED


def test_every_figure_has_a_hash():
    assert set(HASHES) == set(FIGURES)


if __name__ == "__main__":
    hashes = {
        name: np.packbits(bits(right())).tobytes().hex() for name, (right, _) in FIGURES.items()
    }
    FILE.write_text(json.dumps(hashes, indent=1) + "\n")
