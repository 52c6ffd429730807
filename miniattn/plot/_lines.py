"""Attention as lines from the tokens on the left to those on the right."""

from collections.abc import Sequence
from itertools import cycle
from typing import Any, Literal, Unpack, overload

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex, to_rgba
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from miniattn import _checks
from miniattn._typing import Array
from miniattn.plot import _grid
from miniattn.plot._canvas import (
    Figure,
    axes_of,
    colours,
    inches,
    ink,
    panel_titles,
    points,
    steady,
)
from miniattn.plot._cells import NOT_FINITE
from miniattn.plot._maps import both_labels
from miniattn.plot._source import one_layer, real
from miniattn.plot._text import Tokens, em
from miniattn.plot._ticks import label, room
from miniattn.plot._values import NAMES, Reading, Value, read
from miniattn.trace import Trace

_WIDTH = 3.2  # inches from the queries to the keys

MOST_LINES = 20_000
"""Lines drawn at most: the heaviest ones."""

MANY_LINES = 1_000
"""More lines of one head than these are solid, and one picture within a vector file."""

_SIGNS = tuple(to_hex(mpl.colormaps[_grid.DIVERGING](x)) for x in (0.9, 0.1))
"""Colours of numbers above and below 0, where lines are of one head."""

_BELOW_0 = ("-", "--")
"""Styles of lines above and below 0."""

STYLES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")


class LineOptions(Reading, total=False):
    """The options of `attention_lines`."""

    heads: Sequence[int] | Literal["mean"] | None
    layer: str | int | None
    batch: int
    threshold: float
    extent: tuple[int, int] | None
    titles: Sequence[object] | None
    colors: Sequence[str] | None
    title: str | None


@overload
def attention_lines(
    weights: Trace | ArrayLike,
    tokens: Tokens = ...,
    key_tokens: Tokens = ...,
    *,
    ax: Axes,
    **options: Unpack[LineOptions],
) -> Axes: ...


@overload
def attention_lines(
    weights: Trace | ArrayLike,
    tokens: Tokens = ...,
    key_tokens: Tokens = ...,
    *,
    ax: None = ...,
    **options: Unpack[LineOptions],
) -> Figure: ...


