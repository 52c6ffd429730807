"""From weights to one panel: pooling, scales, masked cells and empty rows, the colour bar."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import CenteredNorm, Colormap, LogNorm, Normalize
from matplotlib.image import AxesImage
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from miniattn import _checks, masks
from miniattn.plot._canvas import ink, points
from miniattn.plot._scales import SCALES as SCALES
from miniattn.plot._scales import Scale as Scale
from miniattn.plot._visible import visible_cells

Array = NDArray[Any]

MOST_CELLS = 1024
"""Cells drawn per side; more than a page shows, and a bound on the memory of a figure."""

DECADES = 4
"""A log scale shows this many powers of ten below the greatest weight."""


class MapOptions(TypedDict, total=False):
    """What the functions that draw maps share."""

    mask: object
    scale: Scale
    cmap: str | Colormap | None
    vmax: float | None
    extent: tuple[int, int] | None
    colorbar: bool
    title: str | None


class Panel(NamedTuple):
    """What is drawn of one T x S map."""

    values: Array
    """(rows, cols) the weights, pooled where there are too many."""
    hidden: Array
    """(rows, cols) bool: cells in which every key is masked."""
    empty: Array
    """(rows,) bool: rows in which no query may attend to anything."""
    shape: tuple[int, int]
    """(T, S) before any pooling, which is what the axes count."""
    pooled: bool


def real(name: str, x: object, letters: Sequence[str]) -> Array:
    """Return ``x`` as a float array whose shape fits one of ``letters``."""
    array = np.asarray(x)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name}: expected an array of real numbers, got {array.dtype}")
    for spelling in letters:
        if array.ndim == len(spelling.split(",")):
            return array.astype(np.promote_types(array.dtype, np.float32), copy=False)
    expected = " or ".join(f"({spelling})" for spelling in letters)
    hint = "; choose a batch row or a head, e.g. weights[0]" if array.ndim > 2 else ""
    raise ValueError(f"{name}: expected shape {expected}, got {array.shape}{hint}")


def panels(
    weights: Array,
    mask: object = None,
    extent: tuple[int, int] | None = None,
    most: int = MOST_CELLS,
) -> list[Panel]:
    """Return a panel for each of the weights (H, rows, cols), at most ``most`` cells a side."""
    heads, *bins = weights.shape
    if 0 in bins:
        raise ValueError(f"weights: expected at least one query and key, got (T, S) = {(*bins,)}")
    T, S = _extent(extent, (bins[0], bins[1]))
    rows, cols = (edges(n, count) for n, count in zip((T, S), bins, strict=True))
    fewer_rows, fewer_cols = fewer(rows, most), fewer(cols, most)
    hidden = _hidden(mask, heads, (T, S), (fewer_rows, fewer_cols))
    return [
        Panel(
            pool(w, (rows, cols), (fewer_rows, fewer_cols)),
            h,
            np.asarray(h.all(axis=1)),
            (T, S),
            pooled=(T, S) != h.shape,
        )
        for w, h in zip(weights, hidden, strict=True)
    ]


def edges(n: int, bins: int) -> Array:
    """Return the bounds of the bins of `miniattn.functional.attention_map`."""
    return np.arange(bins + 1) * n // max(bins, 1)


def fewer(bounds: Array, most: int) -> Array:
    """Return the bounds of at most ``most`` bins, each of equally many of the given ones."""
    bins = len(bounds) - 1
    return np.append(bounds[: bins : max(-(-bins // most), 1)], bounds[-1])


def pool(x: Array, bounds: tuple[Array, Array], wider: tuple[Array, Array]) -> Array:
    """Return the mean over queries of the sum over keys, from narrow bins to wider ones.

    This is what `miniattn.functional.attention_map` pools, so that the two may follow each other.
    """
    (rows, cols), (wide_rows, wide_cols) = bounds, wider
    if len(cols) != len(wide_cols):
        x = np.add.reduceat(x, np.searchsorted(cols, wide_cols[:-1]), axis=1)
    if len(rows) != len(wide_rows):
        x = x * np.diff(rows)[:, None].astype(x.dtype)
        x = np.add.reduceat(x, np.searchsorted(rows, wide_rows[:-1]), axis=0)
        x /= np.diff(wide_rows)[:, None]
    return x


def _extent(extent: tuple[int, int] | None, drawn: tuple[int, int]) -> tuple[int, int]:
    if extent is None:
        return drawn
    T, S = (_checks.integer("extent", n, least=1) for n in extent)
    if T < drawn[0] or S < drawn[1]:
        raise ValueError(f"extent: expected at least the shape of the map, {drawn}, got {(T, S)}")
    return T, S


def _hidden(
    mask: object, heads: int, full: tuple[int, int], bounds: tuple[Array, Array]
) -> list[Array]:
    """Return the cells (rows, cols) in which every key is hidden, for each head."""
    if masks.as_mask(mask) is None:
        return [np.zeros([len(b) - 1 for b in bounds], np.bool_)] * heads
    form = masks.lower(mask, 1, heads, *full)
    kinds = min(heads, max(form.dense.shape[1], 1))  # a rule is the same in all heads
    cells: list[Array] = [~visible_cells(form, 0, h, *bounds) for h in range(kinds)]
    return cells if kinds == heads else cells * heads


def norm(drawn: Sequence[Panel], scale: Scale, vmax: float | None = None) -> Normalize:
    """Return the one colour scale that all the panels share."""
    if scale == "row":
        return Normalize(0.0, 1.0)
    finite = [p.values[np.isfinite(p.values) & ~p.hidden] for p in drawn]
    greatest = max((float(v.max()) for v in finite if v.size), default=0.0)
    top = (greatest if vmax is None else _checks.positive("vmax", vmax)) or 1.0
    if scale == "log":
        return LogNorm(top * 10.0**-DECADES, top, clip=True)
    return Normalize(0.0, top)


def centred(drawn: Sequence[Panel]) -> CenteredNorm:
    """Return a scale with zero in the middle, for signed values."""
    finite = [np.abs(p.values[np.isfinite(p.values) & ~p.hidden]) for p in drawn]
    return CenteredNorm(0.0, max((float(v.max()) for v in finite if v.size), default=0.0) or 1.0)


def draw(
    ax: Axes, panel: Panel, norm: Normalize, *, scale: Scale = "linear", cmap: str | Colormap | None
) -> AxesImage:
    """Draw a panel: cells in colour, masked cells left open over a hatched ground."""
    T, S = panel.shape
    # The hatch lies below the image and shows through the holes: one rectangle for any mask.
    if panel.hidden.any():
        ax.add_patch(Rectangle((-0.5, -0.5), S, T, zorder=-2, **masked_style()))
    for first, end in runs(panel.empty):
        rows = T / len(panel.empty)
        ax.add_patch(
            Rectangle(
                (-0.5, first * rows - 0.5), S, (end - first) * rows, zorder=-1, **empty_style()
            )
        )
    return ax.imshow(
        shown(panel, scale),
        norm=norm,
        interpolation_stage="data",  # of colours takes 300 MiB more for a large map at 300 dpi
        cmap=open_where_bad(cmap),
        aspect="equal" if 0.25 <= T / S <= 4 else "auto",
        extent=(-0.5, S - 0.5, T - 0.5, -0.5),
    )


def shown(panel: Panel, scale: Scale) -> Any:
    """Return what the colours stand for; masked where keys are hidden."""
    values = panel.values
    if scale == "row" and values.size:
        top = values.max(axis=1, keepdims=True, initial=0.0)
        values = np.divide(values, top, out=np.zeros_like(values), where=top > 0)
    return np.ma.masked_array(values, panel.hidden)


def open_where_bad(cmap: str | Colormap | None) -> Colormap:
    """Return the colour map (None: the user's own) that leaves cells without a value open."""
    named = mpl.rcParams["image.cmap"] if cmap is None else cmap
    return mpl.colormaps.get_cmap(named).with_extremes(bad=(0, 0, 0, 0))


def what(scale: Scale, panel: Panel, name: str = "attention weight") -> str:
    """Return what the colours mean, in words."""
    rows, cols = (-(-n // m) for n, m in zip(panel.shape, panel.values.shape, strict=True))
    name = f"{name} / greatest of its row" if scale == "row" else name
    return f"{name}\n(mean of {rows} queries, sum of {cols} keys)" if panel.pooled else name


def masked_style() -> dict[str, Any]:
    """Return how masked cells look: a light hatch that no colour map contains."""
    return {"facecolor": ink(0.05), "edgecolor": ink(0.45), "hatch": "////", "linewidth": 0}


def empty_style() -> dict[str, Any]:
    """Return how the row of a query that may attend to nothing looks: hatched both ways."""
    return {"facecolor": ink(0.05), "edgecolor": ink(0.75), "hatch": "xxxx", "linewidth": 0}


def colour_bar(
    image: ScalarMappable,
    axes: Sequence[Axes],
    drawn: Sequence[Panel],
    label: str,
    *,
    masked: str = "masked",
) -> None:
    """Add the bar that says what the colours mean, and below it what the hatches mean."""
    figure = axes[0].figure
    few = len(axes) == 1
    bar = figure.colorbar(image, ax=list(axes), label=label, aspect=20 if few else 30, pad=0.02)
    swatches = [
        (masked, masked_style(), any(p.hidden[~p.empty].any() for p in drawn)),
        ("empty row", empty_style(), any(p.empty.any() for p in drawn)),
    ]
    legend = [Patch(label=name, **style) for name, style, used in swatches if used]
    if legend:
        bar.ax.legend(
            handles=legend,
            loc="upper left",
            bbox_to_anchor=(-0.5, -0.02),
            frameon=False,
            borderpad=0,
            handlelength=1.4,
            handletextpad=0.5,
            fontsize=points(mpl.rcParams["ytick.labelsize"]) * 0.9,
        )


def runs(flags: Array) -> list[tuple[int, int]]:
    """Return (first, end) of every run of True."""
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
