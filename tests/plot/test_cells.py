"""What is seen of the cells: the heaviest at any size, each where it belongs in every style.

Figures are drawn, and colours turned back into numbers through the colour map.
"""

import io

import matplotlib as mpl
import matplotlib.style
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.backends.backend_pdf import RendererPdf
from matplotlib.backends.backend_svg import RendererSVG

from miniattn import masks, plot
from miniattn.plot import _mask
from miniattn.plot._canvas import PALETTE
from miniattn.plot._cells import NOT_FINITE, Cells

LUT = 256


def packed(colours):
    """Return colours (..., 3 or 4) of 0 to 255 as one number each."""
    return np.asarray(colours)[..., :3].astype(np.int64) @ [65536, 256, 1]


def picture(figure, dpi):
    """Return the pixels (height, width) of a figure, the first row at the top."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba", dpi=dpi)
    width, height = (int(side) for side in figure.get_size_inches() * dpi)
    rgba = np.frombuffer(buffer.getvalue(), np.uint8).reshape(height, width, 4)
    return packed(rgba)


def cells_of(figure):
    """Return every image of cells of a figure."""
    axes = [ax for whole in figure.axes for ax in (whole, *whole.child_axes)]
    return [image for ax in axes for image in ax.images if isinstance(image, Cells)]


def window(cells, pixels, dpi):
    """Return the pixels that the cells take."""
    box = cells.get_window_extent().extents * dpi / cells.get_figure().dpi
    x0, y0, x1, y1 = np.rint(box).astype(int)
    return pixels[len(pixels) - y1 : len(pixels) - y0, x0:x1]


def numbers(cells, pixels):
    """Return the number of each pixel, NaN where it has no colour of the map."""
    scale = np.linspace(0, 1, LUT)
    colours = packed(cells.cmap(scale, bytes=True))
    order = np.argsort(colours)
    at = np.searchsorted(colours, pixels, sorter=order).clip(max=LUT - 1)
    found = colours[order[at]] == pixels
    return np.where(found, np.asarray(cells.norm.inverse(scale[order[at]])), np.nan)


def sink(*shape):
    """One heavy column: the first key has 0.9 of every query."""
    weights = np.full(shape, 0.1 / (shape[-1] - 1), np.float32)
    weights[..., 0] = 0.9
    return weights


def diagonal(*shape):
    """Each token reads itself with 0.9."""
    weights = np.full(shape, 0.1 / (shape[-1] - 1), np.float32)
    weights[..., np.arange(shape[-2]), np.arange(shape[-2])] = 0.9
    return weights


MAPS = {"sink": sink, "diagonal": diagonal}


# ------------------------------------------------------------------- the heaviest at any size


@pytest.mark.parametrize("shape", [(12, 12, 128, 128), (24, 16, 64, 64)])
def test_every_small_map_shows_its_heaviest_cell_in_every_row(shape):
    weights = np.concatenate(
        [f(shape[0], shape[1] // 2, *shape[2:]) for f in MAPS.values()], axis=1
    )
    figure = plot.attention_layers(weights)
    pixels = picture(figure, 100)
    drawn = cells_of(figure)
    assert len(drawn) == shape[0] * shape[1]
    for cells in drawn:
        seen = numbers(cells, window(cells, pixels, 100))
        np.testing.assert_allclose(np.nanmax(seen, axis=1), 0.9, rtol=0.05)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("count", [900, 2000])
def test_a_long_map_shows_its_heaviest_cell_at_any_resolution(name, count):
    figure = plot.attention_map(MAPS[name](count, count))
    for dpi in (40, 100):
        [cells] = cells_of(figure)
        seen = numbers(cells, window(cells, picture(figure, dpi), dpi))
        np.testing.assert_allclose(np.nanmax(seen, axis=1), 0.9, rtol=0.05)


@pytest.mark.parametrize("kind", ["svg", "pdf"])
def test_the_image_in_a_vector_file_shows_it_too(kind, monkeypatch):
    images = []
    renderer = {"svg": RendererSVG, "pdf": RendererPdf}[kind]
    monkeypatch.setattr(renderer, "draw_image", lambda self, gc, x, y, im, *_: images.append(im))
    figure = plot.attention_map(diagonal(900, 900), colorbar=False)
    [cells] = cells_of(figure)
    for dpi in (50, 200):
        images.clear()
        figure.savefig(io.BytesIO(), format=kind, dpi=dpi)
        [image] = images
        seen = numbers(cells, packed(image))
        np.testing.assert_allclose(np.nanmax(seen, axis=1), 0.9, rtol=0.05)


FIGURES = {
    "attention_heads": lambda w: plot.attention_heads(np.stack([w, w])),
    "attention_on_image": lambda w: plot.attention_on_image(w),
    "attention_map, relative to the row": lambda w: plot.attention_map(w, scale="row", vmax=None),
    "attention_map, logarithmic": lambda w: plot.attention_map(w, scale="log"),
    "gradient_map": lambda w: plot.gradient_map(w, w),
    "gradient_map, negative": lambda w: plot.gradient_map(w, -w),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_of_maps_shows_the_heaviest_cell(name):
    figure = FIGURES[name](sink(900, 900))
    pixels = picture(figure, 60)
    top = 1.0 if "row" in name else 0.9
    for cells in cells_of(figure):
        seen = numbers(cells, window(cells, pixels, 60))
        furthest = np.nanmax(np.abs(seen), axis=1)
        np.testing.assert_allclose(furthest, top, rtol=0.05)
        if name == "gradient_map, negative" and cells.norm.vmin < 0:
            assert np.nanmin(seen) == pytest.approx(-0.9, rel=0.05)


def test_what_a_mask_leaves_visible_is_seen_at_any_size():
    figure = plot.mask(masks.window(0, 0), T=2000)
    for dpi in (40, 100):
        pixels = picture(figure, dpi)
        seen = cells_of(figure)[-1]
        dark = packed(seen.cmap(seen.norm(0.0), bytes=True))
        assert (window(seen, pixels, dpi) == dark).any(axis=1).all()


def test_zooming_in_shows_the_cells_that_are_looked_at():
    weights = np.arange(100 * 200, dtype=np.float32).reshape(100, 200) / 20_000
    figure = plot.attention_map(weights, colorbar=False)
    ax, [cells] = figure.axes[0], cells_of(figure)
    ax.set(xlim=(19.5, 24.5), ylim=(53.5, 49.5))
    figure.draw_without_rendering()
    pixels, box = picture(figure, 100), ax.get_window_extent()
    for i in range(50, 54):
        for j in range(20, 25):
            x, y = ax.transData.transform((j, i))
            assert box.contains(x, y)
            [[seen]] = numbers(cells, pixels[[len(pixels) - 1 - int(y)]][:, [int(x)]])
            assert seen == pytest.approx(weights[i, j], abs=1 / LUT)


# ------------------------------------------------------------------------- in every style

QUERIES, KEYS = ["q0", "q1", "q2"], ["k0", "k1", "k2", "k3"]
VALUES = np.arange(1, 13, dtype=float).reshape(3, 4) / 12

HOSTILE = {
    "image.origin": "lower",
    "image.interpolation": "bicubic",
    "image.aspect": "auto",
    "image.resample": False,
    "axes.grid": True,
    "axes.grid.which": "both",
    "axes.axisbelow": False,
    "axes.autolimit_mode": "round_numbers",
    "axes.xmargin": 0.4,
    "axes.ymargin": 0.4,
    "axes.linewidth": 6.0,
    "grid.color": "red",
    "grid.linewidth": 3.0,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.top": True,
    "ytick.right": True,
    "xtick.labeltop": True,
    "xtick.labelbottom": False,
    "ytick.labelleft": False,
    "ytick.labelright": True,
    "xtick.minor.visible": True,
    "ytick.minor.visible": True,
    "xtick.major.size": 30,
    "lines.marker": "o",
    "lines.linestyle": "--",
    "figure.autolayout": True,
}


def called(style):
    return style if isinstance(style, str) else "hostile"


STYLES = [*mpl.style.available, HOSTILE]


def placed(cells, pixels, dpi, values):
    """Assert that each cell has its colour all over, to the outermost pixel."""
    rows, columns = values.shape
    part = window(cells, pixels, dpi)
    for i, j in np.ndindex(rows, columns):
        # A pixel at each seam may be of either side.
        top, bottom = (round(n * part.shape[0] / rows) for n in (i, i + 1))
        left, right = (round(n * part.shape[1] / columns) for n in (j, j + 1))
        block = part[
            top + (i > 0) : bottom - (i < rows - 1), left + (j > 0) : right - (j < columns - 1)
        ]
        seen = numbers(cells, block)
        assert block.size
        np.testing.assert_allclose(seen, values[i, j], atol=2 / LUT)


def labelled(axis, cells, dpi, names):
    """Assert that each label stands beside the middle of its row or column, and all are there."""
    [direction] = {"x", "y"} & {axis.axis_name}
    box = cells.get_window_extent()
    shown = {}
    for tick in axis.get_major_ticks():
        label = tick.label1
        if label.get_visible() and label.get_text():
            at = label.get_window_extent()
            if direction == "y":
                place = (box.y1 - (at.y0 + at.y1) / 2) / box.height
            else:
                place = ((at.x0 + at.x1) / 2 - box.x0) / box.width
            shown[int(place * len(names))] = label.get_text()
    assert shown == dict(enumerate(names))


@pytest.mark.parametrize("style", STYLES, ids=called)
def test_cells_are_where_their_labels_are_in_every_style(style):
    with mpl.style.context(style):
        figure = plot.attention_map(VALUES, QUERIES, KEYS)
        pixels = picture(figure, 50)
        [cells] = cells_of(figure)
        placed(cells, pixels, 50, VALUES)
        labelled(cells.axes.yaxis, cells, 50, QUERIES)
        labelled(cells.axes.xaxis, cells, 50, KEYS)


@pytest.mark.parametrize("style", ["default", "ggplot", "classic", HOSTILE], ids=called)
def test_axes_of_a_style_are_made_steady_too(style):
    """Axes are made in the style, drawn on out of it: what they have brought is taken away."""
    with mpl.style.context(style):
        figure = plot.Figure(figsize=(4, 3), layout="none")
        ax = figure.add_axes((0.2, 0.22, 0.6, 0.68))
        plot.attention_map(VALUES, QUERIES, KEYS, ax=ax, colorbar=False)
    pixels = picture(figure, 50)
    [cells] = cells_of(figure)
    placed(cells, pixels, 50, VALUES)
    labelled(ax.yaxis, cells, 50, QUERIES)
    plot.attention_map(VALUES[::-1], QUERIES, KEYS, ax=ax, colorbar=False)  # and once more
    placed(cells_of(figure)[-1], picture(figure, 50), 50, VALUES[::-1])


MORE = {
    "attention_heads": (lambda: plot.attention_heads(np.stack([VALUES, VALUES])), VALUES),
    "attention_layers": (lambda: plot.attention_layers(VALUES[None, None]), VALUES),
    "attention_on_image": (lambda: plot.attention_on_image(VALUES), VALUES),
    "gradient_map": (lambda: plot.gradient_map(VALUES, VALUES), VALUES),
}


@pytest.mark.parametrize("name", MORE)
def test_no_figure_of_maps_is_spoilt_by_a_hostile_style(name):
    call, values = MORE[name]
    with mpl.rc_context(HOSTILE):
        figure = call()
        pixels = picture(figure, 50)
    for cells in cells_of(figure):
        placed(cells, pixels, 50, values)


def test_a_hostile_style_leaves_a_mask_as_it_is():
    rows = np.tri(4, dtype=bool)
    with mpl.rc_context(HOSTILE):
        figure = plot.mask(rows)
        pixels = picture(figure, 50)
    seen = cells_of(figure)[-1]
    dark = packed(seen.cmap(seen.norm(0.0), bytes=True))
    part = window(seen, pixels, 50) == dark
    middles = [round((n + 0.5) * len(part) / 4) for n in range(4)]
    np.testing.assert_array_equal(part[middles][:, middles], rows)


def test_a_hostile_style_does_not_mark_curves_or_lines():
    with mpl.rc_context(HOSTILE):
        train, valid = (
            plot.history({"loss": [3, 2, 1], "valid_loss": [3, 2, 2]}).axes[0].get_lines()
        )
        assert (train.get_linestyle(), train.get_marker()) == ("-", "")
        assert (valid.get_linestyle(), valid.get_marker()) == ("--", "o")
        ax = plot.attention_lines(VALUES, ax=plot.Figure().add_subplot())
        assert not any(line.get_visible() for line in ax.get_ygridlines())


def test_fonts_and_colours_stay_the_users():
    with mpl.rc_context({"ytick.labelsize": 7, "image.cmap": "magma", "axes.facecolor": "#222222"}):
        ax = plot.attention_map(VALUES, QUERIES, KEYS).axes[0]
        assert ax.images[0].cmap.name == "magma"
        assert ax.get_facecolor() == mpl.colors.to_rgba("#222222")
        assert {label.get_fontsize() for label in ax.get_yticklabels()} == {7}


# ------------------------------------------------------------------ beside other axes


def boxes(figure):
    """Return the boxes of all panels and of all that stands beside them, in pixels."""
    figure.draw_without_rendering()
    return {ax: ax.get_window_extent() for ax in figure.axes if ax.axison}


def overlap(a, b):
    return min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1


RULES = masks.causal() & masks.padding([5]) & masks.documents([[0, 0, 0, 1, 1, 1]])
ON_AXES = {
    "attention_map": lambda ax: plot.attention_map(np.eye(6), mask=RULES, ax=ax),
    "mask": lambda ax: plot.mask(RULES, ax=ax),
    "gradient_map": lambda ax: plot.gradient_map(np.eye(6), -np.eye(6), mask=RULES, ax=ax),
    "attention_on_image": lambda ax: plot.attention_on_image(np.eye(6), mask=np.eye(6) > 0, ax=ax),
}


@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (2, 2)])
@pytest.mark.parametrize("layout", [None, "tight_layout", "tight", "constrained"])
@pytest.mark.parametrize("name", ON_AXES)
def test_nothing_of_one_panel_covers_another(name, layout, shape):
    engine = layout if layout != "tight_layout" else None
    figure, axes = plt.subplots(*shape, figsize=(7, 5), layout=engine, squeeze=False)
    try:
        for ax in axes.flat:
            ON_AXES[name](ax)
        if layout == "tight_layout":
            figure.tight_layout()
        found = boxes(figure)
        legends = [(ax, ax.get_legend()) for ax in figure.axes if ax.get_legend()]
        assert legends
        for ax, box in found.items():
            assert not any(overlap(box, other) for key, other in found.items() if key is not ax)
            for _, legend in legends:
                assert not overlap(legend.get_window_extent(), box), "a legend over a panel"
    finally:
        plt.close(figure)


@pytest.mark.parametrize("count", [6, 7, 20])
def test_no_two_rules_of_a_mask_look_alike(count):
    ax = plot.Figure().add_subplot()
    looks = _mask._looks([f"rule {i}" for i in range(count)], ax)
    rules = [looks[i + 1] for i in range(count)]
    colours = {mpl.colors.to_hex(look["facecolor"]) for look in looks.values()}
    assert len(colours) == count + 2, "and none is that of what is visible, or hidden by several"
    assert len({look["hatch"] for look in rules}) == count
    assert len(PALETTE) < 7


# ------------------------------------------------------------------ numbers that are no weights


def test_not_finite_cells_are_seen_even_below_a_pixel():
    weights = np.full((900, 900), 1 / 900)
    weights[450, 450] = np.nan
    figure = plot.attention_map(weights)
    [cells] = cells_of(figure)
    part = window(cells, picture(figure, 50), 50)
    assert (part == packed(np.rint(255 * np.array(mpl.colors.to_rgb(NOT_FINITE))))).sum() == 1
