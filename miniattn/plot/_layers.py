"""All heads of all layers: their maps at a glance, and what each does in numbers."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from miniattn import _checks, analysis
from miniattn.plot import _grid
from miniattn.plot._canvas import Figure, figure, ink, points
from miniattn.plot._text import em
from miniattn.trace import Trace

Array = NDArray[Any]
Layers: TypeAlias = Trace | ArrayLike | Sequence[ArrayLike]

MOST_CELLS = 256  # a side of one of many small maps


def attention_layers(
    weights: Layers,
    *,
    batch: int = 0,
    mask: object = None,
    scale: _grid.Scale = "linear",
    cmap: str | Colormap | None = None,
    vmax: float | None = None,
    extent: tuple[int, int] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw every head of every layer as a small map: a row for each layer, a column for each head.

    Parameters
    ----------
    weights : trace.Trace, (L, H, T, S) array, or sequence of L arrays (H, T, S)
        The layers may differ in H, T and S if they come as a sequence or a trace.
    batch : int, default 0
        The batch row to draw, of a trace.
    mask, scale, cmap, vmax, extent
        As in `attention_map`; one mask, which broadcasts to (H, T, S), for all layers.
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
    names, layers = _by_layer(weights, batch)
    drawn = [_grid.panels(maps, mask, extent, MOST_CELLS) for maps in layers]
    everything = [panel for row in drawn for panel in row]
    if not everything:
        raise ValueError("weights: expected at least one head, got none")
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
            image = _grid.draw(ax, panel, norm, scale=scale, cmap=cmap)
            ax.set(xticks=[], yticks=[])
            if head == 0:
                ax.set_ylabel(name, rotation=0, ha="right", va="center")
            if layer == 0 or head >= max(map(len, drawn[:layer])):
                ax.set_title(f"head {head}" if columns <= 8 else str(head), fontsize="medium")
    _grid.colour_bar(image, [whole], everything, _grid.what(scale, everything[0]))
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
    weights: Layers, *, sinks: int = 1, cmap: str | Colormap | None = None, title: str | None = None
) -> Figure:
    """Draw three numbers of every head, by layer: entropy, distance and sink mass.

    Each is the mean over all queries that may attend to anything, and over the batch of a trace;
    see `miniattn.analysis.entropy`, `distance` and `sink_mass`.

    Parameters
    ----------
    weights : trace.Trace, (L, H, T, S) array, or sequence of L arrays (H, T, S)
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
    names, layers = _by_layer(weights, None)
    sink_name = "sink mass" if sinks == 1 else f"mass on the first {sinks} keys"
    numbers = {
        "entropy (nats)": [_mean(analysis.entropy(w)) for w in layers],
        "mean distance (tokens)": [_mean(analysis.distance(w)) for w in layers],
        sink_name: [_mean(analysis.sink_mass(w, sinks=sinks)) for w in layers],
    }
    columns = max(w.shape[-3] for w in layers)
    if columns == 0:
        raise ValueError("weights: expected at least one head, got none")
    cell = float(np.clip(3.2 / columns, 0.1, 0.7))
    beside = max(map(em, names)) * points(mpl.rcParams["ytick.labelsize"]) / 72
    titles = max(map(em, numbers)) * points(mpl.rcParams["axes.titlesize"]) / 72
    width = max(columns * cell, titles)
    fig = figure(3 * (width + 0.4) + beside, len(names) * max(0.8 * cell, 0.18) + 1.3)
    axes = fig.subplots(1, 3, sharey=True)
    for ax, (name, rows) in zip(axes, numbers.items(), strict=True):
        _numbers(ax, _table(rows, columns), cmap, wide=cell >= 0.4)
        ax.set(title=name, xlabel="head")
    axes[0].set_yticks(range(len(names)), names)
    if title is not None:
        fig.suptitle(title)
    return fig


def _numbers(ax: Axes, table: Array, cmap: str | Colormap | None, *, wide: bool) -> None:
    """Draw a table as colours, each cell with its number where there is room."""
    missing = np.isnan(table)
    top = float(np.nanmax(table, initial=0.0)) or 1.0
    if missing.any():
        rows, cols = table.shape
        ax.add_patch(Rectangle((-0.5, -0.5), cols, rows, zorder=-2, **_grid.masked_style()))
    image = ax.imshow(
        np.ma.masked_array(table, missing),
        vmin=0.0,
        vmax=top,
        cmap=_grid.open_where_bad(cmap),
        aspect="auto",
    )
    ax.figure.colorbar(image, ax=ax, location="bottom", aspect=30, pad=0.03)
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    ax.tick_params(length=0)
    if wide:
        size = min(points("small"), 8.0 * 4 / max(len(_short(value)) for value in table.flat))
        for (layer, head), value in np.ndenumerate(table):
            if np.isfinite(value):
                text = _short(value)
                dark = sum(np.array(image.to_rgba(value)[:3]) * (0.3, 0.59, 0.11)) < 0.5
                colour = "white" if dark else "black"
                ax.text(head, layer, text, ha="center", va="center", fontsize=size, color=colour)
    ax.spines[:].set_color(ink(0.3))


def _short(value: float) -> str:
    """Return at least two digits that count: 123, 1.23, 0.12, 0.0012."""
    if value >= 10:
        return f"{value:.0f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _mean(values: Array) -> Array:
    """Return the mean (H,) of (..., H, T) over what is not NaN; NaN where nothing is left."""
    heads = np.moveaxis(values.astype(np.float64), -2, 0).reshape(values.shape[-2], -1)
    count = np.isfinite(heads).sum(axis=1)
    return np.where(count > 0, np.nansum(heads, axis=1) / np.maximum(count, 1), np.nan)


def _table(rows: Sequence[Array], columns: int) -> Array:
    """Return the rows below each other, NaN where a layer has fewer heads."""
    table = np.full((len(rows), columns), np.nan)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row
    return table


def _by_layer(weights: Layers, batch: int | None) -> tuple[list[str], list[Array]]:
    """Return the name and the maps (H, T, S) of each layer; batch None keeps a trace's batch."""
    if isinstance(weights, Trace):
        names, maps = (
            weights.names,
            [_grid.real(n, weights[n], ["B, H, T, S"]) for n in weights.names],
        )
        if batch is not None:
            rows = len(maps[0]) if maps else 0
            if not 0 <= _checks.integer("batch", batch) < rows:
                raise ValueError(f"batch: expected an index in [0, {rows}), got {batch}")
            maps = [layer[batch] for layer in maps]
    else:
        whole = isinstance(weights, np.ndarray)
        given = _grid.real("weights", weights, ["L, H, T, S"]) if whole else weights
        maps = [_grid.real("weights", layer, ["H, T, S"]) for layer in given]  # type: ignore[union-attr]
        names = [f"layer {i}" for i in range(len(maps))]
    if not maps:
        raise ValueError("weights: expected at least one layer, got none")
    return names, maps
