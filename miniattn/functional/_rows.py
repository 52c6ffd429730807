"""Running a task of row kernels: what depends on the shape alone is worked out once."""

import functools

import numpy as np

from miniattn._memory import empty
from miniattn.functional._arrays import Array
from miniattn.kernels._runtime import Task, get_num_threads
from miniattn.kernels.launch import address_of, run
from miniattn.kernels.rows import rows_per_piece
from miniattn.kernels.writing import LARGE


def run_rows(
    task: Task,
    matrix: Array,
    factors: tuple[float, ...],
    operands: tuple[Array | None, ...],
    *more: int,
    masked: bool = False,
) -> None:
    """Run ``task`` over the rows of a matrix.

    Parameters
    ----------
    task : Task
        One of those that are described in `kernels.rows`.
    matrix : ndarray, shape (R, n)
        An operand, in dtype and shape like the result.
    factors : tuple of float
    operands : tuple of ndarray or None
        Contiguous, in the order in which the task expects them.
    *more : int
        What follows the sizes that all tasks have.
    masked : bool
        Whether the task copies its rows to hide parts of them.
    """
    count, n = matrix.shape
    large = matrix.nbytes > LARGE and not masked
    pieces, share, sizes = _sizes(count, n, large, more)
    workers = 1 if pieces < 2 else min(pieces, get_num_threads())
    scratch = None
    if large or masked:
        scratch = empty((workers, (share if masked else 1) * n), matrix.dtype)
    places = np.array([0 if x is None else address_of(x) for x in operands])
    run(task, matrix.dtype, workers, pieces, sizes, _numbers(factors), places, scratch)


@functools.lru_cache(1024)
def _sizes(count: int, n: int, large: bool, more: tuple[int, ...]) -> tuple[int, int, Array]:
    """Return how many pieces of work there are, their rows, and what a task is told."""
    share = int(rows_per_piece(count, n))
    pieces = -(-count // share)
    return pieces, share, np.array([count, n, share, pieces, large, *more])


@functools.lru_cache(1024)
def _numbers(values: tuple[float, ...]) -> Array:
    return np.array(values, np.float64)
