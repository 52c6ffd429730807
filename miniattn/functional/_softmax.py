"""The softmax family: ``softmax``, ``log_softmax``, ``logsumexp`` and their pairs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from miniattn import _checks
from miniattn.functional._arrays import (
    Array,
    absent,
    from_last_axis,
    kernel_input,
    rows,
    to_last_axis,
)
from miniattn.kernels import softmax as kernels


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
    Backward by hand: ``docs/derivations/softmax.md``.

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
    """Return ``softmax(x)`` and the context for `softmax_backward`."""
    x, axis = _operand(x, axis)
    inv_temperature = _inverse("temperature", temperature, x.dtype)
    x_rows = rows(to_last_axis(x, axis))
    y_rows = np.empty_like(x_rows)
    kernels.softmax(x_rows, *_mask_rows(mask, x.shape, axis), inv_temperature, y_rows)
    y = _restore(y_rows, x.shape, axis)
    return y, SoftmaxContext(y, axis, temperature)


def softmax_backward(dy: Array, ctx: SoftmaxContext) -> Array:
    """Return ``dx`` = y · (dy − Σ_j dy_j y_j) / τ.

    Entries of weight 0 take no part: what ``dy`` holds there, NaN included, is never used.
    """
    return _backward(kernels.softmax_backward, dy, ctx)


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
    x : ndarray, shape (...)
        float32 or float64, at least one axis.
    axis : int
        The axis along which exp(y) sums to 1.
    temperature : float
        τ > 0; small is sharp, large is flat.
    mask : ndarray of bool, optional
        Broadcasts to the shape of ``x``. True = visible; the rest is −inf.

    Returns
    -------
    ndarray, shape (...)
        A slice in which nothing is visible is −inf everywhere.

    Raises
    ------
    TypeError
        If ``x`` is not float32 or float64, or ``mask`` not bool.
    ValueError
        If ``axis`` or ``temperature`` is out of range, or ``mask`` does not broadcast.

    Notes
    -----
    A visible NaN or +inf makes every visible entry of its slice NaN.
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
    """Return ``log_softmax(x)`` and the context for `log_softmax_backward`."""
    x, axis = _operand(x, axis)
    inv_temperature = _inverse("temperature", temperature, x.dtype)
    x_rows = rows(to_last_axis(x, axis))
    y_rows = np.empty_like(x_rows)
    kernels.log_softmax(x_rows, *_mask_rows(mask, x.shape, axis), inv_temperature, y_rows)
    y = _restore(y_rows, x.shape, axis)
    return y, LogSoftmaxContext(y, axis, temperature)


def log_softmax_backward(dy: Array, ctx: LogSoftmaxContext) -> Array:
    """Return ``dx`` = (dy − exp(y) Σ_j dy_j) / τ.

    Entries where y is −inf take no part: what ``dy`` holds there, NaN included, is never used.
    """
    return _backward(kernels.log_softmax_backward, dy, ctx)


class LogsumexpContext(NamedTuple):
    """What `logsumexp_backward` needs: input and output, from which it rebuilds the softmax."""

    x: Array
    lse: Array
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
    """Return ``logsumexp(x)`` and the context for `logsumexp_backward`."""
    x, axis = _operand(x, axis)
    x_rows = rows(to_last_axis(x, axis))
    lse = np.empty(x_rows.shape[0], x.dtype)
    kernels.logsumexp(x_rows, *_mask_rows(mask, x.shape, axis), lse)
    lse = from_last_axis(lse.reshape((*_swapped(x.shape, axis)[:-1], 1)), axis).squeeze(axis)
    return lse, LogsumexpContext(x, lse, axis, mask)


def logsumexp_backward(dlse: Array, ctx: LogsumexpContext) -> Array:
    """Return ``dx`` = dlse · exp(x − lse), the softmax weights times the incoming gradient."""
    x, lse, axis, mask = ctx
    dlse = _gradient("dlse", dlse, lse)
    x_rows = rows(to_last_axis(x, axis))
    dx_rows = np.empty_like(x_rows)
    # One number a slice, in the order of the rows.
    per_row = (
        kernel_input(to_last_axis(np.expand_dims(a, axis), axis)).reshape(-1) for a in (dlse, lse)
    )
    dlse_rows, lse_rows = per_row
    kernels.logsumexp_backward(
        dlse_rows, x_rows, *_mask_rows(mask, x.shape, axis), lse_rows, dx_rows
    )
    return _restore(dx_rows, x.shape, axis)


def _operand(x: Array, axis: int) -> tuple[Array, int]:
    x = _checks.float_array("x", x)
    if x.ndim == 0:
        raise ValueError("x: expected at least one axis, got shape ()")
    return x, _checks.axis("axis", axis, x.ndim)


def _gradient(name: str, dy: Array, y: Array) -> Array:
    dy = _checks.float_array(name, dy)
    _checks.same_dtype(y=y, **{name: dy})
    if dy.shape != y.shape:
        raise ValueError(f"{name}: expected shape {y.shape}, got {dy.shape}")
    return dy


def _inverse(name: str, temperature: float, dtype: np.dtype[Any]) -> float:
    """Return 1/τ, kept within what ``dtype`` can hold: 0 · inf and inf · 0 would be NaN."""
    limits = np.finfo(dtype)
    inverse = 1.0 / max(_checks.positive(name, temperature), 1.0 / float(limits.max))
    return max(inverse, float(limits.tiny))


def _mask_rows(mask: Array | None, shape: tuple[int, ...], axis: int) -> tuple[Array, Array]:
    """Return the distinct rows of a mask (M, n), and for each row of x which of them is its own."""
    if mask is None:
        return absent(2, np.bool_), absent(1, np.int64)
    mask = _checks.bool_array("mask", mask)
    _checks.broadcastable("mask", mask, "shape of x", shape)
    mask = mask.reshape((1,) * (len(shape) - mask.ndim) + mask.shape)
    mask = to_last_axis(mask, axis)
    lead, n = mask.shape[:-1], shape[axis]
    table = rows(np.broadcast_to(mask, (*lead, n)))
    index = np.arange(table.shape[0]).reshape(lead)
    return table, np.broadcast_to(index, _swapped(shape, axis)[:-1]).flatten()


def _swapped(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    sizes = list(shape)
    sizes[axis], sizes[-1] = sizes[-1], sizes[axis]
    return tuple(sizes)


def _restore(y_rows: Array, shape: tuple[int, ...], axis: int) -> Array:
    """Undo ``rows(to_last_axis(x, axis))``."""
    return from_last_axis(y_rows.reshape(_swapped(shape, axis)), axis)


def _backward(
    kernel: Callable[..., None], dy: Array, ctx: SoftmaxContext | LogSoftmaxContext
) -> Array:
    y, axis, temperature = ctx
    dy = _gradient("dy", dy, y)
    y_rows = rows(to_last_axis(y, axis))
    dx_rows = np.empty_like(y_rows)
    inv_temperature = _inverse("temperature", temperature, y.dtype)
    kernel(rows(to_last_axis(dy, axis)), y_rows, inv_temperature, dx_rows)
    return _restore(dx_rows, y.shape, axis)
