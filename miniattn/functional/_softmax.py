"""The softmax family: ``softmax``, ``log_softmax``, ``logsumexp`` and their pairs."""

import math
from typing import NamedTuple

import numpy as np

from miniattn import _checks
from miniattn._context import context
from miniattn._memory import empty, empty_like
from miniattn._typing import Array
from miniattn.functional._arrays import from_last_axis, kernel_input, rows, to_last_axis
from miniattn.functional._axes import (
    as_columns,
    ldexp,
    mask_rows,
    operand,
    ordinary,
    restore,
    sideways,
    slopes,
    swapped,
    times,
)
from miniattn.functional._rows import run_columns, run_rows
from miniattn.kernels.rows import softmax as kernels
from miniattn.kernels.rows import softmax_columns as columns


@context
class SoftmaxContext(NamedTuple):
    """What `softmax_backward` needs: the weights, in which the derivative is simplest."""

    y: Array
    axis: int
    temperature: float


def softmax(
    x: Array, *, axis: int = -1, temperature: float = 1.0, mask: Array | None = None
) -> Array:
    """Softmax along an axis: y_j = exp(x_j/τ) / Σ_k exp(x_k/τ).

    Parameters
    ----------
    x : ndarray, shape (...)
        float32 or float64, at least one axis.
    axis : int
        The axis along which y sums to 1.
    temperature : float
        τ > 0; small is sharp, large is flat.
    mask : ndarray of bool, optional
        Broadcasts to the shape of ``x``. True = visible; the rest has weight exactly 0.

    Returns
    -------
    ndarray, shape (...)
        A slice in which nothing is visible is 0 everywhere.

    Raises
    ------
    TypeError
        If ``x`` is not float32 or float64, or ``mask`` not bool.
    ValueError
        If ``axis`` or ``temperature`` is out of range, or ``mask`` does not broadcast.

    Notes
    -----
    A visible NaN or +inf makes every visible entry of its slice NaN; −inf has weight 0.
    Along another axis than the last, the last bits may depend on the order of memory and on whether
    there is a mask: docs/bits.md. Backward by hand: ``docs/derivations/softmax.md``.

    References
    ----------
    Milakov and Gimelshein, "Online normalizer calculation for softmax", arXiv:1805.02867,
    section 2 (safe softmax).

    Examples
    --------
    >>> import numpy as np
    >>> import miniattn.functional as F
    >>> F.softmax(np.log([1.0, 2.0, 5.0])).round(3)
    array([0.125, 0.25 , 0.625])
    >>> F.softmax(np.zeros(3), mask=np.array([True, True, False]))
    array([0.5, 0.5, 0. ])
    """
    return softmax_forward(x, axis=axis, temperature=temperature, mask=mask)[0]


def softmax_forward(
    x: Array, *, axis: int = -1, temperature: float = 1.0, mask: Array | None = None
) -> tuple[Array, SoftmaxContext]:
    """Return ``softmax(x)`` and the context for `softmax_backward`.

    The context holds y itself: before the backward, write to a copy.
    """
    x, axis = operand(x, axis)
    temperature = _checks.positive("temperature", temperature)
    power = ordinary(temperature)
    x = times(x, axis, mask, power) if power else x
    inv_temperature, high, low = slopes(math.ldexp(temperature, power), x.dtype)
    if sideways(x, axis, mask):
        x_columns = as_columns(x, axis)
        y = empty(x.shape, x.dtype)
        run_columns(columns.softmax, x_columns, (high, low, inv_temperature), (x_columns, y))
    else:
        x_rows = rows(to_last_axis(x, axis))
        y_rows = empty_like(x_rows)
        shown = mask_rows(mask, x.shape, axis)
        factors = high, low, inv_temperature
        operands = (x_rows, y_rows, *shown)
        run_rows(kernels.softmax, x_rows, factors, operands, masked=mask is not None)
        y = restore(y_rows, x.shape, axis)
    return y, SoftmaxContext(y, axis, temperature)


def softmax_backward(dy: Array, ctx: SoftmaxContext) -> Array:
    """Return ``dx`` = y · (dy − Σ_j dy_j y_j) / τ.

    Entries of weight 0 take no part: what ``dy`` holds there, NaN included, is never used.
    """
    y, axis, temperature = _checks.context(ctx, SoftmaxContext)
    dy = _checks.gradient("dy", dy, y.shape, y.dtype)
    power = ordinary(temperature)
    inv_temperature, high, low = slopes(math.ldexp(temperature, power), y.dtype)
    if sideways(y, axis):
        y_columns = as_columns(y, axis)
        dx = empty(y.shape, y.dtype)
        operands = as_columns(dy, axis), y_columns, dx
        run_columns(columns.softmax_backward, y_columns, (high, low, inv_temperature), operands)
        return ldexp(dx, power)
    y_rows = rows(to_last_axis(y, axis))
    dx_rows = empty_like(y_rows)
    dy_rows = rows(to_last_axis(dy, axis))
    factors = high, low, inv_temperature
    run_rows(kernels.softmax_backward, dx_rows, factors, (dy_rows, y_rows, dx_rows))
    return ldexp(restore(dx_rows, y.shape, axis), power)


