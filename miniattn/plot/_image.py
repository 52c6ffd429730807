"""Attention over the pixels or patches of an image."""

from typing import TypedDict, Unpack, overload

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from miniattn import _checks
from miniattn.plot import _grid
from miniattn.plot._canvas import Figure, axes_of

_BAR = 1.2  # inches that the colour bar and its labels take


class ImageOptions(TypedDict, total=False):
    """The options of `attention_on_image`."""

    alpha: float | None
    scale: _grid.Scale
    cmap: str | Colormap | None
    vmax: float | None
    colorbar: bool
    title: str | None


@overload
def attention_on_image(
    weights: ArrayLike, image: ArrayLike | None = ..., *, ax: Axes, **options: Unpack[ImageOptions]
) -> Axes: ...


@overload
def attention_on_image(
    weights: ArrayLike,
    image: ArrayLike | None = ...,
    *,
    ax: None = ...,
    **options: Unpack[ImageOptions],
) -> Figure: ...


def attention_on_image(
    weights: ArrayLike,
    image: ArrayLike | None = None,
    *,
    ax: Axes | None = None,
    alpha: float | None = None,
    scale: _grid.Scale = "linear",
    cmap: str | Colormap | None = None,
    vmax: float | None = None,
    colorbar: bool = True,
    title: str | None = None,
) -> Figure | Axes:
    """Draw what one query, or the mean of many, attends to, over the image that it looks at.

    Each weight covers its pixel or, where there are fewer weights than pixels, its patch. A place
    that is no key (NaN) is hatched, so that it is not taken for a weight of zero.

    Parameters
    ----------
    weights : (rows, cols) array
        A weight for each pixel or patch; NaN where the sequence has no such place.
    image : (height, width) or (height, width, 3 or 4) array, optional
        Grey, or colours in [0, 1] or uint8. Its sides are multiples of rows and cols.
    ax : matplotlib Axes, optional
        Where to draw. By default a new figure is made.
    alpha : float in [0, 1], optional
        How much the weights cover the image. By default a weight covers in proportion to its size,
        so that what is not attended to stays as it is; without an image they cover fully.
    scale : {"linear", "log", "row"}
        Colour by the weight, by its logarithm (four decades), or relative to the greatest.
    cmap : str or Colormap, optional
        By default ``rcParams["image.cmap"]``.
    vmax : float, optional
        The weight of the last colour; by default the greatest weight.
    colorbar : bool, default True
        Whether to add a colour bar.
    title : str, optional
        Title of the axes.

    Returns
    -------
    Axes or Figure
        ``ax`` if it was given, else the new figure.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the weights are not one map, or the image cannot be cut into as many patches; the
        message states both shapes.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import plot
    >>> fig = plot.attention_on_image(np.eye(4) / 4, np.zeros((8, 8)))   # 2 x 2 pixels a patch
    >>> fig.savefig("patches.png")  # doctest: +SKIP
    """
    _checks.choice("scale", scale, _grid.SCALES)
    colorbar = _checks.flag("colorbar", colorbar)
    cells = _grid.real("weights", weights, ["rows, cols"])
    rows, cols = cells.shape
    absent = np.isnan(cells)
    panel = _grid.Panel(cells, absent, np.zeros(rows, bool), (rows, cols), pooled=False)
    ax, result = axes_of(ax, 4.0 * (cols / max(rows, 1)) ** 0.5 + _BAR, 4.0)

    norm = _grid.norm([panel], scale, vmax)
    shown = cells / (np.nanmax(cells, initial=0.0) or 1.0) if scale == "row" else cells
    cover: float | np.ndarray = 1.0 if alpha is None else alpha
    if image is not None:
        _background(ax, image, (rows, cols))
        if alpha is None:
            cover = np.clip(np.nan_to_num(norm(shown).filled(0.0)), 0.0, 1.0)
    # The hatch lies below the weights and above the image: one rectangle shows through the holes.
    if absent.any() and image is None:
        ax.add_patch(Rectangle((-0.5, -0.5), cols, rows, zorder=-2, **_grid.masked_style()))
    drawn = ax.imshow(
        np.ma.masked_invalid(shown),
        norm=norm,
        alpha=cover,
        cmap=_grid.open_where_bad(cmap),
        extent=(-0.5, cols - 0.5, rows - 0.5, -0.5),
    )
    ax.set(xticks=[], yticks=[], title=title)
    if colorbar:
        label = _grid.what(scale, panel)
        # The bar shows the colours themselves, not transparent ones.
        opaque = ScalarMappable(norm, drawn.cmap)
        _grid.colour_bar(opaque, [ax], [panel], label, masked="not in the sequence")
    return result


def _background(ax: Axes, image: ArrayLike, grid: tuple[int, int]) -> None:
    """Draw the image, in grey where it has no colours, over the cells of the grid."""
    pixels = np.asarray(image)
    if pixels.dtype.kind not in "fiub":
        raise TypeError(f"image: expected an array of real numbers, got {pixels.dtype}")
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
        raise ValueError(
            f"image: expected shape (height, width) or (height, width, 3 or 4), got {pixels.shape}"
        )
    rows, cols = grid
    if not rows or not cols or pixels.shape[0] % rows or pixels.shape[1] % cols:
        raise ValueError(
            f"image: expected sides that are multiples of the weights' shape {grid}, "
            f"got {pixels.shape[:2]}"
        )
    ax.imshow(pixels, cmap="gray", extent=(-0.5, cols - 0.5, rows - 0.5, -0.5), zorder=-3)
