"""What a reader of a figure needs: nothing overlaps, nothing is cut off, grey says the same."""

import json
import re
from importlib import resources

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.text import Text

from miniattn import masks, plot
from miniattn.distributed import Span
from miniattn.plot import _grid
from miniattn.trace import Trace

WORDS = {
    "short": ["the", "cat", "sat", "on", "a", "mat", "."],
    "long": [
        "internationalisation",
        "a",
        "Ġdeoxyribonucleic",
        "supercalifragilistic",
        "猫が座った",
    ],
}


def ring(ranks):
    """What each of some ranks does in four steps."""
    return [Span(r, f"keys of rank {k}", k, k + 0.9) for r in range(ranks) for k in range(4)]


def tokens(kind, count):
    return [WORDS[kind][i % len(WORDS[kind])] for i in range(count)]


def maps(*shape):
    """Causal weights; the same for every call, and cheap for many tokens."""
    weights = np.tri(shape[-2], shape[-1], dtype=np.float32)
    weights *= np.linspace(0.2, 1, shape[-1], dtype=np.float32)
    return np.broadcast_to(weights / weights.sum(axis=-1, keepdims=True), shape)


def every_rule(T):
    lengths = [min(n, T) for n in (T - 1, T, 1, 2, 3, 9, 11, 12)]
    ids = [[0] * (T // 2) + [1] * (T - T // 2)] * len(lengths)
    return (
        masks.causal() & masks.window(3, 0, sinks=2) & masks.padding(lengths) & masks.documents(ids)
    )


def curves(T):
    fall = np.exp(-np.arange(T) / T)
    return {
        "step": np.arange(T),
        "loss": fall,
        "valid_loss": fall + 0.1,
        "test_loss": fall + 0.2,
        "grad_norm": 1e-7 * fall,
        "learning_rate": 3e-4 * fall,
        "valid_accuracy": 1 - fall,
    }


FIGURES = {
    "attention_map": lambda T, t: plot.attention_map(maps(T, T), t),
    "attention_map, all options": lambda T, t: plot.attention_map(
        maps(T, T), t, mask=masks.causal(), scale="log", title="One head of one layer"
    ),
    "attention_map, positions": lambda T, t: plot.attention_map(maps(T, T)),
    "attention_map, few keys": lambda T, t: plot.attention_map(maps(T, T // 3), t, t[: T // 3]),
    "attention_map, few queries": lambda T, t: plot.attention_map(maps(T // 5, T), t[: T // 5], t),
    "attention_map, one query": lambda T, t: plot.attention_map(maps(1, T), t[:1], t),
    "attention_heads": lambda T, t: plot.attention_heads(
        maps(6 if T <= 200 else 2, T, T), t, mask=masks.causal(), title="Heads"
    ),
    "attention_heads, one": lambda T, t: plot.attention_heads(maps(1, T, T), t),
    "attention_lines": lambda T, t: plot.attention_lines(maps(8, T, T)[: 8 if T <= 200 else 1], t),
    "attention_lines, few keys": lambda T, t: plot.attention_lines(
        maps(T, T // 3), t, t[: T // 3], title="One head"
    ),
    "mask": lambda T, t: plot.mask(masks.causal(), tokens=t),
    "mask, many rules": lambda T, t: plot.mask(every_rule(T), tokens=t, title="Rules"),
    "gradient_map": lambda T, t: plot.gradient_map(
        maps(T, T), 0.5 - maps(T, T), t, mask=masks.causal(), title="Gradients"
    ),
}
WITHOUT_TOKENS = {
    "attention_layers": lambda T: plot.attention_layers(maps(3, 4, T, T), mask=masks.causal()),
    "head_summary": lambda T: plot.head_summary(maps(2, 4, T, T), title="Summary"),
    "attention_on_image": lambda T: plot.attention_on_image(
        np.full((int(T**0.5),) * 2, 0.5),
        mask=np.eye(int(T**0.5)) == 0,
        title="Patches",
        scale="log",
    ),
    "timeline": lambda T: plot.timeline({x: ring(T // 3) for x in ("even", "odd")}, title="Ranks"),
    "history": lambda T: plot.history(curves(T), title="Training", log=["loss"]),
}
LARGE = {
    "attention_layers, 16 x 12": lambda: plot.attention_layers(maps(16, 12, 5, 5), title="All"),
    "attention_layers, names": lambda: plot.attention_layers(
        Trace({f"decoder.layers.{i}.cross_attn": maps(1, 4, 5, 7) for i in range(6)})
    ),
    "head_summary, 32 x 32": lambda: plot.head_summary(maps(32, 32, 5, 5)),
    "head_summary, names": lambda: plot.head_summary(
        Trace({f"decoder.layers.{i}.cross_attn": maps(1, 4, 5, 7) for i in range(6)})
    ),
    "head_summary, one head": lambda: plot.head_summary(maps(1, 1, 5, 5)),
    "attention_lines, 16 heads": lambda: plot.attention_lines(maps(16, 9, 9)),
    "history, one record": lambda: plot.history({"epoch": [1], "loss": [2.0]}),
}


def drawn_texts(figure):
    """Return every text that is drawn, with its box in pixels."""
    figure.draw_without_rendering()  # finds the layout
    found = []
    original = Text.draw

    def draw(self, renderer):
        if self.get_visible() and self.get_text().strip():
            found.append((self, self.get_window_extent(renderer)))
        original(self, renderer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", draw)
        figure.draw_without_rendering()
    return found


def overlaps(boxes, others):
    """Return, for each pair of boxes, whether they have more than a pixel in common each way."""
    a = np.array([box.extents for box in boxes]).reshape(-1, 1, 4)
    b = np.array([box.extents for box in others]).reshape(1, -1, 4)
    common = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    return (common > 1).all(axis=-1)


def panels(figure):
    """Return the axes of a figure that show something."""
    return [ax for whole in figure.axes for ax in (whole, *whole.child_axes) if ax.axison]


def trouble(figure):
    """Return what a reader would stumble over, in words."""
    texts = drawn_texts(figure)
    right, top = figure.bbox.max
    said = [
        f"{text.get_text()!r} is cut off"
        for text, box in texts
        if min(box.x0, box.y0) < -0.5 or box.x1 > right + 0.5 or box.y1 > top + 0.5
    ]
    boxes = [box for _, box in texts]
    said += [
        f"{texts[a][0].get_text()!r} and {texts[b][0].get_text()!r} overlap"
        for a, b in zip(*np.nonzero(np.triu(overlaps(boxes, boxes), 1)), strict=True)
    ]
    for ax in panels(figure):
        inside = {*ax.texts, *(ax.get_legend().get_texts() if ax.get_legend() else ())}
        box = ax.get_window_extent()
        said += [
            f"{text.get_text()!r} is on a panel"
            for (text, _), over in zip(texts, overlaps(boxes, [box]), strict=True)
            if over and text not in inside
        ]
        if ax.images and min(box.width, box.height) < 0.12 * figure.dpi:
            said.append("a panel is too small to see")
    if max(figure.get_size_inches()) > 18:
        said.append("the figure is larger than a page can be")
    return said


@pytest.mark.parametrize(
    ("T", "kind"), [(5, "long"), (30, "short"), (30, "long"), (200, "long"), (2000, "short")]
)
@pytest.mark.parametrize("name", FIGURES)
def test_nothing_overlaps_or_is_cut_off(name, kind, T):
    assert trouble(FIGURES[name](T, tokens(kind, T))) == []


@pytest.mark.parametrize("T", [5, 30, 200])
@pytest.mark.parametrize("name", WITHOUT_TOKENS)
def test_nothing_overlaps_without_tokens(name, T):
    assert trouble(WITHOUT_TOKENS[name](T)) == []


@pytest.mark.parametrize("name", LARGE)
def test_nothing_overlaps_with_many_heads_or_long_names(name):
    assert trouble(LARGE[name]()) == []


@pytest.mark.parametrize("name", ["attention_map", "attention_heads", "attention_lines", "mask"])
def test_nothing_overlaps_in_large_type(name):
    with mpl.rc_context({"font.size": 16}):
        assert trouble(FIGURES[name](5, tokens("long", 5))) == []


def test_titles_of_a_summary_in_large_type():
    with mpl.rc_context({"font.size": 16}):
        assert trouble(plot.head_summary(maps(1, 1, 5, 5))) == []


def test_trouble_is_found():
    """The checks above fail for what they are there for."""
    figure = plot.Figure(figsize=(2, 2))
    ax = figure.add_axes((0.3, 0.3, 0.6, 0.6))
    ax.set(xticks=[], yticks=range(3), yticklabels=["a", "b", "c"])
    assert trouble(figure) == []
    ax.set(yticks=np.arange(30), yticklabels=["token"] * 30)
    assert any("overlap" in said for said in trouble(figure))
    ax.set(yticks=[0], yticklabels=["a token too long for the margin"])
    assert any("cut off" in said for said in trouble(figure))
    ax.set(yticks=[])
    figure.text(0.5, 0.5, "over the panel")
    assert any("on a panel" in said for said in trouble(figure))
    ax.imshow(np.eye(2))
    ax.set_position((0.3, 0.3, 0.6, 0.02))
    assert any("too small" in said for said in trouble(figure))


# ------------------------------------------------------------------------------ token labels


def labels(ax):
    shown = [tick.label1 for tick in ax.yaxis.get_major_ticks() if tick.label1.get_text()]
    return [label.get_text() for label in shown], {label.get_fontsize() for label in shown}


@pytest.mark.parametrize("T", [5, 13, 30])
def test_every_token_of_a_grid_of_heads_is_labelled(T):
    figure = plot.attention_heads(maps(4, T, T), [f"t{i}" for i in range(T)])
    figure.draw_without_rendering()
    shown, sizes = labels(figure.axes[0])
    assert shown == [f"t{i}" for i in range(T)]
    assert 6 <= min(sizes) <= max(sizes) <= 10


def test_labels_shrink_before_they_are_thinned():
    figure = plot.Figure(figsize=(4.5, 4.5))
    ax = figure.add_axes((0.2, 0.2, 0.7, 0.7))
    plot.attention_map(maps(30, 30), range(30), ax=ax, colorbar=False)
    figure.draw_without_rendering()
    shown, [size] = labels(ax)
    assert len(shown) == 30
    assert 6 <= size < 7
    ax.set(xlim=(-0.5, 9.5), ylim=(9.5, -0.5))  # as zooming in does
    figure.draw_without_rendering()
    assert labels(ax) == ([str(i) for i in range(10)], {10.0})
    ax.set(xlim=(-0.5, 29.5), ylim=(29.5, -0.5))
    figure.set_size_inches(2, 2)
    figure.draw_without_rendering()
    shown, sizes = labels(ax)
    assert len(shown) < 30
    assert sizes == {10.0}, "labels that are thinned anyway are as large as usual"


def test_a_font_size_of_the_user_holds():
    ax = plot.Figure(figsize=(8, 8)).add_subplot()
    plot.attention_map(maps(5, 5), list("abcde"), ax=ax)
    ax.tick_params(labelsize=7)
    ax.figure.draw_without_rendering()
    assert labels(ax) == (list("abcde"), {7.0})


def test_positions_are_thinned_and_not_shrunk():
    figure = plot.attention_heads(maps(4, 40, 40))
    figure.draw_without_rendering()
    shown, sizes = labels(figure.axes[0])
    assert len(shown) < 40
    assert sizes == {10.0}


# ----------------------------------------------------------------------------------- in grey


def luminance(colours):
    """Return CIE lightness L*, 0 to 100, of sRGB colours in [0, 1]."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    y = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)


def runs_one_way(lightness):
    steps = np.diff(lightness)
    return bool((steps > 0).all() or (steps < 0).all())


@pytest.mark.parametrize("steps", [32])
def test_lightness_orders_the_colours_of_the_figures(steps):
    [image] = plot.attention_map(maps(5, 5)).axes[0].images
    assert runs_one_way(luminance(image.cmap(np.linspace(0, 1, steps))[:, :3]))
    rainbow = mpl.colormaps["jet"](np.linspace(0, 1, steps))[:, :3]
    assert not runs_one_way(luminance(rainbow)), "this test could not fail"


def test_lightness_orders_the_colours_of_the_page():
    script = resources.files("miniattn.plot").joinpath("page", "colours.js").read_text()
    for theme in ("light", "dark"):
        ramp = np.array(json.loads(re.search(rf"{theme}: (\[\[.*\]\])", script)[1])) / 255
        assert runs_one_way(luminance(ramp))


def test_the_gradient_has_signs_and_lightness_falls_from_zero():
    figure = plot.gradient_map(maps(5, 5), 0.5 - maps(5, 5))
    gradient = figure.axes[1]
    lightness = luminance(gradient.images[0].cmap(np.linspace(0, 1, 33))[:, :3])
    assert runs_one_way(lightness[2:17])
    assert runs_one_way(lightness[16:-2])
    marked = {
        (int(i), int(j))
        for line in gradient.get_lines()
        for j, i in zip(*line.get_data(), strict=True)
    }
    assert marked == {(i, j) for i, j in np.argwhere(0.5 - maps(5, 5) < -0.01).tolist()}


def looks(artists):
    return {(a.get_linestyle(), a.get_marker()) for a in artists}


def test_curves_are_told_apart_without_colour():
    for count in (5, 30, 100):
        lines = plot.history(curves(count)).axes[0].get_lines()
        assert len(lines) == 3
        assert len(looks(lines)) == 3


def test_heads_are_told_apart_without_colour():
    ax = plot.attention_lines(maps(4, 6, 6), ax=plot.Figure().add_subplot())
    assert len({repr(lines.get_linestyle()) for lines in ax.collections}) == 4
    handles = ax.get_legend().get_lines()
    assert len({handle.get_linestyle() for handle in handles}) == 4


def test_masked_cells_differ_from_every_weight_in_grey():
    """A hatch has lines that stand out from its ground; a cell of the map is of one colour."""
    for style in (_grid.masked_style(), _grid.empty_style()):
        ground, line = (luminance(np.array(style[part])) for part in ("facecolor", "edgecolor"))
        assert abs(ground - line) > 30
        assert style["hatch"]
    assert _grid.masked_style()["hatch"] != _grid.empty_style()["hatch"]
