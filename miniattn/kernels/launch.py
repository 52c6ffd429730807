"""Launching tasks: the one parallel region that attention's kernels share.

Numba compiles what stands in a ``prange`` three times over, seconds for a kernel of this size. So
the kernels are `task` functions without one: compiled once, called here by their addresses. Each
thread runs the whole function, which takes pieces of work from a queue until none is left; what
one thread did not get to, another does, and a thread that never woke up is not waited for.
"""

import sys
from ctypes import c_ssize_t
from typing import Any

import numba
import numpy as np
from numpy.typing import DTypeLike, NDArray

from miniattn.kernels._runtime import Task, kernel
from miniattn.kernels.queue import LINE, fill_queue
from miniattn.kernels.simd import call


def run(
    task: Task,
    dtype: DTypeLike,
    workers: int,
    pieces: int,
    sizes: NDArray[Any],
    factors: NDArray[Any],
    operands: NDArray[Any],
    scratch: NDArray[Any] | None = None,
) -> None:
    """Run a task, which consists of ``pieces`` of work, in up to ``workers`` threads.

    Each owns a row of ``scratch``, if it needs any.
    """
    place, size = (0, 0) if scratch is None else (address_of(scratch), scratch.strides[0])
    launch(task.address(dtype), workers, pieces, sizes, factors, operands, place, size)


def _asked(x: NDArray[Any]) -> int:
    """Return where an array's first element lies."""
    return int(x.__array_interface__["data"][0])


def _read(x: NDArray[Any]) -> int:
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


@kernel
def launch(function, workers, pieces, sizes, factors, operands, scratch, size):
    """Run ``function`` in up to ``workers`` threads.

    Parameters
    ----------
    function : int
        The address of a `task`, which gets pointers to what follows and to its worker's queue.
    workers : int
        One worker is the calling thread itself: to wake another takes as long as a small call. At
        most as many as there are threads: asked for in here, their number would keep the launcher
        out of the cache.
    pieces : int
        How many pieces of work the queue holds.
    sizes, factors, operands : int64, float64 and int64 arrays
    scratch, size : int
        Address of scratch memory, and the bytes of it that each worker owns.
    """
    queues = np.empty((workers, LINE), np.int64)  # np.zeros would be a parallel region of its own
    fill_queue(queues, pieces)
    if workers > 1:
        for worker in numba.prange(workers):
            own = scratch + worker * size
            call(function, sizes, factors, operands, queues[worker], own)
    else:
        call(function, sizes, factors, operands, queues[0], scratch)
