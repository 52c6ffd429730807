"""The image of a map's cells: where they are smaller than a pixel, the greatest one is seen."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.colors import Colormap, Normalize, to_rgba
from matplotlib.image import AxesImage
from matplotlib.transforms import Affine2D, Bbox

from miniattn._typing import Array

Reduce = Callable[[Array, Array, int], Array]
"""(cells, where each run begins, axis) -> one cell for each run."""

NOT_FINITE = "#E6007E"  # no colour map of matplotlib's perceptual ones comes near it
HIDDEN = -np.inf  # within this file: lower than anything that is seen


def greatest(cells: Array, starts: Array, axis: int) -> Array:
    """Return the greatest of each run; NaN wins, hidden cells lose."""
    longest: Array = np.maximum.reduceat(cells, starts, axis=axis)
    return longest


def furthest(cells: Array, starts: Array, axis: int) -> Array:
    """Return of each run the value furthest from 0, with its sign; NaN wins, hidden cells lose."""
    high = np.maximum.reduceat(cells, starts, axis=axis)
    low = np.minimum.reduceat(np.where(cells == HIDDEN, np.inf, cells), starts, axis=axis)
    return np.where(-low > high, low, high)


def pooled(values: Array, hidden: Array, most: int, reduce: Reduce) -> tuple[Array, Array]:
    """Return (values, hidden) with at most ``most`` cells a side, of equal runs of cells."""
    if max(values.shape) <= most:
        return values, hidden
    values = np.where(hidden, HIDDEN, values)
    for axis, n in enumerate(values.shape):
        if n > most:
            values = reduce(values, np.arange(0, n, -(-n // most)), axis)
    return np.where(values == HIDDEN, 0.0, values), values == HIDDEN


class Cells(AxesImage):
    """An image of cells that is drawn the same way in every file, size and style.

    The first row is at the top. A pixel that holds several cells shows the greatest, whether of a
    PNG or of the image within an SVG or PDF: with any other choice a single heavy column of a long
    map could be left out or thinned. No smoothing. Hidden cells are left open, and cells that are
    not finite have a colour of their own.

    Parameters
    ----------
    values : (rows, cols) masked array
        What the colours stand for. Masked where hidden, over a finite number; NaN is NaN.
    extent : (left, right, bottom, top)
        Where the outer edges are.
    fade : bool
        Whether a cell covers what lies below in proportion to its place on the scale.
    """

    def __init__(
        self,
        ax: Axes,
        values: Array,
        *,
        cmap: Colormap,
        norm: Normalize,
        extent: tuple[float, float, float, float],
        reduce: Reduce = greatest,
        fade: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            ax,
            cmap=cmap,
            norm=norm,
            interpolation="nearest",
            origin="upper",
            extent=extent,
            interpolation_stage="data",
            **options,
        )
        self.reduce = reduce
        self.fade = fade
        self.set_data(values)

    def make_image(
        self, renderer: RendererBase, magnification: float = 1.0, unsampled: bool = False
    ) -> tuple[Array, float, float, Affine2D]:
        """Return the pixels (from the bottom up) and where they go, as matplotlib asks for."""
        left, right, bottom, top = self.get_extent()
        corners = self.get_transform().transform([(left, bottom), (right, top)]) * magnification
        seen = Bbox.intersection(
            Bbox.from_extents(*corners.min(axis=0), *corners.max(axis=0)),
            Bbox.from_extents(*(np.asarray(self.axes.bbox.extents) * magnification)),
        )
        if seen is None:  # matplotlib knows this answer, its types don't
            return cast(Array, None), 0, 0, Affine2D()
        x0, y0, x1, y1 = np.rint(seen.extents).astype(int)
        x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
        cells = self._cells()
        # Row 0 of the cells is at the top of the extent, row 0 of the pixels at the bottom.
        down = _span(corners[1, 1], corners[0, 1], seen.y0, seen.y1, cells.shape[0], y1 - y0)
        across = _span(corners[0, 0], corners[1, 0], seen.x0, seen.x1, cells.shape[1], x1 - x0)
        rgba = self._colours(across.gather(down.gather(cells, 0, self.reduce), 1, self.reduce))
        pixels = np.ascontiguousarray(rgba[down.shows][:, across.shows])
        return pixels, x0 / magnification, y0 / magnification, Affine2D()

    def _cells(self) -> Array:
        """Return the values, HIDDEN where hidden, NaN where not finite."""
        given: Any = self.get_array()
        values = np.asarray(given.data, np.promote_types(given.dtype, np.float32))
        mask = np.ma.getmaskarray(given)  # matplotlib masks what is not finite, too
        return np.where(np.isfinite(values), np.where(mask, HIDDEN, values), np.nan)

    def _colours(self, cells: Array) -> Array:
        """Return the colours of cells, (..., 4) uint8."""
        hidden, bad = cells == HIDDEN, np.isnan(cells)
        values = np.ma.masked_array(np.where(hidden | bad, 0, cells), hidden | bad)
        rgba = np.array(self.to_rgba(values, alpha=1.0, bytes=True))
        if self.fade:
            rgba[..., 3] = np.rint(255 * np.clip(np.ma.filled(self.norm(values), 0.0), 0, 1))
        rgba[bad] = np.rint(255 * np.array(to_rgba(NOT_FINITE)))
        alpha = self.get_alpha()
        rgba[..., 3] = np.rint(rgba[..., 3] * (1.0 if alpha is None else alpha))
        rgba[hidden] = 0
        return rgba


class _Span(NamedTuple):
    """How the cells of one axis become pixels."""

    starts: Array | None
    """Where each run of cells begins that is one pixel; None if no pixel holds several."""
    end: int
    """Where the last run ends."""
    shows: Array
    """(pixels,) the gathered cell that each pixel shows."""

    def gather(self, cells: Array, axis: int, reduce: Reduce) -> Array:
        """Return the cells with each run as one."""
        if self.starts is None:
            return cells
        kept = cells[: self.end] if axis == 0 else cells[:, : self.end]
        return reduce(kept, self.starts, axis)


def _span(first: float, last: float, low: float, high: float, count: int, pixels: int) -> _Span:
    """Return how ``count`` cells from position ``first`` to ``last`` fill pixels low .. high.

    The pixels are stretched over low .. high, which rounding has moved by less than one.
    """
    from_, to = sorted((at - first) / (last - first) * count for at in (low, high))
    edges = np.linspace(np.clip(from_, 0, count), np.clip(to, 0, count), pixels + 1)
    backwards = last < first
    order = np.arange(pixels)[::-1] if backwards else np.arange(pixels)
    if edges[-1] - edges[0] <= pixels:
        middle = np.floor((edges[:-1] + edges[1:]) / 2).astype(int).clip(0, count - 1)
        return _Span(None, count, middle[order])
    # A cell belongs to the pixel that holds its middle: with more cells than pixels, each has one.
    bounds = np.ceil(edges - 0.5 - 1e-9).astype(int).clip(0, count)
    return _Span(bounds[:-1], max(int(bounds[-1]), int(bounds[-2]) + 1), order)
