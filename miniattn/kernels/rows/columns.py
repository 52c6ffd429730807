"""Sums down the columns of a matrix: bias and gain gradients, and gradients of looked-up rows.

Adding rows in parallel is where the number of threads could leak into the bits. Here every
partial sum covers a range of rows that is fixed by the shape, and every element of a result has
one owner that adds the partial sums in order.
"""

import numba
import numpy as np

from miniattn.kernels.compile.settings import inner, kernel

# Rows added up in the array's own precision before they join a float64 total: this bounds the
# rounding error of a float32 sum, however many rows there are.
RUN = 32
# The rows are shared out among at most this many tasks, for any number of threads.
TASKS = 64
# Columns that one task of the scatter owns: two cache lines of float32.
SLICE = 32
# Elements below which one thread is done sooner than a pool is woken.
SMALL = 16_384


@inner
def rows_per_task(count):
    """Return the share of one task: a multiple of RUN that depends on the shape alone."""
    return RUN * max(1, -(-count // (RUN * TASKS)))


@inner
def add_partials(partials, out):
    """Set out (n,) to the sum of partials (tasks, n), in the order of the tasks."""
    # Loops, here and below: Numba compiles a whole-array expression ten times as long.
    for c in range(out.size):
        total = 0.0
        for task in range(partials.shape[0]):
            total += partials[task, c]
        out[c] = total


@inner
def _sum_block(x, start, stop, total):
    """Set total (n,) float64 to the sum of the rows x[start:stop]."""
    n = x.shape[1]
    run = np.empty(n, x.dtype)
    for c in range(n):
        total[c] = 0
    for first in range(start, stop, RUN):
        for c in range(n):
            run[c] = x[first, c]
        for r in range(first + 1, min(first + RUN, stop)):
            for c in range(n):
                run[c] += x[r, c]
        for c in range(n):
            total[c] += run[c]


@kernel
def sum_rows(x, out):
    """out[c] = Σ_r x[r, c] for x (R, n), out (n,)."""
    count, n = x.shape
    share = rows_per_task(count)
    tasks = -(-count // share)
    partials = np.empty((tasks, n), np.float64)
    if x.size <= SMALL:
        for task in range(tasks):
            _sum_block(x, task * share, min((task + 1) * share, count), partials[task])
    else:
        for task in numba.prange(tasks):
            _sum_block(x, task * share, min((task + 1) * share, count), partials[task])
    add_partials(partials, out)


@inner
def _scatter_slice(ids, dy, start, stop, dweight):
    for r in range(ids.size):
        row = ids[r]
        for c in range(start, stop):
            dweight[row, c] += dy[r, c]


@kernel
def scatter_add(ids, dy, dweight):
    """dweight[ids[r]] += dy[r] for every row r of dy (R, n), in order.

    A task owns a slice of the columns and walks through all rows: each element of dweight has
    one owner, and the work is even, however often one id repeats.
    """
    n = dweight.shape[1]
    if dy.size <= SMALL:
        _scatter_slice(ids, dy, 0, n, dweight)
    else:
        for task in numba.prange(-(-n // SLICE)):
            _scatter_slice(ids, dy, task * SLICE, min((task + 1) * SLICE, n), dweight)
