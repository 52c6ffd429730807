"""Attention as maps: one head, the heads of a layer."""

from collections.abc import Sequence
from typing import Unpack, overload

from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from numpy.typing import ArrayLike

from miniattn import _checks
from miniattn.plot import _grid
from miniattn.plot._canvas import Figure, axes_of, grid, inches, label_outer, panel_titles
from miniattn.plot._grid import MapOptions, Scale
from miniattn.plot._text import Tokens, labels
from miniattn.plot._ticks import label_axes, room

_BAR = 1.3  # inches that the colour bar and its labels take


@overload
def attention_map(
    weights: ArrayLike,
    tokens: Tokens = ...,
    key_tokens: Tokens = ...,
    *,
    ax: Axes,
    **options: Unpack[MapOptions],
) -> Axes: ...


@overload
def attention_map(
    weights: ArrayLike,
    tokens: Tokens = ...,
    key_tokens: Tokens = ...,
    *,
    ax: None = ...,
    **options: Unpack[MapOptions],
) -> Figure: ...


def attention_map(
    weights: ArrayLike,
    tokens: Tokens = None,
    key_tokens: Tokens = None,
    *,
    ax: Axes | None = None,
    mask: object = None,
    scale: Scale = "linear",
    cmap: str | Colormap | None = None,
    vmax: float | None = None,
    extent: tuple[int, int] | None = None,
    colorbar: bool = True,
    title: str | None = None,
) -> Figure | Axes:
    """Draw one head's map: a row for each query, a column for each key, the weight as colour.

    Masked cells are hatched, so that they are not taken for zeros; the row of a query that may
    attend to nothing is hatched both ways.

    Parameters
    ----------
    weights : (T, S) array
        Weights of one head, or a map pooled by `miniattn.functional.attention_map`.
    tokens, key_tokens : sequences of T and of S tokens, optional
        Labels. Anything with a ``str``. Without ``key_tokens``, a square map takes the queries'
        labels for both; without either, positions are shown. Labels that don't fit are thinned.
    ax : matplotlib Axes, optional
        Where to draw. By default a new figure is made.
    mask : masks.Mask or bool array that broadcasts to (T, S), optional
        True = may attend. What it hides is hatched.
    scale : {"linear", "log", "row"}
        Colour by the weight, by its logarithm (four decades), or by the weight relative to the
        greatest of its row.
    cmap : str or Colormap, optional
        By default ``rcParams["image.cmap"]``.
    vmax : float, optional
        The weight of the last colour; by default the greatest weight.
    extent : (T, S) ints, optional
        The true lengths, where ``weights`` are pooled.
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
        If the weights are not one map, or the number of tokens is not that of its rows or
        columns; the message states both numbers.

    Notes
    -----
    A map with more than 1,024 rows or columns is pooled as `miniattn.functional.attention_map`
    does it: a cell is the mean over its queries of the sum over its keys.
    The cells are an image also in SVG and PDF: pass ``dpi=300`` to ``savefig`` for print.

    Examples
    --------
    >>> from miniattn import plot
    >>> fig = plot.attention_map([[1.0, 0.0], [0.3, 0.7]], ["the", "cat"])
    >>> fig.savefig("map.svg")  # doctest: +SKIP
    """
    scale = _scale(scale)
    array = _grid.real("weights", weights, ["T, S"])
    [panel] = _grid.panels(array[None], mask, extent)
    q_labels, k_labels = both_labels(tokens, key_tokens, panel.shape)
    T, S = panel.shape
    beside, below = room(q_labels, k_labels, panel.shape)
    ax, result = axes_of(ax, inches(S, 3.4) + beside + _BAR, inches(T, 3.4) + below)
    norm = _grid.norm([panel], scale, vmax)
    image = _grid.draw(ax, panel, norm, scale=scale, cmap=cmap)
    label_axes(ax, q_labels, k_labels, panel.shape)
    ax.set(xlabel="key", ylabel="query", title=title)
    if _checks.flag("colorbar", colorbar):
        _grid.colour_bar(image, [ax], [panel], _grid.what(scale, panel))
    return result


def attention_heads(
    weights: ArrayLike,
    tokens: Tokens = None,
    key_tokens: Tokens = None,
    *,
    mask: object = None,
    scale: Scale = "linear",
    cmap: str | Colormap | None = None,
    vmax: float | None = None,
    extent: tuple[int, int] | None = None,
    columns: int | None = None,
    titles: Sequence[object] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw the maps of a layer's heads side by side, on one colour scale.

    Parameters
    ----------
    weights : (H, T, S) array
        Weights of the heads, or maps pooled by `miniattn.functional.attention_map`.
    tokens, key_tokens, mask, scale, cmap, vmax, extent
        As in `attention_map`; the mask broadcasts to (H, T, S).
    columns : int, optional
        Panels in a row.
    titles : sequence of H titles, optional
        By default "head 0", "head 1", ...
    title : str, optional
        Title of the figure.

    Returns
    -------
    Figure

    Raises
    ------
    TypeError, ValueError
        As `attention_map`.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import plot
    >>> fig = plot.attention_heads(np.full((4, 3, 3), 1 / 3), ["a", "b", "c"])
    >>> [ax.get_title() for ax in fig.axes[:4]]
    ['head 0', 'head 1', 'head 2', 'head 3']
    """
    scale = _scale(scale)
    drawn = _grid.panels(_grid.real("weights", weights, ["H, T, S"]), mask, extent)
    if not drawn:
        raise ValueError("weights: expected at least one head, got none")
    names = panel_titles(titles, len(drawn), "head")
    shape = drawn[0].shape
    q_labels, k_labels = both_labels(tokens, key_tokens, shape)
    beside, below = room(q_labels, k_labels, shape)
    side = inches(max(shape), 2.2, 3.4)
    fig, axes = grid(len(drawn), columns, side, side + 0.3, extra=(beside + _BAR, below))
    norm = _grid.norm(drawn, scale, vmax)
    for ax, panel, name in zip(axes, drawn, names, strict=True):
        image = _grid.draw(ax, panel, norm, scale=scale, cmap=cmap)
        label_axes(ax, q_labels, k_labels, shape)
        ax.set(xlabel="key", ylabel="query", title=name)
    label_outer(axes)
    _grid.colour_bar(image, axes, drawn, _grid.what(scale, drawn[0]))
    if title is not None:
        fig.suptitle(title)
    return fig


def both_labels(
    tokens: Tokens, key_tokens: Tokens, shape: tuple[int, int]
) -> tuple[list[str] | None, list[str] | None]:
    """Return the labels of queries and keys; a square map may be given the queries' alone."""
    q_labels = labels("tokens", tokens, "T", shape[0])
    if key_tokens is None and shape[0] == shape[1]:
        return q_labels, q_labels
    return q_labels, labels("key_tokens", key_tokens, "S", shape[1])


def _scale(scale: Scale) -> Scale:
    _checks.choice("scale", scale, _grid.SCALES)
    return scale
