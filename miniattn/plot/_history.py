"""Training curves."""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from miniattn import _checks
from miniattn.plot._canvas import Figure, colours, grid, steady
from miniattn.training import History, Series

MANY = 200
"""A curve of more points is drawn lightly, with its running mean on top."""


class Curve(NamedTuple):
    """Points of one line."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    low: NDArray[np.float64] | None = None
    """The least and the greatest of several histories, whose mean is y."""
    high: NDArray[np.float64] | None = None


Records = Sequence[Mapping[str, float]] | Mapping[str, Sequence[float]]
Histories = Sequence[History] | Mapping[Any, History]

_TIME = ("step", "epoch", "iteration", "batch")
_HELD_OUT = (("--", "o"), (":", "s"), ("-.", "^"))  # line and marker, told apart in grey
_SPLITS = ("train", "val", "valid", "validation", "test", "eval")


def history(
    records: Records | History | Histories,
    *,
    x: str | None = None,
    log: Sequence[str] = (),
    title: str | None = None,
) -> Figure:
    """Draw training curves: one panel a quantity, one line for training and each held-out set.

    Names that differ only by a split share a panel: ``loss`` and ``val_loss`` are one panel,
    the training curve solid and held-out curves dashed or dotted with markers, so that they are
    told apart in print as well.

    Parameters
    ----------
    records : sequence of mappings, mapping of sequences, training.History, or several of these
        One mapping of floats for each step or epoch, e.g. ``[{"epoch": 1, "loss": 2.3}, ...]``,
        or one sequence for each name. A record may lack a name (a validation every few epochs):
        the line then joins the values there are. Of several histories, such as `training.seeds`
        returns, the mean is a line and the range from the least to the greatest a band, at the
        steps that all of them have.
    x : str, optional
        The name on the horizontal axis. By default the first of step, epoch, iteration and batch
        that the records have; without one, records are counted from 1.
    log : sequence of str, default ()
        The quantities to draw on a log axis, e.g. ``("loss",)``.
    title : str, optional
        Title of the figure.

    Returns
    -------
    Figure
        A panel for each quantity.

    Raises
    ------
    TypeError
        If ``records`` is not of this kind.
    ValueError
        If there are no records, or none has a quantity to draw, or ``x`` is not among the names.

    Examples
    --------
    >>> from miniattn import plot
    >>> fig = plot.history([{"epoch": 1, "loss": 2.3, "val_loss": 2.4},
    ...                     {"epoch": 2, "loss": 1.1, "val_loss": 1.5}])
    >>> [ax.get_ylabel() for ax in fig.axes]
    ['loss']
    """
    curves, time = _curves(records, x)
    quantities: dict[str, dict[str, Curve]] = {}
    for name, curve in curves.items():
        split, quantity = _split(name)
        quantities.setdefault(quantity, {})[split] = curve
    if not quantities:
        raise ValueError(f"records: expected a quantity to draw beside {time}, got none")

    fig, axes = grid(len(quantities), min(len(quantities), 3), 4.4, 3.4)
    for ax, (quantity, lines) in zip(axes, quantities.items(), strict=True):
        _panel(ax, lines, quantity)
        ax.set_xlabel(time)
        if quantity in log:
            ax.set_yscale("log")
    if title is not None:
        fig.suptitle(title)
    return fig


def _panel(ax: Axes, lines: Mapping[str, Curve], quantity: str) -> None:
    held_out = iter(_HELD_OUT)
    for (split, curve), colour in zip(lines.items(), colours(len(lines)), strict=True):
        line, marker = ("-", "o") if split == "train" else next(held_out, _HELD_OUT[-1])
        style: dict[str, Any] = {"linestyle": line, "color": colour, "marker": ""}
        if (split != "train" and len(curve.x) <= 40) or len(curve.x) == 1:
            style |= {"marker": marker, "markersize": 4}
        if len(curve.x) > MANY:
            light = style | {"linestyle": "-"}
            ax.plot(curve.x, curve.y, linewidth=0.6, alpha=0.3, **light)
            curve = _smooth(curve)
        if curve.low is not None and curve.high is not None:
            ax.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.2, linewidth=0)
        ax.plot(curve.x, curve.y, label=split, **style)
    ax.set_ylabel(quantity.replace("_", " "))
    steady(ax)
    ax.grid(visible=True, alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    if all(np.all(curve.x == np.round(curve.x)) for curve in lines.values()):
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    if len(lines) > 1:
        ax.legend(frameon=False)


def _smooth(curve: Curve) -> Curve:
    """Return the running mean over a fiftieth of the curve, each value at its window's middle."""
    window = max(len(curve.x) // 50, 2)
    kernel = np.full(window, 1 / window)

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.convolve(values, kernel, mode="valid")

    x, y, low, high = curve
    if low is None or high is None:
        return Curve(mean(x), mean(y))
    return Curve(mean(x), mean(y), mean(low), mean(high))


def _curves(records: Records | History | Histories, x: str | None) -> tuple[dict[str, Curve], str]:
    """Return a curve for each name, and what is on the horizontal axis."""
    if found := _histories(records):  # every name has steps of its own
        if x is not None:
            raise ValueError(f"x: expected None for a History, which counts steps, got {x!r}")
        names = [name for name in found[0] if all(name in one for one in found)]
        if not names:
            raise ValueError("records: expected at least one measured quantity, got none")
        return {name: _mean([one[name] for one in found]) for name in names}, "step"
    columns = _columns(cast(Records, records))
    time = _time(columns, x)
    count = max(map(len, columns.values()))
    steps = columns.pop(time) if time else np.arange(1.0, count + 1)
    there = {name: np.isfinite(values) for name, values in columns.items() if name not in _TIME}
    curves = {name: Curve(steps[at], columns[name][at]) for name, at in there.items()}
    return curves, time or "record"


def _histories(records: object) -> list[History]:
    """Return the histories, if these are what was given."""
    given = [records] if isinstance(records, History) else records
    if isinstance(given, Mapping):
        given = list(given.values())
    if not isinstance(given, Sequence) or not all(isinstance(one, History) for one in given):
        return []
    return list(given)


def _mean(series: Sequence[Series]) -> Curve:
    """Return the mean of several series, and their range, at the steps that all have."""
    steps = reduce(np.intersect1d, [one.steps for one in series])
    values = np.stack([one.values[np.isin(one.steps, steps)] for one in series]).astype(np.float64)
    x = steps.astype(np.float64)
    if len(series) == 1:
        return Curve(x, values[0])
    return Curve(x, values.mean(axis=0), values.min(axis=0), values.max(axis=0))


def _columns(records: Records) -> dict[str, NDArray[np.float64]]:
    """Return one float array a name, NaN where a record lacks it."""
    if isinstance(records, Mapping):
        columns = {str(name): np.asarray(v, np.float64) for name, v in records.items()}
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"records: expected sequences of one length, got {lengths}")
    elif isinstance(records, Sequence) and all(isinstance(r, Mapping) for r in records):
        names = dict.fromkeys(name for record in records for name in record)
        columns = {
            str(name): np.array([record.get(name, np.nan) for record in records], np.float64)
            for name in names
        }
    else:
        raise TypeError(
            "records: expected a sequence of mappings of floats, or a mapping of sequences, "
            f"got {type(records).__name__}"
        )
    if not columns or not max(map(len, columns.values())):
        raise ValueError("records: expected at least one record, got none")
    return columns


def _time(columns: Mapping[str, object], x: str | None) -> str | None:
    if x is not None:
        return _checks.choice("x", x, columns)
    return next((name for name in _TIME if name in columns), None)


def _split(name: str) -> tuple[str, str]:
    """Return ("val", "loss") for "val_loss"; a name without a split is of training."""
    head, _, tail = name.partition("_")
    if tail and head in _SPLITS:
        return head, tail
    start, _, end = name.rpartition("_")
    if start and end in _SPLITS:
        return end, start
    return "train", name
