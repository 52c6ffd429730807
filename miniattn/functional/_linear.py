"""Linear maps, table look-ups and dropout: `linear`, `embedding`, `dropout` and their pairs."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from miniattn import _checks
from miniattn._context import context
from miniattn._memory import empty
from miniattn._typing import AFFINE, AffineInput, Array
from miniattn.functional._arrays import kernel_input, rows
from miniattn.functional._product import Sum, products
from miniattn.functional._rows import run_rows
from miniattn.kernels.compile.launch import NO_FACTORS, run
from miniattn.kernels.compile.queue import Told
from miniattn.kernels.compile.settings import get_num_threads
from miniattn.kernels.compile.tables import addresses
from miniattn.kernels.dense import linear as kernel_linear
from miniattn.kernels.rows import columns


class LinearGrads(NamedTuple):
    """Gradients of `linear`; None where not needed, and for a bias not given."""

    dx: Array | None
    """(..., E)."""
    dweight: Array | None
    """(F, E)."""
    dbias: Array | None
    """(F,)."""


@context
class LinearContext(NamedTuple):
    """What `linear_backward` needs: the inputs, and whether there was a bias."""

    x: Array
    weight: Array
    has_bias: bool


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Linear map of the last axis: y = x · weightᵀ + bias.

    Parameters
    ----------
    x : ndarray, shape (..., E)
        Any number of leading axes; float32 or float64.
    weight : ndarray, shape (F, E)
        Row f holds the weights of output f: the layout of most frameworks, (out, in).
    bias : ndarray, shape (F,), optional

    Returns
    -------
    ndarray, shape (..., F)
        With the leading axes of ``x``.

    Raises
    ------
    TypeError
        If an argument is not float32 or float64, or the dtypes differ.
    ValueError
        If the shapes do not fit.

    Notes
    -----
    Products are added up in the dtype of ``x``. So no partial sum may overflow, in y nor in the
    gradients, where the sum itself would not; this is true of every matrix product and of every
    gradient that a parameter collects over rows. Backward by hand: ``docs/derivations/linear.md``.

    Examples
    --------
    >>> import numpy as np
    >>> import miniattn.functional as F
    >>> F.linear(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [5.0, 6.0]]), np.array([0.5, 0.0]))
    array([[11.5, 17. ]])
    """
    return linear_forward(x, weight, bias)[0]


def linear_forward(
    x: Array, weight: Array, bias: Array | None = None
) -> tuple[Array, LinearContext]:
    """Return ``linear(x, weight, bias)`` and the context for `linear_backward`.

    The context holds x and weight themselves: before the backward, write to a copy.
    """
    return linears_forward(x, [weight], [bias])[0]


def linears_forward(
    x: Array, weights: Sequence[Array], biases: Sequence[Array | None]
) -> list[tuple[Array, LinearContext]]:
    """Return what `linear_forward` does for each of several weights, from one launch."""
    x = _checks.float_array("x", x)
    _checks.shape("x", x, "..., E")
    checked = [checked_parameters(x, *given) for given in zip(weights, biases, strict=True)]
    x_rows = rows(x)
    if len(x_rows) > kernel_linear.FEW:
        ys = products(*(Sum(((x_rows, weight.T),), bias) for weight, bias in checked))
    else:
        ys = [_few_rows(x_rows, weight, bias) for weight, bias in checked]
    return [
        (y.reshape(*x.shape[:-1], len(weight)), LinearContext(x, weight, bias is not None))
        for y, (weight, bias) in zip(ys, checked, strict=True)
    ]


def linear_backward(
    dy: Array, ctx: LinearContext, *, needs: Sequence[AffineInput] = AFFINE
) -> LinearGrads:
    """Return ``(dx, dweight, dbias)``; None where not needed, and for a bias not given.

    ``needs`` names the inputs whose gradients are wanted: all of ``("x", "weight", "bias")``.
    With the leading axes of x and dy flattened to R rows:

    - dx = dy · weight, shape (..., E)
    - dweight = dyᵀ · x, shape (F, E)
    - dbias = Σ over rows of dy, shape (F,)
    """
    of_x, of_weight, of_bias = _checks.needs(needs, AFFINE)
    dx, ((dweight, dbias),) = linears_backward([dy], [ctx], of_x, [(of_weight, of_bias)])
    return LinearGrads(dx, dweight, dbias)


