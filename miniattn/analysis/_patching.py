"""Experiments on a model that runs: take something out, or put another input's in, and look.

Each is one call over names x places. What a run is worth is said by a ``metric``, a function of the
model's output that returns a number; `LogitDifference` is the usual one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from miniattn import _checks
from miniattn._typing import Array
from miniattn.analysis._metrics import Metric

if TYPE_CHECKING:
    from miniattn.nn import Module
    from miniattn.trace._edits import EditLike

Inputs: TypeAlias = "Array | tuple[Any, ...]"


def ablation(
    model: Module,
    inputs: Inputs,
    metric: Callable[[Any], float],
    names: Sequence[str],
    *,
    places: Sequence[Any] = (...,),
    edit: EditLike | Literal["mean"] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Array:
    """Return the metric with each of ``names`` taken out, at each of ``places``.

    Parameters
    ----------
    model : nn.Module
    inputs : array, or tuple of what ``model.forward`` takes by position
    metric : callable
        Of the output; returns a number.
    names : sequence of str
        Names of a trace, such as ``"blocks.layers.0.attn.heads"``.
    places : sequence of indices
        What is taken out of each: `heads_of` and `tokens_of` make the usual ones; by default all.
    edit : edit, or "mean", optional
        What takes its place: zero by default; ``"mean"`` is the average over the rows of the
        batch, which keeps what all of them have in common.
    options : dict, optional
        Further arguments of ``model.forward``, by name.

    Returns
    -------
    (len(names), len(places)) float64 array
        The metric without each.

    Raises
    ------
    TypeError, ValueError, KeyError
        If the model, the metric or a name is none.

    References
    ----------
    Michel, Levy and Neubig, "Are Sixteen Heads Really Better than One?", NeurIPS 2019, section 3;
    for the mean Wang et al., "Interpretability in the Wild", 2022, section 2.2.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import analysis, models
    >>> model = models.GPT(5, 8, embed_dim=8, num_layers=2, num_heads=2)
    >>> names = [f"blocks.layers.{i}.attn.heads" for i in range(2)]
    >>> left = analysis.ablation(
    ...     model,
    ...     np.array([[1, 2, 3]]),
    ...     analysis.LogitDifference([1], [2]),
    ...     names,
    ...     places=analysis.heads_of(2),
    ... )
    >>> left.shape
    (2, 2)
    """
    from miniattn import trace

    if isinstance(edit, str):
        _checks.choice("edit", edit, ("mean",))
        values = _values(model, inputs, names, options)
        means = {
            name: np.broadcast_to(x.mean(axis=0, keepdims=True), x.shape)
            for name, x in values.items()
        }
        return _each(model, inputs, metric, names, places, means, options)
    one = trace.zero if edit is None else edit
    return _each(model, inputs, metric, names, places, lambda name: one, options)


def activation_patching(
    model: Module,
    inputs: Inputs,
    source: Inputs,
    metric: Callable[[Any], float],
    names: Sequence[str],
    *,
    places: Sequence[Any] = (...,),
    options: Mapping[str, Any] | None = None,
) -> Array:
    """Return the metric of a run on ``inputs`` into which a run on ``source`` is patched.

    Each of ``names``, at each of ``places``, takes the value that it has with ``source``. Patching
    everything that the output is made of is the same as running ``source``.

    Parameters
    ----------
    model : nn.Module
    inputs, source : arrays, or tuples of what ``model.forward`` takes by position
        Of the same shapes. To find what is *sufficient* run on the corrupted input with the clean
        one as source; for what is *necessary* the other way round.
    metric : callable
    names : sequence of str
    places : sequence of indices
        As in `ablation`.
    options : dict, optional

    Returns
    -------
    (len(names), len(places)) float64 array
        The metric with each in its place.

    Raises
    ------
    TypeError, ValueError, KeyError
        If the model, the metric or a name is none, or the shapes of the two runs differ.

    References
    ----------
    Meng et al., "Locating and Editing Factual Associations in GPT", NeurIPS 2022, section 2;
    Zhang and Nanda, "Towards Best Practices of Activation Patching", ICLR 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import analysis, models
    >>> model = models.GPT(5, 8, embed_dim=8, num_layers=2, num_heads=2)
    >>> clean, corrupted = np.array([[1, 2, 3]]), np.array([[4, 2, 3]])
    >>> grid = analysis.activation_patching(
    ...     model,
    ...     corrupted,
    ...     clean,
    ...     analysis.LogitDifference([1], [2]),
    ...     ["blocks.layers.0", "blocks.layers.1"],
    ...     places=analysis.tokens_of(3),
    ... )
    >>> grid.shape
    (2, 3)
    """
    values = _values(model, source, names, options, argument="source")
    return _each(model, inputs, metric, names, places, values, options)


def attribution_patching(
    model: Module,
    inputs: Inputs,
    source: Inputs,
    metric: Metric,
    names: Sequence[str],
    *,
    places: Sequence[Any] = (...,),
    options: Mapping[str, Any] | None = None,
) -> Array:
    """Return what `activation_patching` would change, to first order, from three passes in all.

    Σ (x_source − x) · d metric / d x, over what is at the place: exact where the rest of the model
    is linear. It is the *change* of the metric, where `activation_patching` gives the metric.

    Parameters
    ----------
    model, inputs, source, names, places, options
        As in `activation_patching`.
    metric : callable with a ``gradient``
        As `LogitDifference` is.

    Returns
    -------
    (len(names), len(places)) float64 array
        The gradients of the model's parameters are as they were.

    Raises
    ------
    TypeError, ValueError, KeyError
        As `activation_patching`, or if ``metric`` has no ``gradient``.

    References
    ----------
    Nanda, "Attribution Patching: Activation Patching At Industrial Scale", 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import analysis, models
    >>> model = models.GPT(5, 8, embed_dim=8, num_layers=2, num_heads=2)
    >>> clean, corrupted = np.array([[1, 2, 3]]), np.array([[4, 2, 3]])
    >>> changes = analysis.attribution_patching(
    ...     model, corrupted, clean, analysis.LogitDifference([1], [2]), ["blocks.layers.0"]
    ... )
    >>> changes.shape
    (1, 1)
    """
    there = _values(model, source, names, options, argument="source")
    here, grads = values_and_gradients(model, inputs, metric, names, options)
    out = np.empty((len(names), len(places)))
    for i, name in enumerate(names):
        _same_shape(name, there[name], here[name])
        change = (there[name].astype(np.float64) - here[name]) * grads[name]
        out[i] = [change[place].sum() for place in places]
    return out


def heads_of(count: int) -> list[Any]:
    """Return the places of the heads of an array (B, H, T, ...): ``[:, 0]``, ``[:, 1]``, ...

    Examples
    --------
    >>> from miniattn import analysis
    >>> analysis.heads_of(2)
    [(slice(None, None, None), 0), (slice(None, None, None), 1)]
    """
    return [np.s_[:, h] for h in range(_checks.integer("count", count, least=0))]


def tokens_of(count: int) -> list[Any]:
    """Return the places of the tokens of an array (B, T, E): ``[:, 0]``, ``[:, 1]``, ...

    For arrays by heads, (B, H, T, D), they are ``[:, :, 0]``, ...: write ``np.s_[:, :, t]``.

    Examples
    --------
    >>> from miniattn import analysis
    >>> analysis.tokens_of(1)
    [(slice(None, None, None), 0)]
    """
    return heads_of(count)


# ------------------------------------------------------------------------------ what the others use


def run(
    model: Module,
    inputs: Inputs,
    options: Mapping[str, Any] | None,
    *,
    keep: Iterable[str] = (),
    edits: Mapping[str, EditLike] | None = None,
) -> tuple[Any, Any]:
    """Return (output, trace) of the model on ``inputs``."""
    from miniattn import trace

    given = inputs if isinstance(inputs, tuple) else (inputs,)
    return trace.run(model, *given, keep=list(keep), edits=edits, **(options or {}))


def values_and_gradients(
    model: Module,
    inputs: Inputs,
    metric: Metric,
    names: Sequence[str],
    options: Mapping[str, Any] | None = None,
    edits: Mapping[str, EditLike] | None = None,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the values of ``names`` and the gradients of the metric by them."""
    gradient = _checks.having("metric", metric, "gradient").gradient
    y, t = run(model, inputs, options, keep=names, edits=edits)
    with gradients_aside(model):  # these are of nobody's step
        g = t.gradients(gradient(y))
    return {name: t[name] for name in names}, {name: g[name] for name in names}


