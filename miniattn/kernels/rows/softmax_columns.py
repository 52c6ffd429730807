"""The softmax family along an axis that is not the last: the formulas of `softmax`, sideways.

x is (A, n, C): A slabs whose columns, n entries that lie C apart, are normalised. A vector holds
the same entry of neighbouring columns, so that maxima and sums are plain vertical operations and
nothing is transposed. Each column has one owner. ``high + low`` is log2(e) / τ as in `softmax`, and
``factors`` are high, low, 1/τ.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from miniattn.kernels.compile.queue import Told, each_piece
from miniattn.kernels.compile.settings import Task, inner, task
from miniattn.kernels.registers import (
    address,
    exp2_product,
    fma,
    lanes,
    load_first,
    log,
    maximum,
    select,
    splat,
    store_first,
)
from miniattn.kernels.rows.frame import named_after
from miniattn.kernels.rows.norm_scaled import add

# What the tasks are told in ``sizes``: A, n, C, and groups of columns in a piece.
SLABS, N, WIDTH, SHARE = range(4)
# Entries added up before they join the total, which carries a correction: this bounds the rounding
# error of a float32 sum, however long the column.
RUN = 64


class Columns(NamedTuple):
    """As many neighbouring columns as fit a register, and what their kernel is told."""

    first: int  # element of x, the first of them in its first row
    number: int  # of that column among all of them
    n: int
    step: int  # elements between the entries of a column
    k: int  # columns that exist
    factors: int  # this and what follows: pointers, as a task gets them
    operands: int
    scratch: int


def columns_task(function: Callable[..., None]) -> Task:
    """Return the task that does ``function(columns)`` for all groups of columns."""
    columns = inner(function)

    @inner
    def work(told, piece):
        sizes, factors, operands, scratch = told
        n, step, width = sizes[N], sizes[WIDTH], lanes(scratch)
        per_slab = -(-step // width)
        groups = sizes[SLABS] * per_slab
        start = piece * sizes[SHARE]
        for group in range(start, min(start + sizes[SHARE], groups)):
            slab, column = group // per_slab, group % per_slab * width
            first, number = slab * n * step + column, slab * step + column
            k = min(width, step - column)
            columns(Columns(first, number, n, step, k, factors, operands, scratch))

    def run(sizes: Any, factors: Any, operands: Any, queue: Any, scratch: Any) -> None:
        each_piece(queue, work, Told(sizes, factors, operands, scratch))

    made: Task = task(named_after(function, run))
    return made


@inner
def _matrix(columns, which):
    """Return a pointer to the first entries of these columns in an operand (A, n, C)."""
    return address(columns.operands[which], columns.scratch) + columns.first


@inner
def _row(columns, which):
    """Return a pointer to these columns' numbers in an operand (A · C,)."""
    return address(columns.operands[which], columns.scratch) + columns.number


# --- Maxima and sums: x points to the first of k columns -----------------------------------------


@inner(forceinline=True)
def _largest(columns, x):
    """Return max_j x_j of each column, NaN passed over; 0 where all is −inf."""
    m = splat(-np.inf, x)
    for j in range(columns.n):
        m = maximum(load_first(x + j * columns.step, columns.k), m)
    return select(m > -np.inf, m, 0.0)


@inner(forceinline=True)
def _exponentials(columns, x, m, y, keep):
    """Return Σ_j exp((x_j − m) / τ) of each column; the terms are kept in y if asked for."""
    n, step, k = columns.n, columns.step, columns.k
    high, low = columns.factors[0], columns.factors[1]
    total, lost = splat(0.0, x), splat(0.0, x)
    for start in range(0, n, RUN):
        s = splat(0.0, x)
        for j in range(start, min(start + RUN, n)):
            e = exp2_product(load_first(x + j * step, k) - m, high, low)
            if keep:
                store_first(y + j * step, e, k)
            s = s + e
        total, lost = add(total, lost, s)
    return total


# --- Kernels -------------------------------------------------------------------------------------


