"""Attention over the pixels or patches of an image."""

from typing import TypedDict, Unpack, overload

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap
from matplotlib.patches import PathPatch
from numpy.typing import ArrayLike

from miniattn import _checks
from miniattn._typing import MaskLike
from miniattn.plot import _grid
from miniattn.plot._canvas import Figure, axes_of
from miniattn.plot._source import layers, real

_BAR = 1.2  # inches that the colour bar and its labels take


class ImageOptions(TypedDict, total=False):
    """The options of `attention_on_image`."""

    mask: MaskLike
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
    mask: MaskLike = None,
    alpha: float | None = None,
    scale: _grid.Scale = "linear",
    cmap: str | Colormap | None = None,
    vmax: float | None = None,
    colorbar: bool = True,
    title: str | None = None,
) -> Figure | Axes:
    """Draw what one query, or the mean of many, attends to, over the image that it looks at.

    Each weight covers its pixel or, where there are fewer weights than pixels, its patch. A place
    that is no key is hatched, so that it is not taken for a weight of zero.

    Parameters
    ----------
    weights : (rows, cols) array
        A weight for each pixel or patch. What a masked array hides is not in the sequence.
    image : (height, width) or (height, width, 3 or 4) array, optional
        Grey, or colours in [0, 1] or uint8. Its sides are multiples of rows and cols.
    ax : matplotlib Axes, optional
        Where to draw. By default a new figure is made.
    mask : bool array that broadcasts to (rows, cols), optional
        False where the sequence has no such place.
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
        Whether a bar beside the image says what its colours mean.
    title : str, optional
        Title of the axes.

    Returns
    -------
    Axes or Figure
        ``ax`` if it was given, else a new figure of the image alone.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the weights are not one map, if one is below 0, or if the image cannot be cut into as
        many patches; the message states both shapes.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import plot
    >>> fig = plot.attention_on_image(np.eye(4) / 4, np.zeros((8, 8)))   # 2 x 2 pixels a patch
    >>> fig.savefig("patches.png")  # doctest: +SKIP
    """
    _checks.choice("scale", scale, _grid.SCALES)
    colorbar = _checks.flag("colorbar", colorbar)
    given = layers(real("weights", weights, ["rows, cols"]), mask=mask)[0]
    [panel] = _grid.panels(given)
    rows, cols = panel.shape
    # No row of an image is a query without keys, and nothing has to sum to 1.
    panel = panel._replace(empty=np.zeros(len(panel.values), bool), unusual=None)
    if scale == "row":
        top = float(np.fmax.reduce(panel.values, axis=None, initial=0.0)) or 1.0
        panel = panel._replace(values=panel.values / top)
    ax, result = axes_of(ax, 4.0 * (cols / max(rows, 1)) ** 0.5 + _BAR, 4.0)
    norm = _grid.norm([panel], scale, vmax)
    if image is not None:
        _background(ax, image, panel.shape)
    drawn = _grid.draw(
        ax,
        panel,
        norm,
        cmap=cmap,
        alpha=alpha,
        fade=image is not None and alpha is None,
        hatched=image is None and bool(panel.hidden.any()),
    )
    if image is not None and panel.hidden.any():
        style = {key: _grid.masked_style(ax)[key] for key in ("hatch", "edgecolor", "linewidth")}
        outline = _grid.outlined(panel.hidden, panel.shape)
        ax.add_patch(PathPatch(outline, fill=False, zorder=0.5, **style))
    ax.set_aspect("equal", adjustable="box")
    ax.set(xticks=[], yticks=[], title=title)
    if colorbar:
        label = _grid.what(scale, [panel]).replace("greatest of its row", "the greatest")
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
    ax.imshow(
        pixels,
        cmap="gray",
        extent=(-0.5, cols - 0.5, rows - 0.5, -0.5),
        origin="upper",
        interpolation="antialiased",
        zorder=-3,
    )
