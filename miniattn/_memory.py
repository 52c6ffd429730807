"""Memory for results, used again once a result is gone: `empty` in place of `numpy.empty`.

An operating system hands out memory page by page, each cleared and mapped when it is first
written: about a microsecond for 4 KiB, where a kernel needs a tenth of that to fill them. Results
of a megabyte are given back when they are freed, and every call pays again. So arrays of that kind
live in blocks that are kept when the array dies and lent to the next one of the same size.

An array keeps its block for as long as it, or any view of it, is alive; nothing is ever shared.
"""

import math
import os
import threading
import weakref
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

LEAST = 2**15  # smaller arrays come out of memory that malloc holds anyway
KEPT = 2**28  # bytes of blocks at most that wait for an array
PAGE = 4096
LINE = 64  # a vector load across two cache lines costs two


class _Memory(np.ndarray[Any, Any]):
    """Bytes that arrays lie in.

    NumPy hangs a view of an array on that array's own base where both are of one type, so that
    the array itself may die before its views. This type being another, views hang on the array.
    """


class _Block:
    """A piece of memory that holds ``size`` bytes from the start of some cache line on."""

    made = 0

    def __init__(self, size: int) -> None:
        self.size = size
        self.memory = _Memory(size + 2 * PAGE, np.uint8)
        # Not all at the start of a page: rows of several operands would compete for the same sets
        # of the first cache, and loads wait for unrelated stores 4096 bytes apart.
        colour = _Block.made * 5 * LINE % PAGE
        _Block.made += 1
        self.offset = -self.memory.ctypes.data % LINE + colour


class _Loan(weakref.ref[Any]):
    """Notices the death of an array, and returns its block."""

    __slots__ = ("block",)
    block: _Block


class Pool:
    """Lends blocks of memory to arrays.

    Parameters
    ----------
    kept : int
        Bytes at most that are kept for later arrays. What exceeds it is given back all at once.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self.limit = kept
        self._lock = threading.Lock()
        self._free: dict[int, list[_Block]] = {}
        self._kept = 0
        # By id: neither arrays nor references to them have a hash.
        self._loans: dict[int, _Loan] = {}
        # An array may die anywhere, also inside this class: its block is only laid down here.
        self._returned: deque[_Block] = deque()

    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return an array of any content, as `numpy.empty` does."""
        dtype = np.dtype(dtype)
        size = dtype.itemsize * (math.prod(shape) if isinstance(shape, tuple) else shape)
        if not LEAST <= size <= self.limit:
            return np.empty(shape, dtype)
        block = self._take(_size_class(size))
        array: NDArray[Any] = np.ndarray(shape, dtype, block.memory, block.offset)
        loan = _Loan(array, self._return)
        loan.block = block
        self._loans[id(loan)] = loan
        return array

    def release(self) -> None:
        """Give back all memory that no array uses."""
        with self._lock:
            self._collect()
            self._forget()

    @property
    def kept(self) -> int:
        """Bytes that wait for an array."""
        with self._lock:
            self._collect()
            return self._kept

    def _take(self, size: int) -> _Block:
        with self._lock:
            self._collect()
            blocks = self._free.get(size)
            if blocks:
                self._kept -= size
                return blocks.pop()
        return _Block(size)

    def _return(self, loan: _Loan) -> None:
        del self._loans[id(loan)]
        self._returned.append(loan.block)

    def _collect(self) -> None:
        """Sort what has come back; called with the lock held."""
        while self._returned:
            block = self._returned.popleft()
            self._free.setdefault(block.size, []).append(block)
            self._kept += block.size
        if self._kept > self.limit:
            self._forget()

    def _forget(self) -> None:
        self._free.clear()
        self._kept = 0


def _size_class(size: int) -> int:
    """Return the size of the block for ``size`` bytes: at most an eighth more."""
    step = 1 << max(0, size.bit_length() - 4)
    return -(-size // step) * step


_pool = Pool()
empty = _pool.empty


def _after_fork() -> None:
    _pool._lock = threading.Lock()  # a thread that no longer exists may hold the old one


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def zeros(shape: int | tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return an array of zeros, as `numpy.zeros` does."""
    array = empty(shape, dtype)
    array.fill(0)
    return array


def empty_like(x: NDArray[Any]) -> NDArray[Any]:
    """Return a C-contiguous array of any content with the shape and the dtype of ``x``."""
    return empty(x.shape, x.dtype)


def copy(x: NDArray[Any]) -> NDArray[Any]:
    """Return a C-contiguous copy of ``x``."""
    y = empty_like(x)
    y[...] = x
    return y


def keep_memory(n: int) -> None:
    """Set how many bytes are kept for later results; see `miniattn.runtime.keep_memory`."""
    _pool.limit = n
    _pool.release()
