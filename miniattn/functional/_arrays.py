"""Arrays on their way into a kernel: contiguous, aligned, of one writeable-flagged type.

Numba compiles a kernel anew for every combination of layout, alignment and writeable flag that
it meets. Everything passes through here first, so that each kernel is compiled once a dtype.
"""

import functools
import math

import numpy as np
from numpy.typing import DTypeLike

from miniattn._typing import Array


def kernel_input(x: Array) -> Array:
    """Return ``x`` as a C-contiguous, aligned, native ndarray that is flagged writeable.

    Without a copy where the memory is already laid out so; a read-only array is then seen
    through an alias of the same memory, which keeps its owner alive. Kernels never write to
    their inputs, and an alias must not be handed to users.
    """
    if type(x) is not np.ndarray:
        x = x.view(np.ndarray)  # memory maps and other subclasses
    flags = x.flags
    if flags.c_contiguous and flags.aligned and x.dtype.isnative:
        return x if flags.writeable else np.asarray(_Writeable(x))
    return np.array(x, dtype=x.dtype.newbyteorder("="), order="C")


def rows(x: Array) -> Array:
    """Return ``x`` (..., n) as a kernel input of shape (number of rows, n)."""
    x = kernel_input(x)
    if x.ndim == 2:
        return x
    # Not reshape(-1, n): where n is 0 the number of rows could not be told.
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def to_last_axis(x: Array, axis: int) -> Array:
    """Return a view of ``x`` with ``axis`` swapped to the end."""
    return x if axis in (-1, x.ndim - 1) else x.swapaxes(axis, -1)


def from_last_axis(y: Array, axis: int) -> Array:
    """Undo `to_last_axis`: a swap is its own inverse."""
    return to_last_axis(y, axis)


@functools.cache
def absent(ndim: int, dtype: DTypeLike) -> Array:
    """Return the empty array that stands for an argument not given: ``ndim`` axes of length 0."""
    return np.empty((0,) * ndim, dtype)


class _Writeable:
    """Offers an array's memory through the array interface, without the read-only mark."""

    def __init__(self, x: Array) -> None:
        interface = x.__array_interface__
        self.owner = x
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}
