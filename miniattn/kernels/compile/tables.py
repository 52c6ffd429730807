"""How arrays lie in memory, as kernels are told: addresses, and steps in whole elements.

A kernel computes where an operand's elements are from one address and from the elements between
neighbours along each axis. What these cannot describe is copied here, and nothing is rounded: a
field of a packed structured array has neighbours 1.25 elements apart.
"""

import functools
import sys
from collections.abc import Iterable
from ctypes import c_ssize_t
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from miniattn import _checking

Array: TypeAlias = NDArray[Any]
Shape: TypeAlias = tuple[int, ...]


def strided(x: Array, *, rows: bool = False) -> Array:
    """Return ``x``, or a copy where an address and whole elements don't say how it lies.

    With ``rows`` the last axis is contiguous, too.
    """
    flags = x.flags
    described = flags.aligned and (
        flags.c_contiguous or _is_described(x.shape, x.strides, x.itemsize, rows)
    )
    return x if described else np.array(x, order="C")


@functools.lru_cache
def _is_described(shape: Shape, strides: Shape, size: int, rows: bool) -> bool:
    return are_whole(shape, strides, size) and not (rows and strides[-1] != size and shape[-1] > 1)


def are_whole(shape: Shape, strides: Shape, size: int) -> bool:
    """Return whether neighbours along every axis lie whole elements of ``size`` bytes apart."""
    return all(stride % size == 0 for n, stride in zip(shape, strides, strict=True) if n > 1)


def elements(shape: Shape, strides: Shape, size: int) -> Shape:
    """Return the strides in elements, which must be whole: 0 where an axis has no neighbours."""
    if not are_whole(shape, strides, size):
        raise ValueError(f"strides: expected multiples of {size} bytes, got {strides}")
    return tuple([s // size if n > 1 else 0 for n, s in zip(shape, strides, strict=True)])


def addresses(arrays: Iterable[Array]) -> list[int]:
    """Return where contiguous arrays lie."""
    if _checking.ON:
        arrays = list(arrays)
        for number, x in enumerate(arrays):
            _checking.contiguous(f"array {number}", x)
    return [address_of(x) for x in arrays]


def _asked(x: Array) -> int:
    """Return where an array's first element lies."""
    return int(x.__array_interface__["data"][0])


def _read(x: Array) -> int:
    """Return the same, seven times as fast: a call of attention asks for a dozen addresses.

    In the array as NumPy's C interface lays it open, the address follows the head that every object
    has.
    """
    return _integer_at(id(x) + _HEAD).value


_HEAD = object.__basicsize__
_integer_at = c_ssize_t.from_address


def _reads_right() -> bool:
    """Return whether arrays are laid out so: as in CPython, with or without its global lock."""
    return all(_read(x) == _asked(x) for x in (np.empty(3), np.empty((4, 4))[1:, 2:].T))


address_of = _read if sys.implementation.name == "cpython" and _reads_right() else _asked
