"""Memory for results, used again once a result is gone: `empty` in place of `numpy.empty`.

An operating system hands out memory page by page, each cleared and mapped when it is first
written: about a microsecond for 4 KiB, where a kernel needs a tenth of that to fill them. Results
of a megabyte are given back when they are freed, and every call pays again. So arrays of that kind
live in blocks that are kept when the array dies and lent to the next one of the same size.

An array keeps its block for as long as it, any view of it, or its base is alive; nothing is ever
shared.
"""

import math
import sys
import threading
import weakref
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from miniattn import _checking

Shape: TypeAlias = int | tuple[int, ...]

LEAST = 2**15  # smaller arrays come out of memory that malloc holds anyway
KEPT = 2**28  # bytes of blocks at most that wait for an array
PAGE = 4096
LINE = 64  # a vector load across two cache lines costs two
DESK = 2**18  # bytes that a thread keeps to work in: enough for attention up to D = 128


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

    An array may die anywhere, and a signal handler or a finalizer may ask for one anywhere, also in
    here. So there is no lock, which they would wait for: what is shared is changed by steps that
    CPython does not interrupt.

    Parameters
    ----------
    kept : int
        Bytes at most that are kept for later arrays. What exceeds it is given back all at once.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self.limit = kept
        self._free: dict[int, list[_Block]] = {}  # by size
        # About as many bytes: of two changes at once, one may be lost until the next count.
        self._kept = 0
        # By id: neither arrays nor references to them have a hash.
        self._loans: dict[int, _Loan] = {}

    def empty(
        self, shape: Shape, dtype: DTypeLike, kind: type[NDArray[Any]] = np.ndarray
    ) -> NDArray[Any]:
        """Return an array of any content, as `numpy.empty` does, of the class ``kind``."""
        dtype = np.dtype(dtype)
        size = _bytes(shape, dtype)
        if not LEAST <= size <= self.limit:
            return kind(shape, dtype)
        block = self._take(_size_class(size))
        array = kind(shape, dtype, block.memory, block.offset)
        loan = _Loan(array, self._return)
        loan.block = block
        self._loans[id(loan)] = loan
        return array

    def release(self) -> None:
        """Give back all memory that no array uses."""
        self._free = {}
        self._kept = 0

    @property
    def kept(self) -> int:
        """Bytes that wait for an array."""
        self._count()
        return self._kept

    def _take(self, size: int) -> _Block:
        blocks = self._free.get(size)
        while blocks:
            try:
                block = blocks.pop()
            except IndexError:  # somebody else was faster
                break
            self._kept -= size
            if _references(block) == _OWN:
                return block
            # Somebody holds the base of the array that was lent it: the memory is theirs.
        self._count()  # only by new blocks does the memory grow
        return _Block(size)

    def _return(self, loan: _Loan) -> None:
        del self._loans[id(loan)]
        block = loan.block
        self._free.setdefault(block.size, []).append(block)
        self._kept += block.size
        if self._kept > self.limit:
            self._count()

    def _count(self) -> None:
        """Count what is kept, and give it back if it is too much."""
        kept = sum(size * len(blocks) for size, blocks in self._free.copy().items())
        if kept > self.limit:
            self.release()
        else:
            self._kept = kept


def _references(block: _Block) -> int:
    """Return how many references there are to a block's memory."""
    return sys.getrefcount(block.memory)


_OWN = _references(_Block(0))  # where no array has the block


def _bytes(shape: Shape, dtype: np.dtype[Any]) -> int:
    return dtype.itemsize * (math.prod(shape) if isinstance(shape, tuple) else shape)


def _size_class(size: int) -> int:
    """Return the size of the block for ``size`` bytes: at most an eighth more."""
    step = 1 << max(0, size.bit_length() - 4)
    return -(-size // step) * step


_pool = Pool()


def _empty_between_canaries(shape: Shape, dtype: DTypeLike) -> NDArray[Any]:
    dtype = np.dtype(dtype)
    memory = _checking.fenced(_pool.empty, 1, _bytes(shape, dtype))
    return np.ndarray(shape, dtype, memory, _checking.MARGIN)


empty = _empty_between_canaries if _checking.ON else _pool.empty


class _Desk(threading.local):
    """Scratch memory that a thread keeps for small calls, as arrays of one row."""

    def __init__(self) -> None:
        memory = _pool.empty(DESK, np.uint8)
        self.rows = {np.dtype(t): memory.view(t)[None] for t in (np.float32, np.float64)}


_desk = _Desk()


def scratch(workers: int, size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an array (workers, size) of any content, each row of which a thread works in.

    The row of a small call may be longer, and the next call of this thread gets it again: a call
    that comes in between, from a signal handler say, has ended when this one goes on, and before
    its launch scratch memory holds nothing.
    """
    if _checking.ON:
        memory = _checking.fenced(_pool.empty, workers, size * dtype.itemsize)
        strides = memory.step, dtype.itemsize
        return np.ndarray((workers, size), dtype, memory, _checking.MARGIN, strides)
    if workers == 1 and size * dtype.itemsize <= DESK:
        return _desk.rows[dtype]
    return empty((workers, size), dtype)


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
