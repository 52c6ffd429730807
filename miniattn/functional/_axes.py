"""What the softmax family shares: one axis of any array as rows or columns, masks, temperatures."""

import functools
import math
from fractions import Fraction
from typing import Any

import numpy as np

from miniattn import _checks
from miniattn._typing import Array
from miniattn.functional._arrays import from_last_axis, kernel_input, rows, to_last_axis


def operand(x: Array, axis: int) -> tuple[Array, int]:
    """Return ``x`` and the axis to work along, checked and counted from the front."""
    x = _checks.float_array("x", x)
    if x.ndim == 0:
        raise ValueError("x: expected at least one axis, got shape ()")
    return x, _checks.axis("axis", axis, x.ndim)


ORDINARY = 64


def ordinary(temperature: float) -> int:
    """Return the power of two that makes a temperature ordinary: 0 for nearly all of them."""
    exponent = math.frexp(temperature)[1]
    return -exponent if abs(exponent) > ORDINARY else 0


def times(x: Array, axis: int, mask: Array | None, power: int) -> Array:
    """Return (x − max x) · 2^power, visible maxima: with τ · 2^power it has the softmax of x, τ."""
    visible: Any = True
    if mask is not None:
        visible = _checks.bool_array("mask", mask)
        _checks.broadcastable("mask", visible, "shape of x", x.shape)
    top = x.max(axis, keepdims=True, initial=-np.inf, where=visible)
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        below = ldexp(x, min(power, 0)) - ldexp(np.where(top > -np.inf, top, 0), min(power, 0))
        return ldexp(below, max(power, 0))


def ldexp(x: Array, power: int) -> Array:
    """Return x · 2^power, also where 2^power is no number of its dtype."""
    if not power:
        return x
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(np.ldexp(x, power))


# log2(e) in twice double precision.
_LOG2_E = Fraction(1.4426950408889634) + Fraction(2.0355273740931033e-17)


@functools.cache
def slopes(temperature: float, dtype: np.dtype[Any]) -> tuple[float, float, float]:
    """Return 1/τ, and log2(e)/τ as a number of ``dtype`` and the rest that it leaves out."""
    inverse = 1 / Fraction(temperature)
    product = inverse * _LOG2_E
    high = float(dtype.type(float(product)))
    return float(inverse), high, float(product - Fraction(high))


def sideways(x: Array, axis: int, mask: Array | None = None) -> bool:
    """Return whether to work across the rows of memory, which saves two transpositions.

    Not where ``axis`` is the one that is contiguous in memory after all, and not with a mask, which
    is a matter of rows.
    """
    return mask is None and axis != x.ndim - 1 and not to_last_axis(x, axis).flags.c_contiguous


def as_columns(x: Array, axis: int) -> Array:
    """Return ``x`` as a kernel input of shape (before the axis, n, after the axis)."""
    before, after = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    return kernel_input(x).reshape(before, x.shape[axis], after)


def mask_rows(
    mask: Array | None, shape: tuple[int, ...], axis: int
) -> tuple[Array, Array] | tuple[()]:
    """Return the distinct rows of a mask (M, n), and for each row of x which of them it has."""
    if mask is None:
        return ()
    mask = _checks.bool_array("mask", mask)
    _checks.broadcastable("mask", mask, "shape of x", shape)
    mask = mask.reshape((1,) * (len(shape) - mask.ndim) + mask.shape)
    mask = to_last_axis(mask, axis)
    lead, n = mask.shape[:-1], shape[axis]
    table = rows(np.broadcast_to(mask, (*lead, n)))
    index = np.arange(table.shape[0]).reshape(lead)
    return table, np.broadcast_to(index, swapped(shape, axis)[:-1]).flatten()


def swapped(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """Return a shape with ``axis`` swapped to the end."""
    sizes = list(shape)
    sizes[axis], sizes[-1] = sizes[-1], sizes[axis]
    return tuple(sizes)


def restore(y_rows: Array, shape: tuple[int, ...], axis: int) -> Array:
    """Undo ``rows(to_last_axis(x, axis))``."""
    if axis == len(shape) - 1:
        return y_rows if len(shape) == 2 else y_rows.reshape(shape)
    return from_last_axis(y_rows.reshape(swapped(shape, axis)), axis)
