"""Sums down the columns of a matrix: bias and gain gradients, and gradients of looked-up rows.

Adding rows in parallel is where the number of threads could leak into the bits. Here every
partial sum covers a range of rows that is fixed by the shape, and is added to the others in order;
and every element of a result has one owner.
"""

import numpy as np

from miniattn.kernels.compile.queue import Told, each_piece
from miniattn.kernels.compile.settings import inner, task
from miniattn.kernels.registers import (
    address,
    fetch_and_add,
    lanes,
    load,
    load_first,
    store,
    store_first,
)

# Rows added up in the array's own precision before they join a float64 total: this bounds the
# rounding error of a float32 sum, however many rows there are.
RUN = 32
# The rows are shared out among at most this many tasks, for any number of threads.
TASKS = 64
# Columns that one piece of the scatter owns: two cache lines of float32.
SLICE = 32
# Elements below which one thread is done sooner than a pool is woken.
SMALL = 16_384


@inner
def rows_per_task(count):
    """Return the share of one task: a multiple of RUN that depends on the shape alone."""
    return RUN * max(1, -(-count // (RUN * TASKS)))


@task
def sum_rows(sizes, factors, operands, queue, scratch):
    """out[c] = Σ_r x[r, c] for x (R, n), out (n,).

    ``sizes`` are R, n, how many rows a piece of work has, and how many pieces there are. Operands
    are x, out, and float64 sums (pieces, 2, n): of a piece, and room for those of RUN rows. Then
    comes the number of pieces that are finished, which starts at 0.
    """
    each_piece(queue, _sum_piece, Told(sizes, factors, operands, scratch))


@inner
def _sum_piece(told, piece):
    """Sum the rows of a piece, and add up the sums of all if it is the last to be finished."""
    count, n, share, pieces = told.sizes[0], told.sizes[1], told.sizes[2], told.sizes[3]
    x, all_sums = address(told.operands[0], told.scratch), address(told.operands[2], np.float64)
    sums = all_sums + piece * 2 * n
    run = address(told.operands[2] + (2 * piece + 1) * n * 8, x)
    for c in range(n):
        sums[c] = 0.0
    stop = min((piece + 1) * share, count)
    for top in range(piece * share, stop, RUN):
        for c in range(n):
            run[c] = x[top * n + c]
        for r in range(top + 1, min(top + RUN, stop)):
            add_row(run, x + r * n, n)
        for c in range(n):
            sums[c] = sums[c] + run[c]
    if fetch_and_add(told.operands + 3, 1) == pieces - 1:
        out = address(told.operands[1], x)
        for c in range(n):
            total = 0.0
            for p in range(pieces):
                total += all_sums[2 * p * n + c]
            out[c] = total


@inner
def add_row(target, source, n):
    """Compute ``target += source`` for ``n`` numbers of the user's memory."""
    w = lanes(target)
    for j in range(0, n - n % w, w):
        store(target + j, load(target + j) + load(source + j))
    if n % w:
        at, rest = n - n % w, n % w
        store_first(
            target + at, load_first(target + at, rest) + load_first(source + at, rest), rest
        )


@task
def scatter_add(sizes, factors, operands, queue, scratch):
    """dweight[ids[r]] += dy[r] for every row r of dy (R, n), in order.

    A piece of work owns a slice of the columns and walks through all rows: each element of dweight
    has one owner, and the work is even, however often one id repeats. ``sizes`` are R and n,
    operands ids, which are int64, dy and dweight.
    """
    each_piece(queue, _scatter_slice, Told(sizes, factors, operands, scratch))


@inner
def _scatter_slice(told, piece):
    ids, dy = address(told.operands[0], np.int64), address(told.operands[1], told.scratch)
    dweight = address(told.operands[2], told.scratch)
    count, n = told.sizes[0], told.sizes[1]
    start = piece * SLICE
    width = min(SLICE, n - start)
    for r in range(count):
        add_row(dweight + (ids[r] * n + start), dy + (r * n + start), width)
