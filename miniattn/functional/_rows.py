"""Running a task of row kernels: what depends on shapes and options alone is worked out once."""

import functools
from typing import NamedTuple

import numpy as np

from miniattn._memory import scratch
from miniattn._typing import Array
from miniattn.kernels.compile.launch import run
from miniattn.kernels.compile.queue import Told
from miniattn.kernels.compile.settings import Task, get_num_threads
from miniattn.kernels.compile.tables import addresses
from miniattn.kernels.registers import LANES
from miniattn.kernels.rows.frame import GRAIN, rows_per_piece
from miniattn.kernels.rows.writing import LARGE

APART = 32  # numbers between the scratch memories of two threads, which would share a cache line


class _Plan(NamedTuple):
    """How a task runs, and what it is told."""

    pieces: int
    sizes: Array
    factors: Array
    scratch: int  # numbers that each thread needs, or 0


def run_rows(
    task: Task,
    matrix: Array,
    factors: tuple[float, ...],
    operands: tuple[Array, ...],
    *more: int,
    share: int | None = None,
    masked: bool = False,
    least: int = GRAIN,
) -> None:
    """Run ``task`` over the rows of a matrix.

    Parameters
    ----------
    task : Task
        One of those that are described in `kernels.rows`.
    matrix : ndarray, shape (R, n)
        An operand, in dtype and shape like the result.
    factors : tuple of float
    operands : tuple of ndarray
        Contiguous, in the order in which the task expects them.
    *more : int
        What follows the sizes that all tasks have.
    share : int, optional
        How many rows a piece of work has; by default as many as make up a piece's elements.
    masked : bool
        Whether the task copies its rows to hide parts of them.
    least : int
        Elements up to which the calling thread is done sooner than another is awake.
    """
    plan = _plan(matrix.shape, matrix.itemsize, LARGE, share, masked, factors, more)
    _run(task, matrix, plan, operands, least)


def run_columns(
    task: Task, matrix: Array, factors: tuple[float, ...], operands: tuple[Array, ...]
) -> None:
    """Run ``task``, one of those in `kernels.softmax_columns`, over the columns of (A, n, C)."""
    _run(task, matrix, _plan_columns(matrix.shape, matrix.itemsize, factors), operands, GRAIN)


def _run(task: Task, matrix: Array, plan: _Plan, operands: tuple[Array, ...], least: int) -> None:
    pieces, sizes, numbers, room = plan
    places = np.array(addresses(operands))
    workers = min(pieces, get_num_threads()) if matrix.size > least else 1
    memory = scratch(workers, room, matrix.dtype) if room else None
    run(task, matrix.dtype, workers, pieces, Told(sizes, numbers, places, memory), operands)


@functools.lru_cache(1024)
def _plan(
    shape: tuple[int, int],
    itemsize: int,
    most: int,
    share: int | None,
    masked: bool,
    factors: tuple[float, ...],
    more: tuple[int, ...],
) -> _Plan:
    count, n = shape
    large = count * n * itemsize > most and not masked
    if share is None:
        share = int(rows_per_piece(count, n))
    pieces = -(-count // share)
    sizes = np.array([count, n, share, large, masked, *more])
    rows = share if masked else int(large)
    room = rows * n + APART if rows else 0
    return _Plan(pieces, sizes, np.array(factors, np.float64), room)


@functools.lru_cache(1024)
def _plan_columns(shape: tuple[int, int, int], itemsize: int, factors: tuple[float, ...]) -> _Plan:
    slabs, n, step = shape
    width = LANES * 4 // itemsize
    groups = slabs * -(-step // width)
    share = max(1, GRAIN // max(1, n * width))
    pieces = -(-groups // share)
    sizes = np.array([slabs, n, step, share])
    return _Plan(pieces, sizes, np.array(factors, np.float64), 0)
