"""From heads to panels: pooling, scales, masked cells and empty rows, the colour bar."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import CenteredNorm, Colormap, LogNorm, Normalize, SymLogNorm
from matplotlib.patches import Patch, PathPatch, Rectangle
from matplotlib.path import Path

from miniattn import _checks
from miniattn._typing import Array, MaskLike
from miniattn.plot._canvas import framed, ink, lays_out, legend_beside, points, root, slot, steady
from miniattn.plot._cells import NOT_FINITE, Cells, furthest, greatest, pooled
from miniattn.plot._scales import SCALES as SCALES
from miniattn.plot._scales import Scale as Scale
from miniattn.plot._source import Head, Layer, heads
from miniattn.plot._values import NAMES, Reading, Value

MOST_CELLS = 1024
"""Cells kept per side; more than a page shows, and a bound on the memory of a figure."""

DECADES = 4
"""A log scale shows this many powers of ten below the greatest weight."""

CROSSED = 2_000
"""Cells that are not finite are crossed as well as coloured if no more boxes hold them all."""

MARKED = 1_600
"""Cells up to which the negative ones are marked, and those that are exactly 0."""

FAINT = 0.02
"""Of the greatest: negative numbers that are nearer to 0 are not marked."""

DIVERGING = "RdBu_r"
"""Colours of numbers with a sign."""


class MapOptions(Reading, total=False):
    """What the functions that draw maps share."""

    mask: MaskLike
    layer: str | int | None
    head: int | Literal["mean"] | None
    batch: int
    scale: Scale
    cmap: str | Colormap | None
    vmax: float | None
    extent: tuple[int, int] | None
    colorbar: bool
    title: str | None


class Panel(NamedTuple):
    """What is drawn of one T x S map."""

    values: Array
    """(rows, cols): 0 where hidden, NaN where not finite; shares of the row if so scaled."""
    hidden: Array
    """(rows, cols) bool: cells in which every key is masked."""
    empty: Array
    """(rows,) bool: rows in which no query may attend to anything."""
    shape: tuple[int, int]
    """(T, S) before any pooling, which is what the axes count."""
    given: tuple[int, int]
    """The shape of the map as it came: that of the sums and means that `extent` speaks of."""
    unusual: tuple[float, float] | None = None
    """The least and the greatest sum of a row, where not each sums to 1 or to 0."""
    value: Value = "weights"
    """Whether these are weights, or numbers with a sign."""


def panels(
    layer: Layer, most: int = MOST_CELLS, *, scale: Scale = "linear", name: str = "weights"
) -> list[Panel]:
    """Return a panel for each head of the layer, at most ``most`` cells a side."""
    drawn = []
    signed = layer.value != "weights"
    for head in heads(layer, name):
        values = _shares(head.values) if scale == "row" else head.values
        reduce = furthest if signed else greatest
        values, hidden = pooled(values, head.hidden, most, reduce)
        empty = np.asarray(hidden.all(axis=1))
        given = (head.values.shape[0], head.values.shape[1])
        unusual = unusual_sums([head])
        drawn.append(Panel(values, hidden, empty, layer.shape, given, unusual, layer.value))
    return drawn


def unusual_sums(drawn: Iterable[Head]) -> tuple[float, float] | None:
    """Return the least and greatest sum of the rows that attend, if not all of them are 1."""
    all_of = list(drawn)
    if all(head.sums for head in all_of):
        return None
    totals = np.concatenate([head.totals[~head.hidden.all(axis=1)] for head in all_of])
    return float(np.fmin.reduce(totals)), float(np.fmax.reduce(totals))


def _shares(values: Array) -> Array:
    """Return each number relative to the greatest of its row; what is not finite stays so."""
    top = np.fmax.reduce(np.abs(values), axis=1, keepdims=True, initial=0.0)
    shares: Array = np.divide(values, top, out=values.copy(), where=top > 0)
    return shares


def greatest_of(drawn: Sequence[Panel]) -> float:
    """Return the greatest finite distance from 0 of all visible cells."""
    tops = [np.fmax.reduce(np.abs(p.values), axis=None, initial=0.0) for p in drawn]
    return max(map(float, tops), default=0.0)


def norm(drawn: Sequence[Panel], scale: Scale, vmax: float | None = None) -> Normalize:
    """Return the one colour scale that all the panels share; 0 is in the middle if they differ."""
    signed = drawn[0].value != "weights"
    if scale == "row":
        return CenteredNorm(0.0, 1.0) if signed else Normalize(0.0, 1.0)
    top = (greatest_of(drawn) if vmax is None else _checks.positive("vmax", vmax)) or 1.0
    least = top * 10.0**-DECADES
    if scale == "log":
        if signed:
            return SymLogNorm(least, vmin=-top, vmax=top, clip=True)
        return LogNorm(least, top, clip=True)
    return CenteredNorm(0.0, top) if signed else Normalize(0.0, top)


def draw(
    ax: Axes,
    panel: Panel,
    norm: Normalize,
    *,
    cmap: str | Colormap | None,
    signed: bool | None = None,
    hatched: bool | None = None,
    crossed: bool = True,
    **options: Any,
) -> Cells:
    """Draw a panel: cells in colour, masked cells left open over a hatched ground.

    ``hatched`` is by default whether any cell is masked, ``signed`` what the panel says.
    """
    T, S = panel.shape
    signed = panel.value != "weights" if signed is None else signed
    steady(ax)
    framed(ax)
    # The hatch lies below the image and shows through the holes: one rectangle for any mask.
    if panel.hidden.any() if hatched is None else hatched:
        ax.add_patch(Rectangle((-0.5, -0.5), S, T, zorder=-2, **masked_style(ax)))
    for first, end in runs(panel.empty):
        rows = T / len(panel.empty)
        place = (-0.5, first * rows - 0.5)
        ax.add_patch(Rectangle(place, S, (end - first) * rows, zorder=-1, **empty_style(ax)))
    cells = Cells(
        ax,
        shown(panel),
        norm=norm,
        cmap=open_where_bad(DIVERGING if cmap is None and panel.value != "weights" else cmap),
        extent=(-0.5, S - 0.5, T - 0.5, -0.5),
        reduce=furthest if signed else greatest,
        **options,
    )
    ax.add_image(cells)
    cells.set_clip_path(ax.patch)
    if crossed:
        _cross(ax, np.isnan(panel.values), panel.shape)
    ax.set(xlim=(-0.5, S - 0.5), ylim=(T - 0.5, -0.5))
    ax.set_aspect("equal" if 0.25 <= T / S <= 4 else "auto", adjustable="box")
    return cells


def _cross(ax: Axes, cells: Array, shape: tuple[int, int]) -> None:
    """Hatch cells over their colour, so that they are told apart in grey, too."""
    if cells.any():
        outline = outlined(cells, shape)
        if len(outline) <= 5 * CROSSED:
            style = {key: bad_style()[key] for key in ("hatch", "edgecolor", "linewidth")}
            ax.add_patch(PathPatch(outline, fill=False, zorder=0.5, **style))


def shown(panel: Panel) -> Any:
    """Return what the colours stand for; masked where keys are hidden."""
    return np.ma.masked_array(panel.values, panel.hidden)


def open_where_bad(cmap: str | Colormap | None) -> Colormap:
    """Return the colour map (None: the user's own) that leaves cells without a value open."""
    named = mpl.rcParams["image.cmap"] if cmap is None else cmap
    return mpl.colormaps.get_cmap(named).with_extremes(bad=(0, 0, 0, 0))


def what(scale: Scale, drawn: Sequence[Panel]) -> str:
    """Return what the colours mean, in words."""
    panel = drawn[0]
    notes = []
    if panel.given != panel.shape:
        rows, cols = (-(-n // m) for n, m in zip(panel.shape, panel.given, strict=True))
        notes.append(f"mean of {rows} queries, sum of {cols} keys")
    if unusual := [p.unusual for p in drawn if p.unusual is not None]:
        least, most = zip(*unusual, strict=True)
        notes.append(unusual_note((min(least), max(most))))
    name = NAMES[panel.value]
    name = f"{name} / greatest of its row" if scale == "row" else name
    return "\n".join([name, *(f"({note})" for note in notes)])


BAD = "NaN or infinite"
"""What the legend of every figure calls numbers that are not finite."""

ZERO = "exactly 0"
"""What the legend of a figure calls weights that are seen, and nothing."""


def unusual_note(sums: tuple[float, float]) -> str:
    """Return what a figure says of maps that are no distributions over the keys."""
    least, most = (f"{total:.3g}" for total in sums)
    return f"rows do not sum to 1, but to {least}" + ("" if least == most else f" to {most}")


def marks(ax: Axes, panel: Panel) -> None:
    """Mark the cells of a small map that colours don't tell: those below 0, and exact zeros."""
    if panel.values.size > MARKED or panel.values.shape != panel.shape:
        return
    if panel.value == "weights":
        zero = (panel.values == 0) & ~panel.hidden
        if zero.any():
            _points(ax, zero, ".", ink(0.5, ax), 0.16)
        return
    top = float(np.fmax.reduce(np.abs(panel.values), axis=None, initial=0.0)) or 1.0
    # In black or white, whichever shows.
    strong, faint = panel.values < -0.6 * top, panel.values < -FAINT * top
    _points(ax, strong & faint, "_", "white", 0.3)
    _points(ax, faint & ~strong, "_", "black", 0.3)


def _points(ax: Axes, cells: Array, marker: str, colour: Any, share: float) -> None:
    """Put a marker into cells, that share of a cell wide."""
    rows, cols = np.nonzero(cells)
    cell = 72 * root(ax).get_size_inches()[1] * ax.get_position().height / max(cells.shape)
    options: dict[str, Any] = {"markersize": min(share * cell, 7), "markeredgewidth": 0.8}
    ax.plot(cols, rows, marker=marker, linestyle="", color=colour, **options)


def masked_style(ax: Axes | None = None) -> dict[str, Any]:
    """Return how masked cells look: a light hatch that no colour map contains."""
    return {"facecolor": ink(0.05, ax), "edgecolor": ink(0.45, ax), "hatch": "////", "linewidth": 0}


def empty_style(ax: Axes | None = None) -> dict[str, Any]:
    """Return how the row of a query that may attend to nothing looks: hatched both ways."""
    return {"facecolor": ink(0.05, ax), "edgecolor": ink(0.75, ax), "hatch": "xxxx", "linewidth": 0}


def bad_style() -> dict[str, Any]:
    """Return how numbers that are not finite look: a colour of no colour map, crossed in white."""
    return {"facecolor": NOT_FINITE, "edgecolor": "white", "hatch": "xxx", "linewidth": 0}


def colour_bar(
    image: ScalarMappable,
    axes: Sequence[Axes],
    drawn: Sequence[Panel],
    label: str,
    *,
    masked: str = "masked",
    below: float = 0.0,
) -> None:
    """Add the bar that says what the colours mean, and below it what the hatches mean.

    Bar and hatches together are as high as the axes, so that they cover nothing. In a figure
    without a layout the hatches stand below the axes, whose labels take ``below`` inches there.
    """
    swatches = [
        (masked, masked_style(axes[0]), any(p.hidden[~p.empty].any() for p in drawn)),
        ("empty row", empty_style(axes[0]), any(p.empty.any() for p in drawn)),
        (BAD, bad_style(), any(np.isnan(p.values).any() for p in drawn)),
    ]
    legend = [Patch(label=name, **style) for name, style, used in swatches if used]
    size = points(mpl.rcParams["ytick.labelsize"]) * 0.9
    lines = len(legend) * 1.7 * size / 72
    if len(axes) == 1 and not lays_out(axes[0]):
        if legend:
            legend_beside(axes[0], legend, below=below, right=False)
            legend = []
        options = _within_slot(axes[0], drawn[0].shape)
    else:
        height = slot(axes[0])[1] if len(axes) == 1 else float(root(axes[0]).get_size_inches()[1])
        shrink = float(np.clip(1 - lines / height, 0.4, 1.0))
        options = {"shrink": shrink, "anchor": (0.0, 1.0), "pad": 0.02}
    figure: Any = axes[0].get_figure()
    bar = figure.colorbar(
        image,
        ax=axes[0] if len(axes) == 1 else list(axes),
        label=label,
        aspect=(20 if len(axes) == 1 else 30) * options["shrink"],
        **options,
    )
    if legend:
        bar.ax.legend(
            handles=legend,
            loc="upper left",
            bbox_to_anchor=(-0.5, -0.02),
            frameon=False,
            borderpad=0,
            handlelength=1.4,
            handletextpad=0.5,
            fontsize=size,
        )


def _within_slot(ax: Axes, shape: tuple[int, int]) -> dict[str, Any]:
    """Return where a bar goes that takes its room from ``ax``, as high as the map will be.

    Without a layout nobody else sees to it that a neighbour, which begins where the axes end, is
    not written over.
    """
    width, height = slot(ax)
    fraction, pad = min(0.8 / width, 0.4), min(0.08 / width, 0.1)
    wide = width * (1 - fraction - pad)
    square = 0.25 <= shape[0] / shape[1] <= 4
    high = min(height, wide * shape[0] / shape[1]) if square else height
    return {"fraction": fraction, "pad": pad, "shrink": high / height, "anchor": (0.0, 0.5)}


def outlined(cells: Array, shape: tuple[int, int]) -> Path:
    """Return the cells as one path of rectangles, each as many equal rows high as there are."""
    rows, cols = cells.shape
    high, wide = shape[0] / rows, shape[1] / cols
    changes = np.flatnonzero((cells[1:] != cells[:-1]).any(axis=1)) + 1
    boxes = [
        (left * wide, top * high, right * wide, bottom * high)
        for top, bottom in zip([0, *changes], [*changes, rows], strict=True)
        for left, right in runs(cells[top])
    ]
    x0, y0, x1, y1 = np.array(boxes).T - 0.5
    corners = np.stack([x0, y0, x1, y0, x1, y1, x0, y1, x0, y0], axis=1).reshape(-1, 2)
    codes = np.tile([Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY], len(boxes))
    return Path(corners, codes)


def runs(flags: Array) -> list[tuple[int, int]]:
    """Return (first, end) of every run of True."""
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
