"""A mask, coloured by the rule that hides each key."""

import textwrap
from collections.abc import Sequence
from colorsys import hls_to_rgb
from typing import Any, TypedDict, Unpack, overload

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, Normalize, to_rgb
from matplotlib.patches import Patch, PathPatch

from miniattn import _checks, masks
from miniattn._typing import Array, MaskLike
from miniattn.plot import _grid
from miniattn.plot._canvas import (
    PALETTE,
    Figure,
    axes_of,
    framed,
    inches,
    ink,
    legend_beside,
    steady,
)
from miniattn.plot._cells import Cells
from miniattn.plot._maps import both_labels
from miniattn.plot._text import Tokens
from miniattn.plot._ticks import label_axes, room
from miniattn.plot._visible import visible_cells

_LEGEND = 2.6  # inches beside the map
HATCHES = ("////", "\\\\\\\\", "....", "----", "||||", "oo")


class MaskOptions(TypedDict, total=False):
    """The options of `mask`."""

    batch: int
    head: int
    title: str | None


@overload
def mask(
    mask: MaskLike,
    T: int | None = ...,
    S: int | None = ...,
    tokens: Tokens = ...,
    key_tokens: Tokens = ...,
    *,
    ax: Axes,
    **options: Unpack[MaskOptions],
) -> Axes: ...


@overload
def mask(
    mask: MaskLike,
    T: int | None = ...,
    S: int | None = ...,
    tokens: Tokens = ...,
    key_tokens: Tokens = ...,
    *,
    ax: None = ...,
    **options: Unpack[MaskOptions],
) -> Figure: ...


def mask(
    mask: MaskLike,
    T: int | None = None,
    S: int | None = None,
    tokens: Tokens = None,
    key_tokens: Tokens = None,
    *,
    ax: Axes | None = None,
    batch: int = 0,
    head: int = 0,
    title: str | None = None,
) -> Figure | Axes:
    """Draw which keys each query may attend to, and which rule hides the others.

    What may be attended to is dark. What one rule alone hides has the colour and the hatch of
    that rule; what several rules hide is grey and hatched both ways.

    Parameters
    ----------
    mask : masks.Mask or bool array that broadcasts to (B, H, T, S)
        True = may attend. The rules of an intersection (``&``) are told apart.
    T, S : int, optional
        Query and key length. They need not be given where tokens or the mask itself have them;
        S is T by default.
    tokens, key_tokens : sequences of T and of S tokens, optional
        As in `attention_map`.
    ax : matplotlib Axes, optional
        Where to draw. By default a new figure is made.
    batch, head : int, default 0
        Which batch row and head to draw, of a mask that differs between them.
    title : str, optional
        Title of the axes.

    Returns
    -------
    Axes or Figure
        ``ax`` if it was given, else a new figure of the mask.

    Raises
    ------
    TypeError
        If ``mask`` is no mask.
    ValueError
        If a length is not known or does not fit the mask.

    Notes
    -----
    With more than 1,024 queries or keys a cell stands for many of both. It counts as visible if
    any of its keys is, and as hidden by a rule if that rule hides all of it. No T x S array is
    made unless the mask has one.

    Examples
    --------
    >>> from miniattn import masks, plot
    >>> fig = plot.mask(masks.causal() & masks.padding([3, 5]), T=5, batch=0)
    >>> [text.get_text() for text in fig.axes[0].get_legend().get_texts()]
    ['may attend', 'hidden by causal()', 'hidden by padding([3, 5])', 'hidden by several']
    """
    checked = masks.as_mask(mask)
    rules = () if checked is None else checked.rules
    T, S = _lengths(checked, T, S, tokens, key_tokens)
    q_labels, k_labels = both_labels(tokens, key_tokens, (T, S))
    kinds = _kinds(checked, T, S, batch, head)

    beside, below = room(q_labels, k_labels, (T, S))
    ax, result = axes_of(ax, inches(S, 3.4) + beside + _LEGEND, inches(T, 3.4) + below)
    steady(ax)
    framed(ax)
    looks = _looks([repr(rule) for rule in rules], ax)
    _draw(ax, kinds, looks, (T, S))
    label_axes(ax, q_labels, k_labels, (T, S))
    ax.set(xlabel="key", ylabel="query", title=title)
    there = sorted(np.unique(kinds), key=lambda kind: (kind < 0, kind))  # "several" last
    legend_beside(ax, [Patch(**looks[kind]) for kind in there], below=below + 0.1)
    return result


def _kinds(mask: masks.Mask | None, T: int, S: int, batch: int, head: int) -> Array:
    """Return a number a cell: 0 visible, r hidden by rule r - 1 alone, -1 by several."""
    B, H = _batch_and_heads(mask, batch, head)
    bins = [_bounds(n, _grid.MOST_CELLS) for n in (T, S)]
    rules = () if mask is None else mask.rules
    hidden = np.array(
        [~visible_cells(rule, (B, H, T, S), batch, head, *bins) for rule in rules]
    ).reshape(len(rules), *(len(edges) - 1 for edges in bins))
    visible = visible_cells(mask, (B, H, T, S), batch, head, *bins)
    alone = hidden.sum(axis=0) == 1
    which = hidden.argmax(axis=0) + 1 if rules else np.zeros(visible.shape, int)
    return np.where(visible, 0, np.where(alone, which, -1))