@columns_task
def softmax(columns):
    """y = softmax(x / τ) along the middle axis; operands x, y."""
    n, step, k = columns.n, columns.step, columns.k
    x, y = _matrix(columns, 0), _matrix(columns, 1)
    s = _exponentials(columns, x, _largest(columns, x), y, True)
    factor = select(s != 0.0, 1.0 / s, 0.0)
    for j in range(n):
        i = j * step
        store_first(y + i, load_first(y + i, k) * factor, k)


@columns_task
def softmax_backward(columns):
    """dx = y · (dy − Σ_j dy_j y_j) / τ, in which entries of weight 0 take no part.

    Operands dy, y, dx.
    """
    n, step, k, twice = columns.n, columns.step, columns.k, 2 * columns.factors[2]
    dy, y, dx = _matrix(columns, 0), _matrix(columns, 1), _matrix(columns, 2)
    dot, lost = splat(0.0, y), splat(0.0, y)
    for start in range(0, n, RUN):
        s = splat(0.0, y)
        for j in range(start, min(start + RUN, n)):
            w = load_first(y + j * step, k)
            s = s + select(w != 0.0, w * load_first(dy + j * step, k), 0.0)
        dot, lost = add(dot, lost, s)
    for j in range(n):
        i = j * step
        w = load_first(y + i, k)
        v = w * fma(load_first(dy + i, k), 0.5, dot * -0.5) * twice
        store_first(dx + i, select(w != 0.0, v, 0.0), k)


@columns_task
def log_softmax(columns):
    """y = log softmax(x / τ) along the middle axis; operands x, y."""
    n, step, k, inv_temperature = columns.n, columns.step, columns.k, columns.factors[2]
    x, y = _matrix(columns, 0), _matrix(columns, 1)
    m = _largest(columns, x)
    s = _exponentials(columns, x, m, y, False)
    log_s = select(s != 0.0, log(s), 0.0)
    half = 0.5 if inv_temperature < 1 else 1.0  # as in `softmax`
    inverse = inv_temperature / half
    for j in range(n):
        i = j * step
        below = fma(load_first(x + i, k), half, m * -half)
        store_first(y + i, below * inverse - log_s, k)


@columns_task
def log_softmax_backward(columns):
    """dx = (dy − exp(y) Σ_j dy_j) / τ, in which entries where y is −inf take no part.

    Operands dy, y, dx; ``high + low`` is log2(e), without the temperature.
    """
    n, step, k = columns.n, columns.step, columns.k
    high, low, inv_temperature = columns.factors[0], columns.factors[1], columns.factors[2]
    dy, y, dx = _matrix(columns, 0), _matrix(columns, 1), _matrix(columns, 2)
    total, lost = splat(0.0, y), splat(0.0, y)
    for start in range(0, n, RUN):
        s = splat(0.0, y)
        for j in range(start, min(start + RUN, n)):
            i = j * step
            s = s + select(load_first(y + i, k) != -np.inf, load_first(dy + i, k), 0.0)
        total, lost = add(total, lost, s)
    for j in range(n):
        i = j * step
        v = load_first(y + i, k)
        d = (load_first(dy + i, k) - exp2_product(v, high, low) * total) * inv_temperature
        store_first(dx + i, select(v != -np.inf, d, 0.0), k)


@columns_task
def logsumexp(columns):
    """top = max_j x_j and log_sum = lse − top of every column; operands x, top, log_sum."""
    x = _matrix(columns, 0)
    m = _largest(columns, x)
    store_first(_row(columns, 1), m, columns.k)
    s = _exponentials(columns, x, m, x, False)
    store_first(_row(columns, 2), log(s), columns.k)


@columns_task
def logsumexp_backward(columns):
    """dx_j = dlse · exp(x_j − lse), 0 where that weight is 0.

    Operands dlse, x, dx, top, log_sum.
    """
    n, step, k = columns.n, columns.step, columns.k
    high, low = columns.factors[0], columns.factors[1]
    x, dx = _matrix(columns, 1), _matrix(columns, 2)
    factor = load_first(_row(columns, 0), k)
    m, log_s = load_first(_row(columns, 3), k), load_first(_row(columns, 4), k)
    for j in range(n):
        i = j * step
        v = load_first(x + i, k)
        w = exp2_product((v - m) - log_s, high, low) * factor
        store_first(dx + i, select(v != -np.inf, w, 0.0), k)
