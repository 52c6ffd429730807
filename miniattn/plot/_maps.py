"""Attention as maps: one head, the heads of a layer."""

from collections.abc import Sequence
from typing import Any, Literal, Unpack, overload

from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from numpy.typing import ArrayLike

from miniattn import _checks
from miniattn._typing import MaskLike
from miniattn.plot import _grid
from miniattn.plot._canvas import Figure, axes_of, grid, inches, label_outer, panel_titles
from miniattn.plot._grid import MapOptions, Scale
from miniattn.plot._source import Layer, one_head, one_layer, real
from miniattn.plot._text import Tokens, labels
from miniattn.plot._ticks import label_axes, room
from miniattn.plot._values import Reading, read
from miniattn.trace import Trace

_BAR = 1.3  # inches that the colour bar and its labels take


@overload
def attention_map(
    weights: Trace | ArrayLike,
    tokens: Tokens = ...,
    key_tokens: Tokens = ...,
    *,
    ax: Axes,
    **options: Unpack[MapOptions],
) -> Axes: ...


@overload
def attention_map(
    weights: Trace | ArrayLike,
    tokens: Tokens = ...,
    key_tokens: Tokens = ...,
    *,
    ax: None = ...,
    **options: Unpack[MapOptions],
) -> Figure: ...


def attention_map(
    weights: Trace | ArrayLike,
    tokens: Tokens = None,
    key_tokens: Tokens = None,
    *,
    ax: Axes | None = None,
    mask: MaskLike = None,
    layer: str | int | None = None,
    head: int | Literal["mean"] | None = None,
    batch: int = 0,
    scale: Scale = "linear",
    cmap: str | Colormap | None = None,
    vmax: float | None = None,
    extent: tuple[int, int] | None = None,
    colorbar: bool = True,
    title: str | None = None,
    **reading: Unpack[Reading],
) -> Figure | Axes:
    """Draw one head's map: a row for each query, a column for each key, the weight as colour.

    Masked cells are hatched, so that they are not taken for zeros; the row of a query that may
    attend to nothing is hatched both ways.

    Parameters
    ----------
    weights : (T, S) array or trace.Trace
        Weights of one head, or a map pooled by `miniattn.functional.attention_map`. What a masked
        array hides counts as hidden by the mask. Of a trace, one head is drawn, and so of an array
        (H, T, S) with ``head``.
    tokens, key_tokens : sequences of T and of S tokens, optional
        Labels: strings, bytes, numbers, anything with a ``str``. Without ``key_tokens``, a square
        map takes the queries' labels for both; without either, those of the trace, or else
        positions are shown. Labels that don't fit are thinned. Spaces at the ends show as ``␣``,
        an empty token as ``∅``.
    ax : matplotlib Axes, optional
        Where to draw. By default a new figure is made.
    mask : masks.Mask or bool array that broadcasts to (T, S), optional
        True = may attend. What it hides is hatched, beside what the masks of a trace hide.
    layer : str or int, optional
        Which layer of a trace, by name or place. Not needed where there is one.
    head : int or "mean", optional
        Which head, or the mean of all. Not needed where there is one.
    batch : int, default 0
        Which batch row of a trace.
    gradients : trace.Gradients, or arrays like weights, optional
        d loss / d each weight: ``t.gradients(dy)`` of the trace.
    value : {"weights", "gradient", "weights*gradient"}
        What is drawn. The last is what each link does to the loss, to first order; numbers with a
        sign have colours centred at 0, and in small maps a minus sign.
    words : bool or sequence of T ints, optional
        Bring the pieces of words together, as `miniattn.analysis.merge_words` does: True by the
        marks of the tokens, or the number of its word for each. Of a gradient, the mean over the
        pieces.
    key_words : bool or sequence of S ints, optional
        The same of the keys, where they are not the queries.
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
        ``ax`` if it was given, else a new figure of this map.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the weights are not one map, if a visible one is below 0, or the number of tokens is
        not that of its rows or columns; the message states both numbers.

    Notes
    -----
    Where cells are smaller than a pixel, a pixel shows the greatest of its cells, so that nothing
    heavy is lost. At most 1,024 cells a side are kept, the greatest of more.
    The cells are an image also in SVG and PDF: pass ``dpi=300`` to ``savefig`` for print.
    Numbers that are NaN or infinite have a colour of their own, and are crossed. Rows that do not
    sum to 1 are drawn as they are, and the colour bar says what they sum to. In small maps a weight
    that is seen and exactly 0 has a dot.

    Examples
    --------
    >>> from miniattn import plot
    >>> fig = plot.attention_map([[1.0, 0.0], [0.3, 0.7]], ["the", "cat"])
    >>> fig.savefig("map.svg")  # doctest: +SKIP
    """
    _checks.choice("scale", scale, _grid.SCALES)
    if not isinstance(weights, Trace):
        weights = real("weights", weights, ["T, S"] if head is None else ["T, S", "H, T, S"])
    options: dict[str, Any] = {"mask": mask, "batch": batch, "extent": extent}
    options |= {"tokens": tokens, "key_tokens": key_tokens}
    how: dict[str, Any] = dict(reading)
    options["gradients"] = how.pop("gradients", None)
    colorbar = _checks.flag("colorbar", colorbar)
    one = one_layer(weights, layer, **options)
    if head != "mean":
        one = one_head(one, head)
    one = read(one, mean=head == "mean", **how)
    drawn = _grid.panels(one, scale=scale)
    norm = _grid.norm(drawn, scale, vmax)
    return one_map(one, drawn, norm, ax, scale, cmap, colorbar=colorbar, title=title)


