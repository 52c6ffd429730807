"""The residual stream by layer and token, and results of patching by name and place."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm, Colormap, Normalize
from numpy.typing import ArrayLike

from miniattn import _checks
from miniattn._typing import Array
from miniattn.analysis import Edges
from miniattn.plot import _grid
from miniattn.plot._canvas import Figure, axes_of, figure, inches
from miniattn.plot._text import Tokens, checked, drawable, labels, visible
from miniattn.plot._ticks import label, room
from miniattn.trace import Gradients, Trace

_WIDTH, _HEIGHT = (3.2, 7.0), (2.0, 7.0)  # inches of a panel, at least and at most


def residual_stream(
    trace: Trace,
    gradients: Gradients | None = None,
    *,
    names: Sequence[str] | None = None,
    tokens: Tokens = None,
    batch: int = 0,
    cmap: str | Colormap | None = None,
    title: str | None = None,
) -> Figure:
    """Draw the residual stream: how long its vector is at each place and token, and its gradient.

    A row is a place in the model, from the embedding down to the last layer; a column a token.
    Where a norm grows by itself from layer to layer, or a gradient dies on its way up, it shows.

    Parameters
    ----------
    trace : trace.Trace
        Of `trace.run`; keep "*.middle", "*.input" and the layers, or everything.
    gradients : trace.Gradients, optional
        Of ``trace.gradients(dy)``; a second panel shows their norms, on a scale of their own.
    names : sequence of str, optional
        The places, of values (B, T, E). By default the input of the first stack of layers, each
        layer's ``middle`` and what each layer returned.
    tokens : sequence, optional
        Labels of the T tokens; those of the trace by default.
    batch : int, default 0
        The row of the batch.
    cmap : str or Colormap, optional
        By default ``rcParams["image.cmap"]``.
    title : str, optional
        Title of the figure.

    Returns
    -------
    Figure
        One panel, or two with ``gradients``.

    Raises
    ------
    TypeError
        If ``trace`` or ``gradients`` are of another kind.
    ValueError
        If there are no such places, or a place is no array (B, T, E).

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import models, plot, trace
    >>> model = models.GPT(5, 8, embed_dim=8, num_layers=2, num_heads=2)
    >>> y, t = trace.run(model, np.array([[1, 2, 3]]))
    >>> fig = plot.residual_stream(t, t.gradients(np.ones_like(y)), tokens=["a", "b", "c"])
    >>> [ax.get_title() for ax in fig.axes[:2]]
    ['norm of the value', 'norm of the gradient']
    """
    t = _checks.instance("trace", trace, Trace)
    g = _checks.instance("gradients", gradients, Gradients, optional=True)
    places = places_along(t) if names is None else list(_checks.sequence("names", names, "names"))
    if not places:
        raise ValueError(
            "names: expected names of values (B, T, E); the trace has no layers to choose from"
        )
    drawn = {"norm of the value": _norms(t, places, batch)}
    if g is not None:
        drawn["norm of the gradient"] = _norms(g, places, batch)
    rows, columns = next(iter(drawn.values())).shape
    shown = labels("tokens", t.tokens if tokens is None else tokens, "T", columns)
    stack = places[-1].rpartition("layers.")[0]
    where = [drawable(visible(name.removeprefix(stack))) for name in places]
    beside, below = room(where, shown, (rows, columns))
    width, height = inches(columns, *_WIDTH), inches(rows, *_HEIGHT)
    fig = figure(len(drawn) * (width + 1.3) + beside, height + below + 0.6)
    panels = fig.subplots(1, len(drawn), squeeze=False, sharey=True)[0]
    for ax, (name, values) in zip(panels, drawn.items(), strict=True):
        norm = Normalize(0.0, float(np.nanmax(values, initial=0.0)) or 1.0)
        _table(ax, values, norm, cmap, where, shown)
        ax.set(title=name, xlabel="token")
        ax.tick_params(labelleft=ax is panels[0])
    if title is not None:
        fig.suptitle(title)
    return fig


def patching(
    values: Edges | ArrayLike,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    *,
    baseline: float = 0.0,
    ax: Axes | None = None,
    cmap: str | Colormap = "RdBu_r",
    label: str = "metric",
    title: str | None = None,
) -> Figure | Axes:
    """Draw the results of an experiment by name and place, in colours centred at a baseline.

    Parameters
    ----------
    values : (n, m) array, or analysis.Edges
        Of `analysis.activation_patching` and its siblings. NaN, where there is no edge, is left
        open.
    rows, columns : sequences of str, optional
        What the rows and columns are: names and places. Edges bring their own.
    baseline : float, default 0
        The number at which the colours are neutral: the metric of the run that was patched.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.
    cmap : str or Colormap, default "RdBu_r"
    label : str, default "metric"
        What the numbers are, for the colour bar.
    title : str, optional

    Returns
    -------
    Axes or Figure
        ``ax`` if it was given, else a new figure of the table.

    Raises
    ------
    TypeError, ValueError
        If ``values`` is no table of finite numbers (or NaN), or labels do not fit.

    Examples
    --------
    >>> from miniattn import plot
    >>> fig = plot.patching([[0.1, -0.3], [0.0, 0.9]], ["layer 0", "layer 1"], ["a", "b"])
    >>> fig.axes[0].get_ylabel(), fig.axes[1].get_ylabel()
    ('', 'metric')
    """
    if isinstance(values, Edges):
        rows = values.senders if rows is None else rows
        columns = values.receivers if columns is None else columns
        values = values.values
    table = _checks.float_array("values", np.asarray(values, np.float64))
    _checks.shape("values", table, "n, m")
    if table.size == 0 or np.isinf(table).any():
        raise ValueError(f"values: expected finite numbers or NaN, got {table}")
    baseline = _checks.number("baseline", baseline)
    downwards = _names("rows", rows, table.shape[0])
    across = _names("columns", columns, table.shape[1])
    beside, below = room(downwards, across, (table.shape[0], table.shape[1]))
    width, height = inches(table.shape[1], *_WIDTH), inches(table.shape[0], *_HEIGHT)
    ax, made = axes_of(ax, width + beside + 1.3, height + below + 0.5)
    furthest = float(np.nanmax(np.abs(table - baseline), initial=0.0)) or 1.0
    _table(ax, table, CenteredNorm(baseline, furthest), cmap, downwards, across, label)
    ax.set_title(title or "")
    return made


def _names(argument: str, names: Sequence[str] | None, count: int) -> list[str] | None:
    """Return names of parts as labels: without what all of those with a dot begin with."""
    checked(argument, names, f"{count} names", count)
    if names is None:
        return None
    texts = [str(name) for name in names]
    paths = [text.split(".") for text in texts if "." in text]
    same = 0
    if len(paths) > 1:
        while all(len(path) > same + 1 and path[same] == paths[0][same] for path in paths):
            same += 1
    short = [".".join(t.split(".")[same:]) if "." in t else t for t in texts]
    return [drawable(visible(text)) for text in short]


def places_along(t: Trace | Gradients) -> list[str]:
    """Return the names along the stream: its start, the middle and the end of each layer."""
    layers = [name.removesuffix(".middle") for name in t.names if name.endswith(".middle")]
    if not layers:
        return []
    stack = layers[0].rpartition("layers.")[0]
    start = f"{stack}input"
    between = [place for name in layers for place in (f"{name}.middle", name)]
    return [name for name in (start, *between) if name in t.names]


def _norms(values: Trace | Gradients, places: Sequence[str], batch: int) -> Array:
    """Return the length of each vector, (places, T) in float64."""
    rows = []
    for name in places:
        x = np.asarray(values[name])
        if x.ndim != 3 or x.dtype.kind != "f":
            raise ValueError(f"names: expected values (B, T, E), got {name} of shape {x.shape}")
        batch = _checks.integer("batch", batch)
        if not -len(x) <= batch < len(x):
            raise ValueError(f"batch: expected a row of {len(x)}, got {batch}")
        rows.append(np.sqrt(np.square(x[batch].astype(np.float64)).sum(axis=-1)))
        if len(rows[-1]) != len(rows[0]):
            raise ValueError(
                f"names: expected values of one length T = {len(rows[0])}, "
                f"got {name} of shape {x.shape}"
            )
    return np.stack(rows)


def _table(
    ax: Axes,
    values: Array,
    norm: Normalize,
    cmap: str | Colormap | None,
    rows: Sequence[str] | None,
    columns: Sequence[str] | None,
    name: str = "",
) -> None:
    """Draw a table of numbers, with labels at both sides and a bar that says what colours mean."""
    shape = (values.shape[0], values.shape[1])
    missing = np.isnan(values)
    empty = np.zeros(shape[0], np.bool_)
    panel = _grid.Panel(np.where(missing, norm.vmin or 0.0, values), missing, empty, shape, shape)
    image = _grid.draw(ax, panel, norm, cmap=cmap, signed=True, hatched=bool(missing.any()))
    ax.set_aspect("auto")
    label(ax.yaxis, rows, shape[0])
    upright = columns is not None and max(map(len, columns), default=0) > 2
    label(ax.xaxis, columns, shape[1], upright=upright)
    below = room(rows, columns, shape)[1]
    _grid.colour_bar(image, [ax], [panel], name, masked="no such edge", below=below)
