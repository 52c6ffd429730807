"""How a gradient fares on its way up through a stack of layers."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatter

from miniattn import _checks
from miniattn._typing import Array
from miniattn.plot._canvas import Figure, axes_of, colours, inches, steady
from miniattn.plot._stream import places_along
from miniattn.plot._text import drawable, visible
from miniattn.plot._ticks import label, room
from miniattn.trace import Gradients


def gradient_flow(
    gradients: Gradients | Mapping[str, Gradients],
    *,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
    log: bool = True,
    title: str | None = None,
) -> Figure | Axes:
    """Draw how long the gradient is at each place of a stack, a line for each model.

    From right to left it is the way of the backward: a line that falls to the left is a gradient
    that vanishes before it reaches the first layer, one that rises explodes.

    Parameters
    ----------
    gradients : trace.Gradients, or mapping of name to trace.Gradients
        Of ``trace.gradients(dy)``; of a mapping, a line each.
    names : sequence of str, optional
        The places. By default those of the residual stream, as in `residual_stream`; of a stack
        without one, what each of its parts returned.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.
    log : bool, default True
        Whether lengths are drawn as powers of ten.
    title : str, optional
        Title of the axes.

    Returns
    -------
    Axes or Figure
        ``ax`` if it was given, else a new figure of one curve for each set of gradients.

    Raises
    ------
    TypeError
        If ``gradients`` are of another kind.
    ValueError
        If there are no such places, or models that are compared have different ones.

    Notes
    -----
    The length is sqrt(sum of squares) over the batch, the tokens and the width. A length of 0 or
    one that is not finite has no place on a scale of powers of ten and is left open.

    References
    ----------
    .. [1] Xiong et al., "On Layer Normalization in the Transformer Architecture", 2020, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn, plot, trace
    >>> def gradients(norm_first):
    ...     model = nn.TransformerEncoder(3, 8, 2, norm_first=norm_first)
    ...     y, t = trace.run(model, np.random.default_rng(0).standard_normal((1, 4, 8), np.float32))
    ...     return t.gradients(y)
    >>> fig = plot.gradient_flow({"norm first": gradients(True), "norm last": gradients(False)})
    >>> [line.get_label() for line in fig.axes[0].lines]
    ['norm first', 'norm last']
    """
    runs = gradients if isinstance(gradients, Mapping) else {"": gradients}
    if not runs:
        raise ValueError("gradients: expected at least one, got none")
    for run in runs.values():
        _checks.instance("gradients", run, Gradients)
    places = _places(runs) if names is None else list(_checks.sequence("names", names, "names"))
    if not places:
        raise ValueError("names: expected names of a stack; the trace has none to choose from")
    lengths = {name: _lengths(run, places) for name, run in runs.items()}
    start = places[-1].rpartition("layers.")[0]
    shown = [drawable(visible(name.removeprefix(start))) for name in places]
    below = room(None, shown, (1, len(shown)))[1]
    ax, result = axes_of(ax, inches(2 * len(shown), 4.0, 10.0), 3.0 + below)
    steady(ax)
    for (name, length), colour in zip(lengths.items(), colours(len(lengths)), strict=True):
        drawn = np.where(length > 0, length, np.nan) if log else length
        ax.plot(drawn, marker="o", markersize=4, color=colour, label=drawable(name) or None)
    if log:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(LogFormatter())
        ax.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
    label(ax.xaxis, shown, len(shown), upright=max(map(len, shown)) > 2)
    ax.set(xlabel="place, from the input on", ylabel="length of the gradient", title=title)
    ax.grid(visible=True, axis="y", alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    if any(lengths):
        ax.legend(frameon=False)
    return result


def _places(runs: Mapping[str, Gradients]) -> list[str]:
    """Return the places of the stream, or what each part of a plain stack returned."""
    found = []
    for run in runs.values():
        numbered = [name for name in run.names if re.fullmatch(r"(\D*\.)?\d+", name)]
        found.append(places_along(run) or numbered)
    if any(places != found[0] for places in found):
        raise ValueError(f"gradients: expected models of the same places, got {found}")
    return found[0]


def _lengths(run: Gradients, places: Sequence[str]) -> Array:
    values = [np.asarray(run[name], np.float64) for name in places]
    return np.array([np.sqrt(np.square(value).sum()) for value in values])
