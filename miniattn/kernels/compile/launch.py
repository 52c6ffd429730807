"""Launching tasks: the one parallel region that attention's kernels share.

Numba compiles what stands in a ``prange`` three times over, seconds for a kernel of this size. So
the kernels are `task` functions without one: compiled once, called here by their addresses. Each
thread runs the whole function, which takes pieces of work from a queue until none is left; what
one thread did not get to, another does, and a thread that never woke up is not waited for.
"""

import threading
from collections.abc import Collection
from typing import Any

import numba
import numpy as np
from numba import types
from numpy.typing import DTypeLike, NDArray

from miniattn import _checking
from miniattn.kernels.compile.queue import LINE, Told, fill_queue
from miniattn.kernels.compile.settings import Kernel, Task, kernel
from miniattn.kernels.compile.tables import address_of
from miniattn.kernels.registers import call

NO_FACTORS = np.empty(0)  # for a task that needs none


class _Recorder(threading.local):
    """What launches of this thread are noted on, if anything."""

    tape: Any = None


recorder = _Recorder()

if _checking.ON:  # kernels that take arrays are checked as tasks are in `run`
    Kernel.__call__ = _checking.watched(Kernel.__call__)  # type: ignore[method-assign]


def run(
    task: Task,
    dtype: DTypeLike,
    workers: int,
    pieces: int,
    told: Told,
    arrays: Collection[NDArray[Any]],
) -> None:
    """Run a task, which consists of ``pieces`` of work, in up to ``workers`` threads.

    What it is told in ``operands`` are addresses in ``arrays``, and numbers that differ from call
    to call. Each thread owns a row of ``scratch``, if it needs any.
    """
    if recorder.tape is not None:
        recorder.tape.note(task, dtype, workers, pieces, told, arrays)
    sizes, factors, operands, scratch = told
    place, size = (0, 0) if scratch is None else (address_of(scratch), scratch.strides[0])
    launch(task.address(dtype), workers, pieces, sizes, factors, operands, place, size)
    if _checking.ON:
        _checking.fences(task.py_func.__name__, (*arrays, scratch))


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


def load_launcher() -> None:
    """Compile `launch` for the arrays that `run` hands it, or load what was kept."""
    launch.dispatcher.compile(_arguments())


def launcher_is_kept() -> bool:
    """Return whether `launch` is at hand, or on disk."""
    kept: bool = launch.keeps(_arguments())
    return kept


def _arguments() -> tuple[Any, ...]:
    number = types.int64
    numbers, factors = types.Array(number, 1, "C"), types.Array(types.float64, 1, "C")
    return *(number,) * 3, numbers, factors, numbers, number, number