@context
class LogSoftmaxContext(NamedTuple):
    """What `log_softmax_backward` needs: the output, whose exponential is the softmax."""

    y: Array
    axis: int
    temperature: float


def log_softmax(
    x: Array, *, axis: int = -1, temperature: float = 1.0, mask: Array | None = None
) -> Array:
    """Logarithm of the softmax along an axis: y_j = x_j/τ − log Σ_k exp(x_k/τ).

    Parameters
    ----------
    x, axis, temperature
        As in `softmax`; it is exp(y) that sums to 1.
    mask : ndarray of bool, optional
        Broadcasts to the shape of ``x``. True = visible; the rest is −inf.

    Returns
    -------
    ndarray, shape (...)
        A slice in which nothing is visible is −inf everywhere.

    Raises
    ------
    TypeError, ValueError
        As `softmax`.

    Notes
    -----
    A visible NaN or +inf makes every visible entry of its slice NaN. An entry so far below the
    largest that y is no number of its dtype is −inf, and is then like a hidden one: no gradient.
    Backward by hand: ``docs/derivations/log_softmax.md``.

    References
    ----------
    Blanchard, Higham and Higham, "Accurately computing the log-sum-exp and softmax functions",
    IMA Journal of Numerical Analysis 41(4), 2021, section 4.

    Examples
    --------
    >>> import numpy as np
    >>> import miniattn.functional as F
    >>> np.exp(F.log_softmax(np.log([1.0, 2.0, 5.0]))).round(3)
    array([0.125, 0.25 , 0.625])
    """
    return log_softmax_forward(x, axis=axis, temperature=temperature, mask=mask)[0]


def log_softmax_forward(
    x: Array, *, axis: int = -1, temperature: float = 1.0, mask: Array | None = None
) -> tuple[Array, LogSoftmaxContext]:
    """Return ``log_softmax(x)`` and the context for `log_softmax_backward`.

    The context holds y itself: before the backward, write to a copy.
    """
    x, axis = operand(x, axis)
    temperature = _checks.positive("temperature", temperature)
    power = ordinary(temperature)
    x = times(x, axis, mask, power) if power else x
    inv_temperature, high, low = slopes(math.ldexp(temperature, power), x.dtype)
    if sideways(x, axis, mask):
        x_columns = as_columns(x, axis)
        y = empty(x.shape, x.dtype)
        run_columns(columns.log_softmax, x_columns, (high, low, inv_temperature), (x_columns, y))
    else:
        x_rows = rows(to_last_axis(x, axis))
        y_rows = empty_like(x_rows)
        shown = mask_rows(mask, x.shape, axis)
        top, log_sum = np.empty((2, y_rows.shape[0]), x.dtype)
        operands = (x_rows, y_rows, top, log_sum, *shown)
        factors = high, low, inv_temperature
        run_rows(kernels.log_softmax, x_rows, factors, operands, masked=mask is not None)
        y = restore(y_rows, x.shape, axis)
    return y, LogSoftmaxContext(y, axis, temperature)


def log_softmax_backward(dy: Array, ctx: LogSoftmaxContext) -> Array:
    """Return ``dx`` = (dy − exp(y) Σ_j dy_j) / τ.

    Entries where y is −inf take no part: what ``dy`` holds there, NaN included, is never used.
    """
    y, axis, temperature = _checks.context(ctx, LogSoftmaxContext)
    dy = _checks.gradient("dy", dy, y.shape, y.dtype)
    power = ordinary(temperature)
    inv_temperature, _, _ = slopes(math.ldexp(temperature, power), y.dtype)
    _, high, low = slopes(1.0, y.dtype)
    if sideways(y, axis):
        y_columns = as_columns(y, axis)
        dx = empty(y.shape, y.dtype)
        operands = as_columns(dy, axis), y_columns, dx
        run_columns(columns.log_softmax_backward, y_columns, (high, low, inv_temperature), operands)
        return ldexp(dx, power)
    y_rows = rows(to_last_axis(y, axis))
    dx_rows = empty_like(y_rows)
    dy_rows = rows(to_last_axis(dy, axis))
    factors = high, low, inv_temperature
    run_rows(kernels.log_softmax_backward, dx_rows, factors, (dy_rows, y_rows, dx_rows))
    return ldexp(restore(dx_rows, y.shape, axis), power)


