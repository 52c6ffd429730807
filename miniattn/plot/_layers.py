"""All heads of all layers: their maps at a glance, and what each does in numbers."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, Unpack

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from miniattn import _checks, analysis
from miniattn._typing import Array, MaskLike
from miniattn.plot import _grid
from miniattn.plot._canvas import Figure, figure, ink, legend_beside, points
from miniattn.plot._numbers import write
from miniattn.plot._source import Given, Head, layers
from miniattn.plot._source import heads as _heads
from miniattn.plot._text import em
from miniattn.plot._values import Reading, read
from miniattn.trace import Trace

MOST_CELLS = 256  # a side of one of many small maps


class LayersReading(Reading, total=False):
    """How the maps of layers are read."""

    heads: Literal["mean"] | None


def attention_layers(
    weights: Given,
    *,
    batch: int = 0,
    mask: MaskLike = None,
    scale: _grid.Scale = "linear",
    cmap: str | Colormap | None = None,
    vmax: float | None = None,
    extent: tuple[int, int] | None = None,
    title: str | None = None,
    **reading: Unpack[LayersReading],
) -> Figure:
    """Draw every head of every layer as a small map: a row for each layer, a column for each head.

    Parameters
    ----------
    weights : trace.Trace, mapping, (L, H, T, S) array, or sequence of L arrays (H, T, S)
        The layers may differ in H, T and S if they come as a sequence, a mapping or a trace.
    batch : int, default 0
        The batch row to draw, of a trace.
    heads : "mean", optional
        Draw the mean of each layer's heads instead.
    gradients : trace.Gradients, or layers like weights, optional
    mask, scale, cmap, vmax, extent
        As in `attention_map`; one mask, which broadcasts to (H, T, S), for all layers.
    value, words, key_words
        As in `attention_map`; the same tokens make a word in all layers.
    title : str, optional
        Title of the figure.

    Returns
    -------
    Figure
        The small maps are ``figure.axes[0].child_axes``, layer by layer.

    Raises
    ------
    TypeError, ValueError
        As `attention_map`.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import plot
    >>> fig = plot.attention_layers(np.full((2, 4, 3, 3), 1 / 3))
    >>> [ax.get_title() for ax in fig.axes[0].child_axes[:4]]
    ['head 0', 'head 1', 'head 2', 'head 3']
    """
    _checks.choice("scale", scale, _grid.SCALES)
    options: dict[str, Any] = {"mask": mask, "batch": batch, "extent": extent}
    how: dict[str, Any] = dict(reading)
    options["gradients"] = how.pop("gradients", None)
    heads = how.pop("heads", None)
    if heads is not None:
        _checks.choice("heads", heads, ("mean",))
    given = [read(x, mean=heads is not None, **how) for x in layers(weights, **options)]
    names = [layer.name for layer in given]
    drawn = [_grid.panels(layer, MOST_CELLS, scale=scale) for layer in given]
    everything = [panel for row in drawn for panel in row]
    columns = max(map(len, drawn))
    side = float(np.clip(11 / max(columns, len(drawn)), 0.4, 1.8))
    beside = max(map(em, names)) * points(mpl.rcParams["axes.labelsize"]) / 72
    fig = figure(columns * side + beside + 1.4, len(drawn) * side + 0.8)
    norm = _grid.norm(everything, scale, vmax)
    whole = fig.add_subplot()
    whole.set_axis_off()
    for layer, (panels, name) in enumerate(zip(drawn, names, strict=True)):
        for head, panel in enumerate(panels):
            ax = _place(whole, layer, head, len(drawn), columns)
            image = _grid.draw(ax, panel, norm, cmap=cmap)
            ax.set(xticks=[], yticks=[])
            if head == 0:
                ax.set_ylabel(name, rotation=0, ha="right", va="center")
            first = layer == 0 or head >= max(map(len, drawn[:layer]))
            ax.set_in_layout(first or head == 0)  # the others have no text that needs room
            if first:
                name = f"head {head}" if columns <= 8 else str(head)
                ax.set_title("mean of heads" if heads else name, fontsize="medium")
    _grid.colour_bar(image, [whole], everything, _grid.what(scale, everything))
    if columns > 8:
        fig.supxlabel("query: down, key: right; columns: heads", fontsize="medium")
    else:
        fig.supxlabel("query: down, key: right", fontsize="medium")
    if title is not None:
        fig.suptitle(title)
    return fig


def _place(whole: Axes, layer: int, head: int, layers: int, columns: int) -> Axes:
    """Return the axes of a head within ``whole``, which is all that the layout has to place."""
    width, height, gap = 1 / columns, 1 / layers, 0.06
    left, below = head + gap / 2, layers - layer - 1 + gap / 2
    return whole.inset_axes((left * width, below * height, (1 - gap) * width, (1 - gap) * height))


def head_summary(
    weights: Given, *, sinks: int = 1, cmap: str | Colormap | None = None, title: str | None = None
) -> Figure:
    """Draw three numbers of every head, by layer: entropy, distance and sink mass.

    Each is the mean over all queries that may attend to anything, and over the batch of a trace;
    see `miniattn.analysis.entropy`, `distance` and `sink_mass`.

    Parameters
    ----------
    weights : trace.Trace, mapping, (L, H, T, S) array, or sequence of L arrays (H, T, S)
        Exact maps: pooled ones have other entropies and distances.
    sinks : int >= 1, default 1
        How many of the first keys count as sinks.
    cmap : str or Colormap, optional
        By default ``rcParams["image.cmap"]``.
    title : str, optional
        Title of the figure.

    Returns
    -------
    Figure
        Three panels: a row of cells is a layer, a column a head.

    Raises
    ------
    TypeError, ValueError
        If the weights are no such maps, or ``sinks`` is not an int >= 1.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import plot
    >>> fig = plot.head_summary(np.full((2, 4, 3, 3), 1 / 3))
    >>> [ax.get_title() for ax in fig.axes[:3]]
    ['entropy (nats)', 'mean distance (tokens)', 'sink mass']
    """
    batch = weights.weights.values() if isinstance(weights, Trace) else ()
    given = [layers(weights, batch=b) for b in range(len(next(iter(batch), [0])))]
    names = [layer.name for layer in given[0]]
    # A layer's maps of every row of the batch: by row, by head.
    maps = [[_heads(layer) for layer in rows] for rows in zip(*given, strict=True)]
    sink_name = "sink mass" if sinks == 1 else f"mass on the first {sinks} keys"
    measures: dict[str, Callable[[Array], Array]] = {
        "entropy (nats)": analysis.entropy,
        "mean distance (tokens)": analysis.distance,
        sink_name: partial(analysis.sink_mass, sinks=sinks),
    }
    columns = max(len(layer.weights) for layer in given[0])
    cell = float(np.clip(3.2 / columns, 0.1, 0.7))
    beside = max(map(em, names)) * points(mpl.rcParams["ytick.labelsize"]) / 72
    titles = max(map(em, measures)) * points(mpl.rcParams["axes.titlesize"]) / 72
    width = max(columns * cell, titles)
    fig = figure(3 * (width + 0.4) + beside, len(names) * max(0.8 * cell, 0.18) + 1.3)
    axes = fig.subplots(1, 3, sharey=True)
    tables = [_table(maps, measure, columns) for measure in measures.values()]
    for ax, name, table in zip(axes, measures, tables, strict=True):
        _numbers(ax, table, cmap, wide=cell >= 0.4)
        ax.set(title=name, xlabel="head")
        ax.tick_params(labelleft=ax is axes[0])
    axes[0].set_yticks(range(len(names)), names)
    looks = [
        ("no head, or empty", _grid.masked_style(axes[0]), any(t.mask.any() for t in tables)),
        (_grid.BAD, _grid.bad_style(), any(np.isnan(t.data).any() for t in tables)),
    ]
    if swatches := [Patch(label=label, **look) for label, look, used in looks if used]:
        legend_beside(axes[-1], swatches, below=0.0)
    unusual = _grid.unusual_sums(head for rows in maps for each in rows for head in each)
    if unusual is not None:
        fig.supxlabel(_grid.unusual_note(unusual), fontsize="medium")
    if title is not None:
        fig.suptitle(title)
    return fig


def _numbers(ax: Axes, table: Any, cmap: str | Colormap | None, *, wide: bool) -> None:
    """Draw a table as colours, each cell with its number where there is room."""
    shape, mask = table.shape, np.ma.getmaskarray(table)
    empty = np.zeros(len(table), np.bool_)
    panel = _grid.Panel(table.data, mask, empty, shape, shape)
    image = _grid.draw(ax, panel, _grid.norm([panel], "linear"), cmap=cmap)
    ax.set_aspect("auto")
    ax.get_figure().colorbar(image, ax=ax, location="bottom", aspect=30, pad=0.03)  # type: ignore[union-attr]
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    ax.tick_params(length=0)
    if wide:
        write(ax, image, table, _short)
    ax.spines[:].set_color(ink(0.3, ax))


def _short(value: float) -> str:
    """Return at least two digits that count: 123, 1.23, 0.12, 0.0012."""
    if value >= 10:
        return f"{value:.0f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _table(
    maps: Sequence[Sequence[Sequence[Head]]], measure: Callable[[Array], Array], columns: int
) -> Any:
    """Return the mean of a measure (layers, heads) over batch and queries.

    It is masked where there is no such head, or no query that may attend to anything, and NaN
    where a weight is.
    """
    shape = (len(maps), columns)
    table: Any = np.ma.masked_array(np.zeros(shape), np.ones(shape, np.bool_))
    for line, rows in enumerate(maps):
        for head, batch in enumerate(zip(*rows, strict=True)):
            found = np.concatenate([measure(one.values) for one in batch], dtype=np.float64)
            if any(np.isnan(one.values).any() for one in batch):
                table[line, head] = np.nan
            elif np.isfinite(found).any():
                table[line, head] = np.nanmean(found)
    return table