def one_map(
    given: Layer,
    drawn: Sequence[_grid.Panel],
    norm: Normalize,
    ax: Axes | None,
    scale: Scale,
    cmap: str | Colormap | None,
    *,
    colorbar: bool,
    title: str | None,
) -> Figure | Axes:
    """Draw the first panel; its colour bar and hatches are those of all, which may follow it."""
    panel = drawn[0]
    T, S = panel.shape
    q_labels, k_labels = both_labels(given.tokens, given.key_tokens, panel.shape)
    beside, below = room(q_labels, k_labels, panel.shape)
    ax, result = axes_of(ax, inches(S, 3.4) + beside + _BAR, inches(T, 3.4) + below)
    hatched = any(p.hidden.any() for p in drawn)
    image = _grid.draw(ax, panel, norm, cmap=cmap, hatched=hatched, crossed=len(drawn) == 1)
    label_axes(ax, q_labels, k_labels, panel.shape)
    _grid.marks(ax, panel)
    ax.set(xlabel="key", ylabel="query", title=title)
    if colorbar:
        _grid.colour_bar(image, [ax], drawn, _grid.what(scale, drawn), below=below + 0.1)
    return result


def attention_heads(
    weights: Trace | ArrayLike,
    tokens: Tokens = None,
    key_tokens: Tokens = None,
    *,
    mask: MaskLike = None,
    layer: str | int | None = None,
    batch: int = 0,
    scale: Scale = "linear",
    cmap: str | Colormap | None = None,
    vmax: float | None = None,
    extent: tuple[int, int] | None = None,
    columns: int | None = None,
    titles: Sequence[object] | None = None,
    title: str | None = None,
    **reading: Unpack[Reading],
) -> Figure:
    """Draw the maps of a layer's heads side by side, on one colour scale.

    Parameters
    ----------
    weights : (H, T, S) array or trace.Trace
        Weights of the heads, or maps pooled by `miniattn.functional.attention_map`; of a trace,
        the heads of one layer.
    tokens, key_tokens, mask, layer, batch, scale, cmap, vmax, extent
        As in `attention_map`; the mask broadcasts to (H, T, S).
    gradients, value, words, key_words
        As in `attention_map`.
    columns : int, optional
        Panels in a row.
    titles : sequence of H titles, optional
        By default "head 0", "head 1", ...
    title : str, optional
        Title of the figure.

    Returns
    -------
    Figure
        A panel for each head, ``columns`` in a row.

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
    _checks.choice("scale", scale, _grid.SCALES)
    if not isinstance(weights, Trace):
        weights = real("weights", weights, ["H, T, S"])
    options: dict[str, Any] = {"mask": mask, "batch": batch, "extent": extent}
    options |= {"tokens": tokens, "key_tokens": key_tokens}
    how: dict[str, Any] = dict(reading)
    options["gradients"] = how.pop("gradients", None)
    given = read(one_layer(weights, layer, **options), **how)
    drawn = _grid.panels(given, scale=scale)
    names = panel_titles(titles, len(drawn), "head")
    shape = drawn[0].shape
    q_labels, k_labels = both_labels(given.tokens, given.key_tokens, shape)
    beside, below = room(q_labels, k_labels, shape)
    side = inches(max(shape), 2.2, 3.4)
    fig, axes = grid(len(drawn), columns, side, side + 0.3, extra=(beside + _BAR, below))
    norm = _grid.norm(drawn, scale, vmax)
    for ax, panel, name in zip(axes, drawn, names, strict=True):
        image = _grid.draw(ax, panel, norm, cmap=cmap)
        label_axes(ax, q_labels, k_labels, shape)
        _grid.marks(ax, panel)
        ax.set(xlabel="key", ylabel="query", title=name)
    label_outer(axes)
    _grid.colour_bar(image, axes, drawn, _grid.what(scale, drawn))
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