def _bounds(n: int, most: int) -> Array:
    """Return the bounds of at most ``most`` bins of equally many queries or keys."""
    return np.append(np.arange(0, n, -(-n // most)), n)


def _fill(text: str) -> str:
    """Return ``text`` on as many lines as the legend's room takes, at most three."""
    return textwrap.fill(text, 26, max_lines=3, placeholder=" …")


def _looks(names: Sequence[str], ax: Axes) -> dict[int, dict[str, Any]]:
    """Return how the cells of each kind look, and what the legend says."""
    line = {"edgecolor": ink(0.55, ax), "linewidth": 0}
    looks: dict[int, dict[str, Any]] = {
        0: {"facecolor": ink(0.75, ax), "label": "may attend", "linewidth": 0}
    }
    for i, name in enumerate(names):
        paper, colour = (np.array(to_rgb(c)) for c in (ink(0.0, ax), _hue(i)))
        tint = tuple(paper + 0.3 * (colour - paper))
        # The same shape comes again after all others, denser: no two rules share hatch or colour.
        hatch = HATCHES[i % len(HATCHES)] * (1 + i // len(HATCHES))
        label = _fill(f"hidden by {name}")
        looks[i + 1] = {"facecolor": tint, "hatch": hatch, "label": label, **line}
    several = {"facecolor": ink(0.12, ax), "hatch": "xxxx", "label": "hidden by several"}
    return looks | {-1: several | line}


def _hue(i: int) -> tuple[float, float, float]:
    """Return the colour of rule i: of the palette, or a hue between those there are."""
    if i < len(PALETTE):
        return to_rgb(PALETTE[i])
    return hls_to_rgb((0.17 + 0.618034 * i) % 1.0, 0.35 + 0.1 * (i % 3), 0.9)


def _draw(ax: Axes, kinds: Array, looks: dict[int, dict[str, Any]], shape: tuple[int, int]) -> None:
    """Draw tints, hatches on them, and above both what is visible, so that no hatch covers it."""
    T, S = shape
    order = [-1, *range(len(looks) - 1)]
    cmap = ListedColormap([looks[kind]["facecolor"] for kind in order])
    options: dict[str, Any] = {
        "norm": Normalize(-1.5, len(looks) - 1.5),
        "cmap": cmap.with_extremes(bad=(0, 0, 0, 0)),
        "extent": (-0.5, S - 0.5, T - 0.5, -0.5),
        "reduce": _alike,
    }
    for values, zorder in ((kinds, -3), (np.ma.masked_array(kinds, kinds != 0), 0)):
        cells = Cells(ax, values, zorder=zorder, **options)
        ax.add_image(cells)
        cells.set_clip_path(ax.patch)
    for kind in order:
        if kind and (kinds == kind).any():
            style = {key: looks[kind][key] for key in ("hatch", "edgecolor", "linewidth")}
            outline = _grid.outlined(kinds == kind, shape)
            ax.add_patch(PathPatch(outline, fill=False, zorder=-2, **style))
    ax.set(xlim=(-0.5, S - 0.5), ylim=(T - 0.5, -0.5))
    ax.set_aspect("equal" if 0.25 <= T / S <= 4 else "auto", adjustable="box")


def _alike(kinds: Array, starts: Array, axis: int) -> Array:
    """Return the kind of each run: visible if any cell is, of a rule if all are, else several."""
    low, high = (f.reduceat(kinds, starts, axis=axis) for f in (np.minimum, np.maximum))
    seen = np.logical_or.reduceat(kinds == 0, starts, axis=axis)
    return np.where(seen, 0.0, np.where(low == high, low, -1.0))


def _lengths(
    mask: masks.Mask | None, T: int | None, S: int | None, tokens: Tokens, key_tokens: Tokens
) -> tuple[int, int]:
    """Return T and S: as given, of the tokens, of the mask, or (S) as T."""
    if mask is not None:
        own = mask._sizes()
        T = own.T if T is None and tokens is None else T
        S = own.S if S is None and key_tokens is None else S
    T = len(tokens) if T is None and tokens is not None else T
    S = len(key_tokens) if S is None and key_tokens is not None else S
    T = S if T is None and mask is not None and mask._sizes().S is not None else T
    if T is None:
        raise ValueError("T: expected a query length, because neither the mask nor tokens have one")
    return _checks.integer("T", T, least=1), _checks.integer("S", T if S is None else S, least=1)


def _batch_and_heads(mask: masks.Mask | None, batch: int, head: int) -> tuple[int, int]:
    """Return the B and H of the mask, or the least that have this batch row and head."""
    own = None if mask is None else mask._sizes()
    least = []
    for name, index, size in (
        ("batch", batch, None if own is None else own.B),
        ("head", head, None if own is None else own.H),
    ):
        _checks.integer(name, index, least=0)
        if size is not None and size > 1 and index >= size:
            raise ValueError(f"{name}: expected an index in [0, {size}), got {index}")
        least.append(max(size or 1, index + 1))
    return least[0], least[1]
