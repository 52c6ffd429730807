"""Edges of the circuit: from what a part writes to what a later part reads, and nothing between.

The residual stream is a sum, so that every later part reads every earlier one directly. A head
reads three times, by its q, k and v. Two measures of an edge: patch it alone and run on (path
patching), or the gradient at the reader times what the writer changed (edge attribution).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from miniattn import _checks
from miniattn._typing import Array
from miniattn.analysis._graph import Graph
from miniattn.analysis._metrics import Metric
from miniattn.analysis._patching import Inputs, run
from miniattn.analysis._stream import ResidualStream

if TYPE_CHECKING:
    from miniattn.nn import Module


class Edges(NamedTuple):
    """A number for each pair of a writer and a later reader."""

    senders: tuple[str, ...]
    """``"start"``, ``"path.heads[h]"`` of attention, and paths of other sublayers."""
    receivers: tuple[str, ...]
    """``"path.q[h]"``, ``"path.k[g]"``, ``"path.v[g]"``, paths of other sublayers, ``"end"``."""
    values: Array
    """(senders, receivers) float64; NaN where the writer does not come before the reader."""


def path_patching(
    model: Module,
    inputs: Inputs,
    source: Inputs,
    metric: Callable[[Any], float],
    *,
    senders: Sequence[str] | None = None,
    receivers: Sequence[str] | None = None,
    stream: ResidualStream | None = None,
    options: Mapping[str, Any] | None = None,
) -> Edges:
    """Return the metric where one edge carries what it does with ``source``, all else as it was.

    For each sender: run on ``inputs`` with the sender as in ``source`` and every other part that
    adds to the stream held, and keep what the receivers then read. For each receiver: run on
    ``inputs`` with that in its place, everything after it free.

    Parameters
    ----------
    model : nn.Module
    inputs, source : arrays, or tuples of what ``model.forward`` takes by position
    metric : callable
        Of the output; returns a number.
    senders, receivers : sequences of str, optional
        As `edge_names` gives them; by default all.
    stream : ResidualStream, optional
        `residual_stream(model)` by default.
    options : dict, optional
        Further arguments of ``model.forward``, by name.

    Returns
    -------
    Edges
        The metric for each pair; the metric of ``inputs`` itself is what to compare with.

    Raises
    ------
    TypeError, ValueError, KeyError
        If the model has no such stream or a name is none of its parts.

    References
    ----------
    Wang et al., "Interpretability in the Wild: a Circuit for Indirect Object Identification in
    GPT-2 small", 2022, section 3.1 and appendix B; Goldowsky-Dill et al., "Localizing Model
    Behavior with Path Patching", 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import analysis, models
    >>> model = models.GPT(5, 8, embed_dim=8, num_layers=2, num_heads=2)
    >>> clean = np.array([[1, 2, 3]])
    >>> corrupted = np.array([[4, 2, 3]])
    >>> edges = analysis.path_patching(
    ...     model,
    ...     clean,
    ...     corrupted,
    ...     analysis.LogitDifference([1], [2]),
    ...     senders=["blocks.layers.0.attn.heads[0]"],
    ...     receivers=["blocks.layers.1.attn.q[1]", "end"],
    ... )
    >>> edges.values.shape
    (1, 2)
    """
    _checks.function("metric", metric)
    graph = Graph(model, stream)
    senders, receivers = graph.chosen(senders, receivers)
    _, clean = run(model, inputs, options, keep=graph.written)
    _, other = run(model, source, options, keep=graph.written)
    values = np.full((len(senders), len(receivers)), np.nan)
    for i, sender in enumerate(senders):
        later = [(j, r) for j, r in enumerate(receivers) if graph.comes_before(sender, r)]
        edits = graph.alone(sender, clean, other)
        read = {graph.read_at(r)[0] for _, r in later if r != "end"}
        y, t = run(model, inputs, options, keep=read, edits=edits)
        places = [(j, *graph.read_at(r)) for j, r in later if r != "end"]
        for some in _together(places, inputs, options):
            values[i, [j for j, *_ in some]] = _patched(model, inputs, metric, options, some, t)
        for j, receiver in later:
            if receiver == "end":
                values[i, j] = metric(y)
    return Edges(tuple(senders), tuple(receivers), values)


def edge_attribution(
    model: Module,
    inputs: Inputs,
    source: Inputs,
    metric: Metric,
    *,
    steps: int = 1,
    stream: ResidualStream | None = None,
    options: Mapping[str, Any] | None = None,
) -> Edges:
    """Return what path patching would change, to first order, for all edges at once.

    Σ (written by the sender with ``source`` − with ``inputs``) · d metric / d (what the receiver
    reads of the stream). With ``steps`` the gradient is the mean of as many, on the straight way
    from the embedding of ``inputs`` to that of ``source`` (integrated gradients), which does not
    miss an edge for a gradient that happens to be 0 at its beginning.

    Parameters
    ----------
    model, inputs, source, stream, options
        As in `path_patching`.
    metric : callable with a ``gradient``
        As `LogitDifference` is.
    steps : int >= 1
        1 takes the gradient at ``inputs``.

    Returns
    -------
    Edges
        Changes of the metric. Exact where what follows is linear.

    Raises
    ------
    TypeError, ValueError
        If the model has no such stream, ``metric`` no gradient, or ``steps`` < 1.

    References
    ----------
    Syed, Rager and Conmy, "Attribution Patching Outperforms Automated Circuit Discovery", 2023;
    Hanna, Pezzelle and Belinkov, "Have Faith in Faithfulness: Going Beyond Circuit Overlap When
    Finding Model Mechanisms", 2024, section 3 (integrated gradients).

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import analysis, models
    >>> model = models.GPT(5, 8, embed_dim=8, num_layers=2, num_heads=2)
    >>> clean, corrupted = np.array([[1, 2, 3]]), np.array([[4, 2, 3]])
    >>> edges = analysis.edge_attribution(
    ...     model, clean, corrupted, analysis.LogitDifference([1], [2]), steps=4
    ... )
    >>> len(edges.senders), len(edges.receivers), edges.values.shape
    (7, 15, (7, 15))
    """
    steps = _checks.integer("steps", steps, least=1)
    graph = Graph(model, stream)
    _, clean = run(model, inputs, options, keep=graph.written)
    _, other = run(model, source, options, keep=graph.written)
    start = graph.stream.start
    step = (other[start] - clean[start]) / np.asarray(steps, clean[start].dtype)
    total = None
    for k in range(1, steps + 1):
        edits = {} if steps == 1 else {start: clean[start] + k * step}
        grads = graph.read_gradients(model, inputs, metric, options, edits)
        total = grads if total is None else [a + b for a, b in zip(total, grads, strict=True)]
    assert total is not None  # there is a step
    changes = graph.contributions(other) - graph.contributions(clean)
    read = np.stack(total) / steps
    values = np.einsum("sbte,rbte->sr", changes, read)
    for i, sender in enumerate(graph.senders):
        for j, receiver in enumerate(graph.receivers):
            if not graph.comes_before(sender, receiver):
                values[i, j] = np.nan
    return Edges(graph.senders, graph.receivers, values)


def edge_names(model: Module, stream: ResidualStream | None = None) -> tuple[list[str], list[str]]:
    """Return (senders, receivers) of a model: all that write to its stream, and all that read it.

    Parameters
    ----------
    model : nn.Module
    stream : ResidualStream, optional
        `residual_stream(model)` by default.

    Raises
    ------
    TypeError, ValueError
        If the model has no such stream.

    Examples
    --------
    >>> from miniattn import analysis, models
    >>> model = models.GPT(5, 8, embed_dim=8, num_layers=1, num_heads=1)
    >>> senders, receivers = analysis.edge_names(model)
    >>> senders
    ['start', 'blocks.layers.0.attn.heads[0]', 'blocks.layers.0.ffn']
    >>> receivers[:3]
    ['blocks.layers.0.attn.q[0]', 'blocks.layers.0.attn.k[0]', 'blocks.layers.0.attn.v[0]']
    """
    graph = Graph(model, stream)
    return list(graph.senders), list(graph.receivers)


_ROWS = 64  # of a batch: more of them take more memory and are hardly faster
_Place = tuple[int, str, int | None]  # a column of the result, what is read, and by which head


def _together(
    places: list[_Place], inputs: Inputs, options: Mapping[str, Any] | None
) -> list[list[_Place]]:
    """Share receivers out to runs: many at once, where rows are all there is to repeat."""
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    alone = bool(options) or not all(isinstance(x, np.ndarray) and x.ndim for x in given)
    count = 1 if alone else max(1, _ROWS // max(1, len(given[0])))
    return [places[at : at + count] for at in range(0, len(places), count)]


def _patched(
    model: Module,
    inputs: Inputs,
    metric: Callable[[Any], float],
    options: Mapping[str, Any] | None,
    places: list[_Place],
    t: Any,
) -> list[float]:
    """Return the metric with what each receiver has read in its place, each in rows of its own."""
    from miniattn import trace

    if len(places) == 1:
        [(_, name, head)] = places
        edit = t[name] if head is None else trace.at[:, head](t[name][:, head])
        return [metric(run(model, inputs, options, edits={name: edit})[0])]
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    rows = len(given[0])
    edits: dict[str, list[Any]] = {}
    for i, (_, name, head) in enumerate(places):
        own = slice(i * rows, (i + 1) * rows)
        one = trace.at[own](t[name]) if head is None else trace.at[own, head](t[name][:, head])
        edits.setdefault(name, []).append(one)
    many = tuple(np.concatenate([x] * len(places)) for x in given)
    y, _ = run(model, many, options, edits=edits)
    return [metric(y[i * rows : (i + 1) * rows]) for i in range(len(places))]