def linears_backward(
    dys: Sequence[Array],
    contexts: Sequence[LinearContext],
    of_x: bool,
    of_parameters: Sequence[tuple[bool, bool]],
) -> tuple[Array | None, list[tuple[Array | None, Array | None]]]:
    """Return the sum of the dx of linear maps of one x, and (dweight, dbias) of each.

    - dx = Σ dy · weight, over the maps

    Those of them that are asked for: ``of_x``, and ``of_parameters`` (weight, bias) of each map.
    """
    contexts = [_checks.context(ctx, LinearContext) for ctx in contexts]
    x = contexts[0].x
    x_rows, dy_rows = rows(x), []
    for dy, (_, weight, _) in zip(dys, contexts, strict=True):
        dy_rows.append(rows(_checks.gradient("dy", dy, (*x.shape[:-1], len(weight)), x.dtype)))
    sums = [Sum(((dy.T, x_rows),)) for dy, (w, _) in zip(dy_rows, of_parameters, strict=True) if w]
    if of_x:
        weights = (ctx.weight for ctx in contexts)
        sums.insert(0, Sum(tuple(zip(dy_rows, weights, strict=True))))
    results = iter(products(*sums) if sums else ())
    dx = next(results).reshape(x.shape) if of_x else None
    grads = [
        (next(results) if dweight else None, sum_rows(dy) if dbias and ctx.has_bias else None)
        for dy, ctx, (dweight, dbias) in zip(dy_rows, contexts, of_parameters, strict=True)
    ]
    return dx, grads


def checked_parameters(x: Array, weight: Array, bias: Array | None) -> tuple[Array, Array | None]:
    """Return the weight and the bias of a linear map of ``x``, checked."""
    weight = _checks.float_array("weight", weight)
    bias = None if bias is None else _checks.float_array("bias", bias)
    _checks.same_dtype(x=x, weight=weight, bias=bias)
    _checks.shape("weight", weight, "F, E", {"E": x.shape[-1]})
    if bias is not None:
        _checks.shape("bias", bias, "F", {"F": len(weight)})
    return weight, bias


def _few_rows(x: Array, weight: Array, bias: Array | None) -> Array:
    """Return x · weightᵀ + bias for x (R, E), weight (F, E)."""
    y = empty((len(x), len(weight)), x.dtype)
    weight = kernel_input(weight)
    operands = x, weight, y, *(() if bias is None else (kernel_input(bias),))
    least = kernel_linear.SMALL // max(1, len(x))
    told = len(x), bias is not None
    run_rows(kernel_linear.few_rows, weight, (), operands, *told, least=least)
    return y


def sum_rows(x: Array) -> Array:
    """Return the sum of the rows of ``x`` (R, n): the same bits for any number of threads."""
    total = np.empty(x.shape[1], x.dtype)
    pieces, sizes = _pieces_of_sum(x.shape)
    arrays = x, total, np.empty((pieces, 2, x.shape[1]))
    told = Told(sizes, NO_FACTORS, np.array([*addresses(arrays), 0]))
    run(columns.sum_rows, x.dtype, _workers(pieces, x), pieces, told, arrays)
    return total