@context
class LogsumexpContext(NamedTuple):
    """What `logsumexp_backward` needs: the softmax is exp(x − top − log_sum)."""

    x: Array
    top: Array
    log_sum: Array
    axis: int
    mask: Array | None


def logsumexp(x: Array, *, axis: int = -1, mask: Array | None = None) -> Array:
    """Logarithm of a sum of exponentials along an axis: lse = log Σ_j exp(x_j).

    Parameters
    ----------
    x : ndarray, shape (...)
        float32 or float64, at least one axis.
    axis : int
        The axis that is summed over.
    mask : ndarray of bool, optional
        Broadcasts to the shape of ``x``. True = visible; the rest is left out.

    Returns
    -------
    ndarray
        The shape of ``x`` without ``axis``; −inf where nothing is visible.

    Raises
    ------
    TypeError
        If ``x`` is not float32 or float64, or ``mask`` not bool.
    ValueError
        If ``axis`` is out of range, or ``mask`` does not broadcast.

    Notes
    -----
    A visible NaN or +inf gives NaN. Backward by hand: ``docs/derivations/logsumexp.md``.

    References
    ----------
    Blanchard, Higham and Higham, "Accurately computing the log-sum-exp and softmax functions",
    IMA Journal of Numerical Analysis 41(4), 2021, section 1.

    Examples
    --------
    >>> import numpy as np
    >>> import miniattn.functional as F
    >>> np.exp(F.logsumexp(np.log([[1.0, 2.0], [3.0, 5.0]]))).round(3)
    array([3., 8.])
    """
    return logsumexp_forward(x, axis=axis, mask=mask)[0]


def logsumexp_forward(
    x: Array, *, axis: int = -1, mask: Array | None = None
) -> tuple[Array, LogsumexpContext]:
    """Return ``logsumexp(x)`` and the context for `logsumexp_backward`.

    The context holds x and mask themselves: before the backward, write to a copy.
    """
    x, axis = operand(x, axis)
    _, high, low = slopes(1.0, x.dtype)
    top, log_sum = np.empty((2, math.prod(x.shape[:axis] + x.shape[axis + 1 :])), x.dtype)
    if sideways(x, axis, mask):
        x_columns = as_columns(x, axis)
        run_columns(columns.logsumexp, x_columns, (high, low), (x_columns, top, log_sum))
        lse = (top + log_sum).reshape(x.shape[:axis] + x.shape[axis + 1 :])
    else:
        x_rows = rows(to_last_axis(x, axis))
        shown = mask_rows(mask, x.shape, axis)
        operands = (x_rows, top, log_sum, *shown)
        run_rows(kernels.logsumexp, x_rows, (high, low), operands, masked=mask is not None)
        sizes = (*swapped(x.shape, axis)[:-1], 1)
        lse = from_last_axis((top + log_sum).reshape(sizes), axis).squeeze(axis)
    return lse, LogsumexpContext(x, top, log_sum, axis, mask)


def logsumexp_backward(dlse: Array, ctx: LogsumexpContext) -> Array:
    """Return ``dx`` = dlse · exp(x − lse), the softmax weights times the incoming gradient."""
    x, top, log_sum, axis, mask = _checks.context(ctx, LogsumexpContext)
    dlse = _checks.gradient("dlse", dlse, x.shape[:axis] + x.shape[axis + 1 :], x.dtype)
    _, high, low = slopes(1.0, x.dtype)
    if sideways(x, axis, mask):
        x_columns = as_columns(x, axis)
        dx = empty(x.shape, x.dtype)
        operands = kernel_input(dlse), x_columns, dx, top, log_sum
        run_columns(columns.logsumexp_backward, x_columns, (high, low), operands)
        return dx
    dlse_rows = kernel_input(to_last_axis(np.expand_dims(dlse, axis), axis)).reshape(-1)
    x_rows = rows(to_last_axis(x, axis))
    dx_rows = empty_like(x_rows)
    shown = mask_rows(mask, x.shape, axis)
    operands = (dlse_rows, x_rows, dx_rows, top, log_sum, *shown)
    masked = mask is not None
    run_rows(kernels.logsumexp_backward, x_rows, (high, low), operands, masked=masked)
    return restore(dx_rows, x.shape, axis)
