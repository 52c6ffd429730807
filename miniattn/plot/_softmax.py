"""What makes weights of scores: the softmax at several temperatures, and under several masks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from miniattn import _checks, reference
from miniattn import masks as _masks
from miniattn._typing import Array, MaskLike
from miniattn.plot import _grid
from miniattn.plot._canvas import Figure, colours, grid, inches, label_outer, steady
from miniattn.plot._maps import both_labels
from miniattn.plot._source import Layer, layers
from miniattn.plot._text import Tokens, drawable, labels, visible
from miniattn.plot._ticks import label, label_axes, room

_FEW = 12  # bars that have room for a number each


def temperatures(
    scores: ArrayLike,
    temperatures: Sequence[float] = (0.25, 1.0, 4.0),
    tokens: Tokens = None,
    *,
    title: str | None = None,
) -> Figure:
    """Draw a row of scores, and its softmax at several temperatures as bars.

    Parameters
    ----------
    scores : (N,) array
        -inf is a hidden place: its weight is 0.
    temperatures : sequence of float > 0, default (0.25, 1.0, 4.0)
        What scores are divided by: near 0 the greatest takes all, far from it all are alike.
    tokens : sequence of N tokens, optional
        What stands below the bars.
    title : str, optional
        Title of the figure.

    Returns
    -------
    Figure
        The scores, then a panel for each temperature.

    Raises
    ------
    TypeError, ValueError
        If ``scores`` is no row of numbers, one of them NaN or inf, or a temperature is not > 0.

    Notes
    -----
    The entropy in each panel is that of its weights, in nats: log N where all are alike.

    Examples
    --------
    >>> from miniattn import plot
    >>> fig = plot.temperatures([2.0, 1.0, 0.0], [0.5, 1.0], ["cat", "sat", "mat"])
    >>> [ax.get_title() for ax in fig.axes]
    ['scores', 'temperature 0.5', 'temperature 1']
    """
    row = _checks.float_array("scores", np.asarray(scores, np.float64))
    _checks.shape("scores", row, "N")
    if row.size == 0 or np.isnan(row).any() or (row == np.inf).any():
        raise ValueError(f"scores: expected numbers below inf, got {row}")
    chosen = _checks.sequence("temperatures", temperatures, "numbers > 0")
    chosen = [_checks.positive("temperatures", t) for t in chosen]
    if not chosen:
        raise ValueError("temperatures: expected at least one number > 0, got none")
    names = labels("tokens", tokens, "N", len(row))
    below = room(None, names, (1, len(row)))[1]
    fig, axes = grid(
        1 + len(chosen), min(1 + len(chosen), 4), inches(len(row), 2.6, 5.0), 2.0 + below
    )
    _bars(axes[0], np.where(np.isfinite(row), row, np.nan), names, "0.6")
    axes[0].set_title("scores")
    axes[0].axhline(0.0, color="0.4", linewidth=0.8)
    for ax, t in zip(axes[1:], chosen, strict=True):
        weights = reference.softmax(row, temperature=t)
        _bars(ax, weights, names, colours(1)[0])
        entropy = -float(np.sum(weights * np.log(np.where(weights > 0, weights, 1.0))))
        ax.set(ylim=(0.0, 1.12), title=f"temperature {t:g}")
        place: dict[str, Any] = {
            "ha": "right",
            "va": "top",
            "transform": ax.transAxes,
            "fontsize": "small",
        }
        ax.text(0.98, 0.98, f"entropy {abs(entropy):.2f}", **place)
    if title is not None:
        fig.suptitle(title)
    return fig


def _bars(ax: Axes, values: Array, names: Sequence[str] | None, colour: str) -> None:
    """Draw a bar for each number, with the number where there is room."""
    steady(ax)
    bars = ax.bar(np.arange(len(values)), np.nan_to_num(values), color=colour)
    if len(values) <= _FEW:
        texts = ["hidden" if np.isnan(v) else f"{v:.2f}" for v in values]
        ax.bar_label(bars, texts, fontsize="x-small", padding=1)
        ax.margins(y=0.12)
    label(ax.xaxis, names, len(values), upright=names is not None and max(map(len, names)) > 2)
    ax.spines[["top", "right"]].set_visible(False)


def masked_weights(
    scores: ArrayLike,
    masks: Mapping[str, MaskLike] | None = None,
    tokens: Tokens = None,
    key_tokens: Tokens = None,
    *,
    batch: int = 0,
    scale: _grid.Scale = "linear",
    title: str | None = None,
) -> Figure:
    """Draw the softmax of the same scores under several masks, side by side on one scale.

    Parameters
    ----------
    scores : (T, S) array
        Finite numbers: what the softmax is taken of, row by row.
    masks : mapping of name to mask, optional
        True = may attend; None hides nothing. By default nothing, causal, padding (of a last
        quarter) and both.
    tokens, key_tokens : sequences of T and of S tokens, optional
        As in `attention_map`.
    batch : int, default 0
        The batch row, of masks that differ between them.
    scale : {"linear", "log", "row"}
        As in `attention_map`.
    title : str, optional
        Title of the figure.

    Returns
    -------
    Figure
        A panel for each mask, under its name.

    Raises
    ------
    TypeError, ValueError
        If ``scores`` are no table of finite numbers, or ``masks`` no mapping of masks.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import masks, plot
    >>> both = {"causal": masks.causal(), "padding": masks.padding([3])}
    >>> fig = plot.masked_weights(np.zeros((4, 4)), both, ["the", "cat", "sat", "<pad>"])
    >>> [ax.get_title() for ax in fig.axes[:2]]
    ['causal', 'padding']
    """
    _checks.choice("scale", scale, _grid.SCALES)
    table = _checks.float_array("scores", np.asarray(scores, np.float64))
    _checks.shape("scores", table, "T, S")
    if table.size == 0 or not np.isfinite(table).all():
        raise ValueError(f"scores: expected finite numbers, got {table}")
    T, S = table.shape
    rules = _usual(S) if masks is None else masks
    if not isinstance(rules, Mapping) or not rules:
        raise TypeError(f"masks: expected a mapping of name to mask, got {rules!r}")
    q_labels, k_labels = both_labels(tokens, key_tokens, (T, S))
    panels = []
    for rule in rules.values():
        given = _masked(table.shape, rule, batch)
        weights = reference.softmax(table, mask=~given.hidden[0])
        panels += _grid.panels(given._replace(weights=weights[None]), scale=scale)
    beside, below = room(q_labels, k_labels, (T, S))
    side = inches(max(T, S), 2.2, 3.4)
    fig, axes = grid(len(panels), None, side, side + 0.3, extra=(beside + 1.3, below))
    norm = _grid.norm(panels, scale)
    for ax, panel, name in zip(axes, panels, rules, strict=True):
        image = _grid.draw(ax, panel, norm, cmap=None)
        label_axes(ax, q_labels, k_labels, (T, S))
        ax.set(xlabel="key", ylabel="query", title=drawable(visible(name)))
    label_outer(axes)
    _grid.colour_bar(image, axes, panels, _grid.what(scale, panels))
    if title is not None:
        fig.suptitle(title)
    return fig


def _masked(shape: tuple[int, ...], rule: MaskLike, batch: int) -> Layer:
    """Return a layer without weights, and what a row of the batch may not attend to."""
    checked = _masks.as_mask(rule)
    B = None if checked is None else checked._sizes().B
    none = np.zeros((B or _checks.integer("batch", batch, least=0) + 1, 1, *shape))
    return layers({"scores": none}, mask=checked, batch=batch)[0]


def _usual(S: int) -> dict[str, MaskLike]:
    """Return the masks that one learns first."""
    causal, padding = _masks.causal(), _masks.padding([S - max(S // 4, 1)])
    return {"no mask": None, "causal": causal, "padding": padding, "both": causal & padding}