@contextlib.contextmanager
def gradients_aside(module: Module) -> Iterator[None]:
    """Lay the parameters' gradients aside, and put them back."""
    parameters = module.parameters()
    before = [p.grad for p in parameters]
    module.zero_grad()
    try:
        yield
    finally:
        for p, grad in zip(parameters, before, strict=True):
            p.grad = grad


def _values(
    model: Module,
    inputs: Inputs,
    names: Sequence[str],
    options: Mapping[str, Any] | None,
    argument: str = "inputs",
) -> dict[str, Array]:
    _checks.sequence("names", names, "names of a trace")
    with _checks.renamed(inputs=argument):
        _, t = run(model, inputs, options, keep=names)
    return {name: t[name] for name in names}


def _each(
    model: Module,
    inputs: Inputs,
    metric: Callable[[Any], float],
    names: Sequence[str],
    places: Sequence[Any],
    edit: Callable[[str], Any] | Mapping[str, Array],
    options: Mapping[str, Any] | None,
) -> Array:
    """Return the metric of a run for every name and place; values of the other run are cut."""
    from miniattn import trace

    _checks.function("metric", metric)
    _checks.sequence("names", names, "names of a trace")
    _checks.sequence("places", places, "indices")
    out = np.empty((len(names), len(places)))
    for i, name in enumerate(names):
        for j, place in enumerate(places):
            if isinstance(edit, Mapping):
                what: Any = (partial(_put, name, edit[name], place), _nothing_passes)
            else:
                what = trace.at[place](edit(name))
            y, _ = run(model, inputs, options, edits={name: what})
            out[i, j] = metric(y)
    return out


def _put(name: str, there: Array, place: Any, here: Array) -> tuple[Array, None]:
    """Return ``here`` with what the other run has at a place, and no context."""
    _same_shape(name, there, here)
    patched = here.copy()
    patched[place] = there[place]
    return patched, None


def _nothing_passes(dy: Array, ctx: None) -> Array:
    raise RuntimeError("a patched run has no backward")


def _same_shape(name: str, there: Array, here: Array) -> None:
    if there.shape != here.shape:
        raise ValueError(
            f"source: expected {name} of shape {here.shape} as with inputs, got {there.shape}"
        )
