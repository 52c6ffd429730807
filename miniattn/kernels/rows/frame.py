"""The frame of all kernels that work on rows of a matrix: who does which rows, and with what.

A kernel is a function of some rows that follow each other, and `rows_task` makes the task of it:

    @rows_task
    def double(rows):
        x, y = matrix(rows, 0), matrix(rows, 1)
        for i in range(rows.m * rows.n):
            y[i] = 2 * x[i]

The frame takes pieces of work from the queue, finds their rows, and lets all threads see what was
written. Operands are contiguous, and each row of a result has one owner.

``sizes`` are R, n, how many rows a piece has, whether the result is large (see `writing`), and
whether there is a mask; what else a kernel needs follows from REST on.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from miniattn.kernels.compile.queue import Told, each_piece
from miniattn.kernels.compile.settings import Task, inner, task
from miniattn.kernels.registers import LANES, address, lanes, registers
from miniattn.kernels.rows.writing import finish

COUNT, N, SHARE, LARGE, MASKED, REST = range(6)
# Elements that one piece has; with fewer, one thread is done before a pool is awake.
GRAIN = 16_384
# Registers up to which a row is narrow: as many rows as a register has lanes fit the first cache.
NARROW = 8
GROUP = NARROW * LANES + 1  # registers for the terms of a group, the last of which may be in full


class Rows(NamedTuple):
    """Rows that follow each other, one piece of work, and what their kernel is told."""

    piece: int  # its number
    start: int  # the first row
    m: int  # how many rows
    n: int  # and how many elements each has
    large: bool  # see `writing`
    table: int  # a pointer: which row of a group of narrow ones an element belongs to
    sizes: int  # this and what follows: pointers, as a task gets them
    factors: int
    operands: int
    scratch: int


def rows_task(function: Callable[..., None]) -> Task:
    """Return the task that does ``function(rows)`` for all pieces of work."""
    rows = inner(function)

    @inner
    def work(job, piece):
        (sizes, factors, operands, scratch), table = job
        start, large = piece * sizes[SHARE], sizes[LARGE] != 0
        count = min(sizes[SHARE], sizes[COUNT] - start)
        rows(Rows(piece, start, count, sizes[N], large, table, sizes, factors, operands, scratch))

    def run(sizes: Any, factors: Any, operands: Any, queue: Any, scratch: Any) -> None:
        table = registers(GROUP, np.int32)
        number_rows(table, scratch, sizes[SHARE], sizes[N])
        each_piece(queue, work, (Told(sizes, factors, operands, scratch), table))
        finish(sizes[LARGE] != 0)

    made: Task = task(named_after(function, run))
    return made


def named_after(function: Callable[..., Any], run: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``run`` under the name and in the module of ``function``, where the cache looks."""
    run.__name__, run.__qualname__ = function.__name__, function.__qualname__
    run.__module__, run.__doc__ = function.__module__, function.__doc__
    return run


@inner
def rows_per_piece(count, n):
    """Return the share of one piece; it depends on the shape alone. Groups are not torn apart."""
    rows = GRAIN // max(1, n)
    return max(1, min(count, rows - rows % LANES if rows > LANES else rows))


@inner
def is_narrow(x, n):
    """Return whether rows of n elements are worked on several at a time."""
    return n <= NARROW * lanes(x)


@inner
def number_rows(table, like, count, n):
    """Write to which of up to ``lanes`` rows each element of a group belongs."""
    if is_narrow(like, n):
        for r in range(min(count, lanes(like))):
            for j in range(n):
                table[r * n + j] = r


# --- Operands ------------------------------------------------------------------------------------


@inner
def operand(rows, which):
    """Return a pointer to the whole operand number ``which``, of the task's dtype."""
    return address(rows.operands[which], rows.scratch)


@inner
def matrix(rows, which):
    """Return a pointer to these rows of an operand (R, n)."""
    return operand(rows, which) + rows.start * rows.n


@inner
def column(rows, which):
    """Return a pointer to these rows' numbers in an operand (R,)."""
    return operand(rows, which) + rows.start


@inner
def column_of(rows, which, like):
    """Return the same for an operand of ``like``'s dtype."""
    return address(rows.operands[which], like) + rows.start
