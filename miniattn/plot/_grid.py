"""From heads to panels: pooling, scales, masked cells and empty rows, the colour bar."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import CenteredNorm, Colormap, LogNorm, Normalize
from matplotlib.patches import Patch, PathPatch, Rectangle
from matplotlib.path import Path

from miniattn import _checks
from miniattn._typing import Array, MaskLike
from miniattn.plot._canvas import framed, ink, lays_out, legend_beside, points, root, slot, steady
from miniattn.plot._cells import NOT_FINITE, Cells, furthest, greatest, pooled
from miniattn.plot._scales import SCALES as SCALES
from miniattn.plot._scales import Scale as Scale
from miniattn.plot._source import Layer, heads

MOST_CELLS = 1024
"""Cells kept per side; more than a page shows, and a bound on the memory of a figure."""

DECADES = 4
"""A log scale shows this many powers of ten below the greatest weight."""

CROSSED = 2_000
"""Cells that are not finite are crossed as well as coloured if no more boxes hold them all."""


class MapOptions(TypedDict, total=False):
    """What the functions that draw maps share."""

    mask: MaskLike
    layer: str | int | None
    head: int | None
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
    sums: bool
    """Whether each row sums to 1 or to 0."""


def panels(
    layer: Layer,
    most: int = MOST_CELLS,
    *,
    scale: Scale = "linear",
    signed: bool = False,
    name: str = "weights",
) -> list[Panel]:
    """Return a panel for each head of the layer, at most ``most`` cells a side."""
    drawn = []
    for head in heads(layer, name, signed=signed):
        values = _shares(head.values) if scale == "row" else head.values
        reduce = furthest if signed else greatest
        values, hidden = pooled(values, head.hidden, most, reduce)
        empty = np.asarray(hidden.all(axis=1))
        given = (head.values.shape[0], head.values.shape[1])
        drawn.append(Panel(values, hidden, empty, layer.shape, given, head.sums))
    return drawn


def _shares(values: Array) -> Array:
    """Return each weight relative to the greatest of its row; what is not finite stays so."""
    top = np.fmax.reduce(values, axis=1, keepdims=True, initial=0.0)
    shares: Array = np.divide(values, top, out=values.copy(), where=top > 0)
    return shares


def _greatest(drawn: Sequence[Panel]) -> float:
    """Return the greatest finite distance from 0 of all visible cells."""
    tops = [np.fmax.reduce(np.abs(p.values), axis=None, initial=0.0) for p in drawn]
    return max(map(float, tops), default=0.0)


def norm(drawn: Sequence[Panel], scale: Scale, vmax: float | None = None) -> Normalize:
    """Return the one colour scale that all the panels share."""
    if scale == "row":
        return Normalize(0.0, 1.0)
    top = (_greatest(drawn) if vmax is None else _checks.positive("vmax", vmax)) or 1.0
    if scale == "log":
        return LogNorm(top * 10.0**-DECADES, top, clip=True)
    return Normalize(0.0, top)


def centred(drawn: Sequence[Panel]) -> CenteredNorm:
    """Return a scale with zero in the middle, for signed values."""
    return CenteredNorm(0.0, _greatest(drawn) or 1.0)


def draw(
    ax: Axes,
    panel: Panel,
    norm: Normalize,
    *,
    cmap: str | Colormap | None,
    signed: bool = False,
    hatched: bool | None = None,
    crossed: bool = True,
    **options: Any,
) -> Cells:
    """Draw a panel: cells in colour, masked cells left open over a hatched ground.

    ``hatched`` is by default whether any cell is masked.
    """
    T, S = panel.shape
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
        cmap=open_where_bad(cmap),
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


def what(scale: Scale, drawn: Sequence[Panel], name: str = "attention weight") -> str:
    """Return what the colours mean, in words."""
    panel = drawn[0]
    notes = []
    if panel.given != panel.shape:
        rows, cols = (-(-n // m) for n, m in zip(panel.shape, panel.given, strict=True))
        notes.append(f"mean of {rows} queries, sum of {cols} keys")
    if name == "attention weight" and not all(p.sums for p in drawn):
        notes.append(UNUSUAL_SUMS)
    name = f"{name} / greatest of its row" if scale == "row" else name
    return "\n".join([name, *(f"({note})" for note in notes)])


BAD = "NaN or infinite"
"""What the legend of every figure calls numbers that are not finite."""

UNUSUAL_SUMS = "rows do not sum to 1"
"""What a figure says of maps that are no distributions over the keys."""


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