def attention_lines(
    weights: Trace | ArrayLike,
    tokens: Tokens = None,
    key_tokens: Tokens = None,
    *,
    ax: Axes | None = None,
    heads: Sequence[int] | Literal["mean"] | None = None,
    layer: str | int | None = None,
    batch: int = 0,
    threshold: float = 0.05,
    extent: tuple[int, int] | None = None,
    titles: Sequence[object] | None = None,
    colors: Sequence[str] | None = None,
    title: str | None = None,
    **reading: Unpack[Reading],
) -> Figure | Axes:
    """Draw attention as lines: queries on the left, keys on the right, the weight as strength.

    A heavier weight is a wider and darker line. Several heads have a colour and a style of line
    each, and leave a token one above the other, so that they are told apart in grey as well.
    Where numbers have a sign, lines are dashed below 0, and heads have a colour each.

    Parameters
    ----------
    weights : (T, S) or (H, T, S) array or trace.Trace
        Weights of one head or several, or maps pooled by `miniattn.functional.attention_map`; of
        a trace, the heads of one layer.
    tokens, key_tokens : sequences of T and of S tokens, optional
        As in `attention_map`.
    ax : matplotlib Axes, optional
        Where to draw. By default a new figure is made.
    heads : sequence of int or "mean", optional
        Which heads to draw, or the mean of all; every one by default. More than six begin to share
        colours.
    layer, batch, gradients, value, words, key_words
        As in `attention_map`.
    threshold : float in [0, 1], default 0.05
        Lighter weights are not drawn; of a gradient, what is less than that share of the greatest.
    extent : (T, S) ints, optional
        The true lengths, where ``weights`` are pooled.
    titles : sequence of titles, optional
        One for each head that is drawn; by default "head 0", "head 1", ...
    colors : sequence of colours, optional
        One for each head that is drawn. By default those of ``rcParams["axes.prop_cycle"]``, or,
        if that is Matplotlib's own, colours that any kind of colour vision tells apart.
    title : str, optional
        Title of the axes.

    Returns
    -------
    Axes or Figure
        ``ax`` if it was given, else a new figure with the two columns of tokens.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the weights are no such maps, a number of tokens is not that of the rows or columns
        (the message states both), or ``heads`` names one that is not there.

    Notes
    -----
    At most the 20,000 heaviest lines are drawn. Below the figure stands how many of all links are
    shown, where some are not.

    References
    ----------
    Vig. "A Multiscale Visualization of Attention in the Transformer Model" (2019), section 3.1.

    Examples
    --------
    >>> from miniattn import plot
    >>> fig = plot.attention_lines([[1.0, 0.0], [0.3, 0.7]], ["the", "cat"])
    >>> fig.savefig("lines.svg")  # doctest: +SKIP
    """
    if not 0 <= _checks.number("threshold", threshold) <= 1:
        raise ValueError(f"threshold: expected a weight in [0, 1], got {threshold}")
    if not isinstance(weights, Trace):
        weights = real("weights", weights, ["T, S", "H, T, S"])
    options: dict[str, Any] = {"batch": batch, "extent": extent}
    how: dict[str, Any] = dict(reading)
    options["gradients"] = how.pop("gradients", None)
    given = one_layer(weights, layer, tokens=tokens, key_tokens=key_tokens, **options)
    given = read(given, mean=heads == "mean", **how)
    chosen = _chosen(None if heads == "mean" else heads, len(given.weights))
    own = ["mean"] if heads == "mean" else [f"head {h}" for h in chosen]
    names = panel_titles(titles or own, len(chosen), "head")
    shades = colours(len(chosen)) if colors is None else panel_titles(colors, len(chosen), "colour")
    everything = _grid.panels(given)
    drawn = [everything[h] for h in chosen]
    T, S = given.shape
    q_labels, k_labels = both_labels(given.tokens, given.key_tokens, (T, S))

    beside = room(q_labels, None, (T, S))[0] + room(k_labels, None, (S, T))[0]
    bad = any(np.isnan(panel.values).any() for panel in drawn)
    entries = _entries(given.value, names, shades, bad=bad)
    below, columns = _legend_size([name for name, _ in entries])
    ax, result = axes_of(ax, _WIDTH + beside, inches(max(T, S), 2.0) + 0.5 + below)
    steady(ax)
    shown = 0
    if given.value != "weights":
        threshold *= _grid.greatest_of(drawn)
    for nth, (panel, shade) in enumerate(zip(drawn, shades, strict=True)):
        if bad:
            ax.add_collection(_bad_lines(panel), autolim=False)
        lines = _lines(panel, threshold, shade, nth, len(drawn))
        ax.add_collection(lines, autolim=False)
        shown += len(lines.get_paths())
    there = sum(np.count_nonzero(np.nan_to_num(panel.values)) for panel in drawn)
    if shown < there:  # so that a token without a line is not taken for one that reads nothing
        note = f"the strongest {shown:,} of {there:,} links"
        ax.set_xlabel(note, fontsize="small", color=ink(0.6, ax))
    ax.set(xlim=(0, 1), ylim=(T - 0.5, -0.5), xticks=[], ylabel="query", title=title)
    ax.spines[["top", "bottom"]].set_visible(False)
    label(ax.yaxis, q_labels, T)
    # The right axis counts keys: key j is as far down as query j, or to scale where S is not T.
    ratio = S / T if T and S else 1.0
    right = ax.secondary_yaxis(
        "right",
        functions=(
            lambda y: (np.asarray(y) + 0.5) * ratio - 0.5,
            lambda j: (np.asarray(j) + 0.5) / ratio - 0.5,
        ),
    )
    right.grid(visible=False, which="both")
    label(right.yaxis, k_labels, S)
    right.set_ylabel("key")
    if len(entries) > 1:
        _legend(ax, entries, columns, 2.0 if shown < there else 0.5)
    return result


def _chosen(heads: Sequence[int] | None, count: int) -> list[int]:
    if heads is None:
        return list(range(count))
    for head in heads:
        if not 0 <= _checks.integer("heads", head) < count:
            raise ValueError(f"heads: expected indices in [0, {count}), got {head}")
    return list(heads)


