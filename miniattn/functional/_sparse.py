"""Softmax's sparse relatives: `sparsemax` and `entmax15`, whose weights may be exactly 0."""

import math
from typing import Any, NamedTuple

from miniattn import _checks
from miniattn._context import context
from miniattn._memory import empty_like
from miniattn._typing import Array
from miniattn.functional import _axes as family
from miniattn.functional._arrays import rows, to_last_axis
from miniattn.functional._rows import run_rows
from miniattn.kernels.rows import sparse as kernels


@context
class SparsemaxContext(NamedTuple):
    """What `sparsemax_backward` needs: the weights, which say what is in the support."""

    y: Array
    axis: int
    temperature: float


@context
class Entmax15Context(NamedTuple):
    """What `entmax15_backward` needs: the weights, in which the derivative is simplest."""

    y: Array
    axis: int
    temperature: float


def sparsemax(
    x: Array, *, axis: int = -1, temperature: float = 1.0, mask: Array | None = None
) -> Array:
    """Sparsemax along an axis: y_j = max(0, x_j/τ − t), with t such that Σ_j y_j = 1.

    It is the point of the simplex that is nearest to x/τ. Entries far below the largest get
    exactly 0.

    Parameters
    ----------
    x, axis, temperature, mask
        As in `softmax`.

    Returns
    -------
    ndarray, shape (...)
        A slice in which nothing is visible is 0 everywhere.

    Raises
    ------
    TypeError, ValueError
        As `softmax`.

    Notes
    -----
    A visible NaN or +inf makes every visible entry of its slice NaN; −inf has weight 0.
    Backward by hand: ``docs/derivations/sparsemax.md``.

    References
    ----------
    Martins and Astudillo, "From softmax to sparsemax", arXiv:1602.02068, section 2.

    Examples
    --------
    >>> import numpy as np
    >>> import miniattn.functional as F
    >>> F.sparsemax(np.array([1.0, 0.75, -1.0]))
    array([0.625, 0.375, 0.   ])
    """
    return sparsemax_forward(x, axis=axis, temperature=temperature, mask=mask)[0]


def sparsemax_forward(
    x: Array, *, axis: int = -1, temperature: float = 1.0, mask: Array | None = None
) -> tuple[Array, SparsemaxContext]:
    """Return ``sparsemax(x)`` and the context for `sparsemax_backward`.

    The context holds y itself: before the backward, write to a copy.
    """
    return _forward(SparsemaxContext, 1, x, axis, temperature, mask)


def sparsemax_backward(dy: Array, ctx: SparsemaxContext) -> Array:
    """Return ``dx`` = (dy_j − mean of dy over the support) / τ in the support, 0 elsewhere.

    Entries of weight 0 take no part: what ``dy`` holds there, NaN included, is never used.
    """
    return _backward(1, dy, _checks.context(ctx, SparsemaxContext))


def entmax15(
    x: Array, *, axis: int = -1, temperature: float = 1.0, mask: Array | None = None
) -> Array:
    """Entmax-1.5 along an axis: y_j = max(0, x_j/2τ − t)², with t such that Σ_j y_j = 1.

    Halfway between softmax and `sparsemax`: smooth, and entries far below the largest get exactly
    0.

    Parameters
    ----------
    x, axis, temperature, mask
        As in `softmax`.

    Returns
    -------
    ndarray, shape (...)
        A slice in which nothing is visible is 0 everywhere.

    Raises
    ------
    TypeError, ValueError
        As `softmax`.

    Notes
    -----
    A visible NaN or +inf makes every visible entry of its slice NaN; −inf has weight 0.
    Backward by hand: ``docs/derivations/entmax15.md``.

    References
    ----------
    Peters, Niculae and Martins, "Sparse sequence-to-sequence models", arXiv:1905.05702, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> import miniattn.functional as F
    >>> F.entmax15(np.array([1.0, 0.6, -3.0])).round(3)
    array([0.64, 0.36, 0.  ])
    """
    return entmax15_forward(x, axis=axis, temperature=temperature, mask=mask)[0]


def entmax15_forward(
    x: Array, *, axis: int = -1, temperature: float = 1.0, mask: Array | None = None
) -> tuple[Array, Entmax15Context]:
    """Return ``entmax15(x)`` and the context for `entmax15_backward`.

    The context holds y itself: before the backward, write to a copy.
    """
    return _forward(Entmax15Context, 2, x, axis, temperature, mask)


def entmax15_backward(dy: Array, ctx: Entmax15Context) -> Array:
    """Return ``dx`` = √y · (dy − Σ_j √y_j dy_j / Σ_j √y_j) / τ.

    Entries of weight 0 take no part: what ``dy`` holds there, NaN included, is never used.
    """
    return _backward(2, dy, _checks.context(ctx, Entmax15Context))


def _forward(
    kind: Any, power: int, x: Array, axis: int, temperature: float, mask: Array | None
) -> tuple[Array, Any]:
    x, axis = family.operand(x, axis)
    temperature = _checks.positive("temperature", temperature)
    unit = family.ordinary(temperature)
    x = family.times(x, axis, mask, unit) if unit else x
    x_rows = rows(to_last_axis(x, axis))
    y_rows = empty_like(x_rows)
    mask_rows = family.mask_rows(mask, x.shape, axis)
    factors = (1.0 / (power * math.ldexp(temperature, unit)),)
    operands = (x_rows, y_rows, *mask_rows)
    run_rows(kernels.sparse, x_rows, factors, operands, power, masked=mask is not None)
    y = family.restore(y_rows, x.shape, axis)
    return y, kind(y, axis, temperature)


def _backward(power: int, dy: Array, ctx: SparsemaxContext | Entmax15Context) -> Array:
    y, axis, temperature = ctx
    dy = _checks.gradient("dy", dy, y.shape, y.dtype)
    unit = family.ordinary(temperature)
    y_rows = rows(to_last_axis(y, axis))
    dx_rows = empty_like(y_rows)
    operands = rows(to_last_axis(dy, axis)), y_rows, dx_rows
    factors = (1.0 / math.ldexp(temperature, unit),)
    run_rows(kernels.sparse_backward, dx_rows, factors, operands, power)
    return family.ldexp(family.restore(dx_rows, y.shape, axis), unit)