@functools.lru_cache(1024)
def _pieces_of_sum(shape: tuple[int, int]) -> tuple[int, Array]:
    """Return among how many pieces of work the rows of a sum are dealt, and what they are told."""
    share = columns.rows_per_task(shape[0])
    pieces = max(1, -(-shape[0] // share))
    return pieces, np.array([*shape, share, pieces])


def _workers(pieces: int, x: Array) -> int:
    """Return how many threads add up rows of ``x``."""
    return 1 if x.size <= columns.SMALL else min(pieces, get_num_threads())


@context
class EmbeddingContext(NamedTuple):
    """What `embedding_backward` needs: the ids and the shape and dtype of the table."""

    ids: Array
    shape: tuple[int, int]
    dtype: np.dtype[np.floating]


def embedding(ids: Array, weight: Array) -> Array:
    """Rows of a table: y[...] = weight[ids[...]].

    Parameters
    ----------
    ids : ndarray of int, shape (...)
        Row numbers in [0, V). Negative numbers do not count from the end.
    weight : ndarray, shape (V, E)
        float32 or float64.

    Returns
    -------
    ndarray, shape (..., E)
        Copies of the rows.

    Raises
    ------
    TypeError
        If ``ids`` are not integers or ``weight`` is not float32 or float64.
    ValueError
        If an id is outside [0, V).

    Notes
    -----
    Backward by hand: ``docs/derivations/embedding.md``.

    Examples
    --------
    >>> import numpy as np
    >>> import miniattn.functional as F
    >>> F.embedding(np.array([2, 0]), np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    array([[5., 6.],
           [1., 2.]])
    """
    return embedding_forward(ids, weight)[0]


def embedding_forward(ids: Array, weight: Array) -> tuple[Array, EmbeddingContext]:
    """Return ``embedding(ids, weight)`` and the context for `embedding_backward`.

    The context holds ids itself: before the backward, write to a copy.
    """
    ids = _checks.int_array("ids", ids)
    weight = _checks.float_array("weight", weight)
    _checks.shape("weight", weight, "V, E")
    _check_range(ids, weight.shape[0])
    # The ids are in range: mode="clip" only spares NumPy a buffered second copy.
    if not ids.size:
        return weight[ids], EmbeddingContext(ids, weight.shape, weight.dtype)
    y = empty((*ids.shape, weight.shape[1]), weight.dtype)
    weight.take(ids, axis=0, mode="clip", out=y)
    return y, EmbeddingContext(ids, weight.shape, weight.dtype)


def embedding_backward(dy: Array, ctx: EmbeddingContext) -> Array:
    """Return ``dweight`` (V, E): row v is the sum of the rows of dy whose id is v, in order."""
    ctx = _checks.context(ctx, EmbeddingContext)
    dy = _checks.gradient("dy", dy, (*ctx.ids.shape, ctx.shape[1]), ctx.dtype)
    dweight = np.zeros(ctx.shape, ctx.dtype)
    ids, dy = np.ascontiguousarray(ctx.ids, np.int64).reshape(-1), rows(dy)
    pieces = -(-ctx.shape[1] // columns.SLICE)
    arrays = ids, dy, dweight
    told = Told(np.array(dy.shape), NO_FACTORS, np.array(addresses(arrays)))
    run(columns.scatter_add, dy.dtype, _workers(pieces, dy), pieces, told, arrays)
    return dweight


def _check_range(ids: Array, size: int) -> None:
    """Raise ValueError, naming the worst id, unless all ids are in [0, size)."""
    if ids.size == 0:
        return
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= size:
        worst = low if low < 0 and -low > high - size else high
        raise ValueError(f"ids: expected ids in [0, V) with V = {size}, got {worst}")


@context
class DropoutContext(NamedTuple):
    """What `dropout_backward` needs: the factor of every element, 0 or 1 / (1 - p)."""

    factor: Array


def dropout(x: Array, p: float, rng: np.random.Generator) -> Array:
    """Inverted dropout: every element becomes 0 with probability p, else x / (1 − p).

    Dividing by 1 − p keeps the expectation at x, so that inference needs no change.

    Parameters
    ----------
    x : ndarray, shape (...)
        float32 or float64.
    p : float
        Probability of being dropped, in [0, 1).
    rng : numpy.random.Generator
        Where the randomness comes from; the same state gives the same result.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    TypeError
        If ``x`` is not float32 or float64, or ``rng`` is not a Generator.
    ValueError
        If ``p`` is outside [0, 1).

    Notes
    -----
    Backward by hand: ``docs/derivations/dropout.md``.

    References
    ----------
    Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
    JMLR 15 (2014), section 4; the division by 1 − p during training is noted in section 10.

    Examples
    --------
    >>> import numpy as np
    >>> import miniattn.functional as F
    >>> y = F.dropout(np.ones(1000), 0.2, np.random.default_rng(0))
    >>> sorted(set(y.tolist()))
    [0.0, 1.25]
    """
    return dropout_forward(x, p, rng)[0]


@np.errstate(all="ignore")
def dropout_forward(x: Array, p: float, rng: np.random.Generator) -> tuple[Array, DropoutContext]:
    """Return ``dropout(x, p, rng)`` and the context for `dropout_backward`."""
    x = _checks.float_array("x", x)
    p = _checks.probability("p", p)
    rng = _checks.generator("rng", rng)
    kept = rng.random(x.shape, dtype=np.float32) >= p
    factor = kept * x.dtype.type(1 / (1 - p))
    return x * factor, DropoutContext(factor)


@np.errstate(all="ignore")
def dropout_backward(dy: Array, ctx: DropoutContext) -> Array:
    """Return ``dx`` = dy · factor: what was dropped gets no gradient."""
    (factor,) = _checks.context(ctx, DropoutContext)
    return _checks.gradient("dy", dy, factor.shape, factor.dtype) * factor
