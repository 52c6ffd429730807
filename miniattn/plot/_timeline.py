"""Who computes what when: ranks one above the other, time from left to right."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from miniattn import _checks
from miniattn.distributed import Span
from miniattn.plot._canvas import TALLEST, Figure, colours, grid, ink, steady

MANY = 12
"""Of more ranks than that, not all are named."""
WAITING = "waiting"  # as `distributed.Span` calls it


def timeline(
    spans: Sequence[Span] | Mapping[str, Sequence[Span]], *, title: str | None = None
) -> Figure:
    """Draw what each rank computes when, and where it waits (hatched).

    Parameters
    ----------
    spans : sequence of distributed.Span, or mapping of such by name
        As of `distributed.Simulation` or `distributed.Recorded`; of a mapping, a panel for each
        run, all on one scale of time.
    title : str, optional
        Title of the figure.

    Returns
    -------
    Figure
        A panel for each run, a row for each rank.

    Raises
    ------
    TypeError
        If ``spans`` are not of this kind.
    ValueError
        If there are none.

    Examples
    --------
    >>> from miniattn import plot
    >>> from miniattn.distributed import Span
    >>> fig = plot.timeline([Span(0, "keys of rank 0", 0.0, 1.5), Span(1, "waiting", 0.0, 1.0)])
    >>> [label.get_text() for label in fig.axes[0].get_yticklabels()]
    ['rank 0', 'rank 1']
    """
    runs = _checked(spans)
    names = list(dict.fromkeys(span.name for run in runs.values() for span in run))
    names = [name for name in names if name != WAITING]
    colour = dict(zip(names, colours(len(names)), strict=True))
    end = max(span.end for run in runs.values() for span in run)
    ranks = 1 + max(span.rank for run in runs.values() for span in run)
    most = TALLEST / (len(runs) + 1)  # a page holds them, and what is around them
    fig, axes = grid(len(runs), 1, 7.0, 0.6 + min(0.4 * ranks, most))
    for ax, (name, run) in zip(axes, runs.items(), strict=True):
        _panel(ax, run, colour)
        ax.set_xlim(0, end)
        if name:
            ax.set_title(name, loc="left")
    axes[-1].set_xlabel("seconds")
    handles = [Patch(facecolor=c, label=name) for name, c in colour.items()]
    if any(span.name == WAITING for run in runs.values() for span in run):
        handles.append(Patch(**_hatched(axes[0]), label=WAITING))
    fig.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    if title is not None:
        fig.suptitle(title)
    return fig


def _hatched(ax: Axes) -> dict[str, Any]:
    return {"facecolor": "none", "edgecolor": ink(0.5, ax), "hatch": "////", "linewidth": 0.0}


def _panel(ax: Axes, run: Sequence[Span], colour: Mapping[str, str]) -> None:
    ranks = sorted({span.rank for span in run})
    steady(ax)
    for span in run:
        look = _hatched(ax) if span.name == WAITING else {"facecolor": colour[span.name]}
        place = ranks.index(span.rank)
        ax.broken_barh([(span.start, span.end - span.start)], (place - 0.4, 0.8), **look)
    named = range(0, len(ranks), 1 + len(ranks) // MANY)
    ax.set_yticks(named, [f"rank {ranks[place]}" for place in named])
    ax.set_ylim(len(ranks) - 0.4, -0.6)
    ax.spines[["top", "right"]].set_visible(False)


def _checked(spans: object) -> dict[str, Sequence[Span]]:
    """Return the spans of each run by its name."""
    runs: dict[str, Any] = dict(spans) if isinstance(spans, Mapping) else {"": spans}
    for name, run in runs.items():
        where = f"spans[{name!r}]" if name else "spans"
        for span in _checks.sequence(where, run, "distributed.Span"):
            _checks.instance(where, span, Span)
        if len(run) == 0:
            raise ValueError(f"{where}: expected at least one distributed.Span, got none")
    if not runs:
        raise ValueError("spans: expected at least one run, got none")
    return runs