def _entries(
    value: Value, names: Sequence[str], shades: Sequence[str], *, bad: bool
) -> list[tuple[str, dict[str, Any]]]:
    """Return what the legend says of lines: a name, and how they look."""
    entries: list[tuple[str, dict[str, Any]]] = []
    if value == "weights":
        looks = zip(names, shades, cycle(STYLES), strict=False)
        entries += [(name, {"color": shade, "linestyle": style}) for name, shade, style in looks]
    else:
        alone = len(names) == 1
        if not alone:
            entries += [(name, {"color": shade}) for name, shade in zip(names, shades, strict=True)]
        for sign, colour, style in zip("><", _SIGNS, _BELOW_0, strict=True):
            look = {"color": colour if alone else ink(0.6), "linestyle": style}
            entries.append((f"{NAMES[value]} {sign} 0", look))
    if bad:
        entries.append((_grid.BAD, {"color": NOT_FINITE, "linestyle": (0, (1, 1))}))
    return entries


def _lines(
    panel: _grid.Panel, threshold: float, colour: str, nth: int, heads: int
) -> LineCollection:
    """Return the lines of one head; with several, each leaves its token at a place of its own."""
    values = np.nan_to_num(panel.values, nan=0.0)
    queries, keys = np.nonzero((values != 0) & (np.abs(values) >= threshold))
    strength = np.abs(values[queries, keys])
    # The lightest of those that are drawn first, so that heavy ones lie above.
    heaviest_last = np.argsort(strength, kind="stable")[-(MOST_LINES // heads) :]
    queries, keys, strength = (x[heaviest_last] for x in (queries, keys, strength))

    rows, cols = panel.values.shape
    points = _ends(panel, queries, keys, 0.6 * ((nth + 0.5) / heads - 0.5))
    share = np.minimum(strength / (float(np.abs(values).max(initial=0.0)) or 1.0), 1.0)
    many = len(share) > MANY_LINES
    styles: Any = "-" if many else STYLES[nth % len(STYLES)]
    rgba = np.tile(to_rgba(colour), (len(share), 1))
    if panel.value != "weights":
        below = values[queries, keys] < 0
        styles = [_BELOW_0[i] for i in below.astype(int)]
        if heads == 1:
            rgba = np.array([to_rgba(c) for c in _SIGNS])[below.astype(int)].reshape(-1, 4)
    rgba[:, 3] = 0.15 + 0.75 * share
    thin = float(np.clip(40 / max(rows, cols, 1), 0.25, 1.0))
    return LineCollection(
        list(points),
        colors=rgba,
        linewidths=thin * (0.4 + 2.6 * share) * mpl.rcParams["lines.linewidth"] / 1.5,
        linestyles=styles,
        rasterized=many,
    )


def _bad_lines(panel: _grid.Panel) -> LineCollection:
    """Return a dotted line for each link whose weight is not finite."""
    queries, keys = np.nonzero(np.isnan(panel.values))
    points = _ends(panel, queries[:MOST_LINES], keys[:MOST_LINES], 0.0)
    dots = (0, (1, 1))
    return LineCollection(
        list(points), colors=NOT_FINITE, linewidths=1.2, linestyles=[dots], rasterized=True
    )


def _ends(panel: _grid.Panel, queries: Array, keys: Array, shift: float) -> Array:
    """Return the ends (n, 2, 2) of the lines of these links, so many rows below their tokens."""
    T, (rows, cols) = panel.shape[0], panel.values.shape
    start = (queries + 0.5 + shift) * T / max(rows, 1) - 0.5
    end = (keys + 0.5 + shift) * T / max(cols, 1) - 0.5
    ends = [np.zeros_like(start), start, np.ones_like(end), end]
    return np.stack(ends, axis=1).reshape(-1, 2, 2)


def _legend_size(names: Sequence[str]) -> tuple[float, int]:
    """Return the height of the legend in inches, and in how many columns it is as wide as lines."""
    size = points(mpl.rcParams["legend.fontsize"]) / 72
    entry = (max(map(em, names), default=0.0) + 5.5) * size  # the handle, and the space between
    columns = int(np.clip(_WIDTH / entry, 1, max(len(names), 1)))
    rows = -(-len(names) // columns) if len(names) > 1 else 0
    return 1.6 * size * rows, columns


def _legend(
    ax: Axes, entries: Sequence[tuple[str, dict[str, Any]]], columns: int, below: float
) -> None:
    """Add the legend, ``below`` so many font sizes under the axes."""
    ax.legend(
        handles=[Line2D([], [], linewidth=2, label=name, **look) for name, look in entries],
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        borderaxespad=below,
        ncols=columns,
        frameon=False,
        handlelength=2.4,
    )
