"""A map beside the gradient of the loss by it."""

from typing import Any, TypedDict, Unpack, overload

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from numpy.typing import ArrayLike

from miniattn import _checks
from miniattn._typing import MaskLike
from miniattn.plot import _grid
from miniattn.plot._canvas import Figure, figure, inches
from miniattn.plot._maps import attention_map, both_labels
from miniattn.plot._source import Layer, one_head, one_layer, real
from miniattn.plot._text import Tokens
from miniattn.plot._ticks import label_axes, room
from miniattn.trace import Gradients, Trace

_BAR = 1.5  # inches that a colour bar and its labels take
_LARGEST = 5.0  # inches of a side of either map


class GradientOptions(TypedDict, total=False):
    """The options of `gradient_map`."""

    mask: MaskLike
    layer: str | int | None
    head: int | None
    batch: int
    scale: _grid.Scale
    cmap: str | Colormap | None
    diverging: str | Colormap
    extent: tuple[int, int] | None
    title: str | None


@overload
def gradient_map(
    weights: Trace | ArrayLike,
    dweights: Gradients | ArrayLike,
    tokens: Tokens = ...,
    key_tokens: Tokens = ...,
    *,
    ax: Axes,
    **options: Unpack[GradientOptions],
) -> Axes: ...


@overload
def gradient_map(
    weights: Trace | ArrayLike,
    dweights: Gradients | ArrayLike,
    tokens: Tokens = ...,
    key_tokens: Tokens = ...,
    *,
    ax: None = ...,
    **options: Unpack[GradientOptions],
) -> Figure: ...


def gradient_map(
    weights: Trace | ArrayLike,
    dweights: Gradients | ArrayLike,
    tokens: Tokens = None,
    key_tokens: Tokens = None,
    *,
    ax: Axes | None = None,
    mask: MaskLike = None,
    layer: str | int | None = None,
    head: int | None = None,
    batch: int = 0,
    scale: _grid.Scale = "linear",
    cmap: str | Colormap | None = None,
    diverging: str | Colormap = "RdBu_r",
    extent: tuple[int, int] | None = None,
    title: str | None = None,
) -> Figure | Axes:
    """Draw a map, and beside it the gradient of the loss by each of its weights.

    The gradient's colours are centred at 0: where it is positive, a greater weight would raise
    the loss. Negative cells of a small map are marked by a minus sign, which shows in grey too;
    to print a large one in grey, choose colours whose lightness runs one way, such as "cividis".

    Parameters
    ----------
    weights : (T, S) array or trace.Trace
        A map; of a trace, one head is drawn.
    dweights : (T, S) array or trace.Gradients
        The gradient by it: of a trace, what ``t.gradients(dy)`` returned; or that of
        `miniattn.analysis.weight_gradients`, or any signed numbers.
    tokens, key_tokens, mask, layer, head, batch, scale, cmap, extent
        As in `attention_map`; ``scale`` and ``cmap`` are those of the weights.
    ax : matplotlib Axes, optional
        Where to draw the gradient alone. By default a new figure is made, of both.
    diverging : str or Colormap, default "RdBu_r"
        Colours of the gradient.
    title : str, optional
        Title of the axes, or of the figure.

    Returns
    -------
    Axes or Figure
        ``ax`` if it was given, else a new figure: weights on the left, gradient on the right.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the two arrays are not maps of one shape, or as `attention_map`; gradients may be < 0.

    Examples
    --------
    >>> from miniattn import plot
    >>> fig = plot.gradient_map([[1.0, 0.0], [0.3, 0.7]], [[0.0, 0.2], [-0.1, 0.1]], ["the", "cat"])
    >>> [panel.get_title() for panel in fig.axes[:2]]
    ['weights', 'd loss / d weights']
    """
    _checks.choice("scale", scale, _grid.SCALES)
    if not isinstance(weights, Trace):
        weights = real("weights", weights, ["T, S"])
    options: dict[str, Any] = {"mask": mask, "batch": batch, "extent": extent}
    labelled = {"tokens": tokens, "key_tokens": key_tokens}
    with _checks.renamed(gradients="dweights"):
        of_trace = dweights if isinstance(dweights, Gradients) else None
        given = one_layer(weights, layer, gradients=of_trace, **labelled, **options)
    one = one_head(given, head)
    if of_trace is None:
        one = one._replace(gradients=real("dweights", dweights, ["T, S"])[None])
    [panel] = _grid.panels(_slope(one), name="dweights")
    labels = both_labels(one.tokens, one.key_tokens, panel.shape)
    if ax is not None:
        _gradient(ax, panel, labels, diverging)
        ax.set(ylabel="query", title=title)
        return ax

    T, S = panel.shape
    beside, below = room(*labels, panel.shape)
    width, height = (inches(n, 3.2, _LARGEST) for n in (S, T))
    fig = figure(2 * (width + beside + _BAR), height + below + 0.3)
    left, right = fig.subplots(1, 2)
    attention_map(
        weights,
        tokens,
        key_tokens,
        ax=left,
        layer=layer,
        head=head,
        scale=scale,
        cmap=cmap,
        title="weights",
        **options,
    )
    _gradient(right, panel, labels, diverging)
    right.set_title("d loss / d weights")
    if title is not None:
        fig.suptitle(title)
    return fig


def _slope(one: Layer) -> Layer:
    """Return the gradient as a layer: hidden where the weights are, or where itself is masked."""
    dweights, shape = one.gradients, one.weights.shape[1:]
    if dweights is None:
        raise ValueError(f"dweights: expected those of {one.name}, got none")
    if dweights.shape[1:] != shape:
        raise ValueError(
            f"dweights: expected the shape of weights, {shape}, got {dweights.shape[1:]}"
        )
    hidden = [one.hidden[0] | np.ma.getmaskarray(dweights)[0]]
    return one._replace(weights=np.ma.getdata(dweights), hidden=hidden, value="gradient")


def _gradient(
    ax: Axes,
    panel: _grid.Panel,
    labels: tuple[list[str] | None, list[str] | None],
    cmap: str | Colormap,
) -> None:
    image = _grid.draw(ax, panel, _grid.norm([panel], "linear"), cmap=cmap)
    label_axes(ax, *labels, panel.shape)
    ax.set_xlabel("key")
    _grid.marks(ax, panel)
    below = room(*labels, panel.shape)[1] + 0.1
    _grid.colour_bar(image, [ax], [panel], _grid.what("linear", [panel]), below=below)
