"""The softmax family along an axis that is not the last: the formulas of `softmax`, sideways.

x is (A, n, C): A blocks whose columns, n entries that lie C apart, are normalised. A vector holds
the same entry of neighbouring columns, so that maxima and sums are plain vertical operations and
nothing is transposed. Each column has one owner. ``high + low`` is log2(e) / τ as in `softmax`.
"""

import numba
import numpy as np

from miniattn.kernels.compile.settings import inner, kernel
from miniattn.kernels.registers import (
    exp2_product,
    fma,
    lanes,
    load_first,
    log,
    maximum,
    pointer,
    select,
    splat,
    store_first,
)
from miniattn.kernels.rows.frame import GRAIN

# Entries added up before they join the total, which carries a correction: this bounds the rounding
# error of a float32 sum, however long the column.
RUN = 64


# --- As many columns as fit a register: x points to the first, k of them exist -------------------


@inner(forceinline=True)
def _largest(x, n, step, k):
    """Return max_j x_j of each column, NaN passed over; 0 where all is −inf."""
    m = splat(-np.inf, x)
    for j in range(n):
        m = maximum(load_first(x + j * step, k), m)
    return select(m > -np.inf, m, 0.0)


@inner(forceinline=True)
def _add(total, lost, s):
    """Add s to total; return both the sum and what rounding has lost so far (Kahan)."""
    s = s - lost
    larger = total + s
    return larger, (larger - total) - s


@inner(forceinline=True)
def _exponentials(x, n, step, k, m, high, low, y, keep):
    """Return Σ_j exp((x_j − m) / τ) of each column; the terms are kept in y if asked for."""
    total, lost = splat(0.0, x), splat(0.0, x)
    for start in range(0, n, RUN):
        s = splat(0.0, x)
        for j in range(start, min(start + RUN, n)):
            e = exp2_product(load_first(x + j * step, k) - m, high, low)
            if keep:
                store_first(y + j * step, e, k)
            s = s + e
        total, lost = _add(total, lost, s)
    return total


@inner
def _softmax(x, n, step, k, high, low, y):
    m = _largest(x, n, step, k)
    s = _exponentials(x, n, step, k, m, high, low, y, True)
    factor = select(s != 0.0, 1.0 / s, 0.0)
    for j in range(n):
        i = j * step
        store_first(y + i, load_first(y + i, k) * factor, k)


@inner
def _softmax_backward(dy, y, n, step, k, inv_temperature, dx):
    dot, lost = splat(0.0, y), splat(0.0, y)
    for start in range(0, n, RUN):
        s = splat(0.0, y)
        for j in range(start, min(start + RUN, n)):
            w = load_first(y + j * step, k)
            s = s + select(w != 0.0, w * load_first(dy + j * step, k), 0.0)
        dot, lost = _add(dot, lost, s)
    for j in range(n):
        i = j * step
        w = load_first(y + i, k)
        v = w * fma(load_first(dy + i, k), 0.5, dot * -0.5) * (2 * inv_temperature)
        store_first(dx + i, select(w != 0.0, v, 0.0), k)


@inner
def _log_softmax(x, n, step, k, high, low, inv_temperature, y):
    m = _largest(x, n, step, k)
    s = _exponentials(x, n, step, k, m, high, low, y, False)
    log_s = select(s != 0.0, log(s), 0.0)
    half = 0.5 if inv_temperature < 1 else 1.0  # as in `softmax`
    inverse = inv_temperature / half
    for j in range(n):
        i = j * step
        below = fma(load_first(x + i, k), half, m * -half)
        store_first(y + i, below * inverse - log_s, k)


@inner
def _log_softmax_backward(dy, y, n, step, k, high, low, inv_temperature, dx):
    total, lost = splat(0.0, y), splat(0.0, y)
    for start in range(0, n, RUN):
        s = splat(0.0, y)
        for j in range(start, min(start + RUN, n)):
            i = j * step
            s = s + select(load_first(y + i, k) != -np.inf, load_first(dy + i, k), 0.0)
        total, lost = _add(total, lost, s)
    for j in range(n):
        i = j * step
        v = load_first(y + i, k)
        d = (load_first(dy + i, k) - exp2_product(v, high, low) * total) * inv_temperature
        store_first(dx + i, select(v != -np.inf, d, 0.0), k)


@inner
def _logsumexp(x, n, step, k, high, low, top, log_sum):
    m = _largest(x, n, step, k)
    store_first(top, m, k)
    s = _exponentials(x, n, step, k, m, high, low, x, False)
    store_first(log_sum, log(s), k)


@inner
def _logsumexp_backward(dlse, x, n, step, k, top, log_sum, high, low, dx):
    factor, m, log_s = load_first(dlse, k), load_first(top, k), load_first(log_sum, k)
    for j in range(n):
        i = j * step
        v = load_first(x + i, k)
        w = exp2_product((v - m) - log_s, high, low) * factor
        store_first(dx + i, select(v != -np.inf, w, 0.0), k)


# --- Tasks: the groups of columns from start to stop, in the order of memory ---------------------


@inner(forceinline=True)
def _groups(x):
    """Return how many register-wide groups of columns x has."""
    blocks, _, columns = x.shape
    return blocks * -(-columns // lanes(x))


@inner
def _groups_per_task(x):
    return max(1, GRAIN // max(1, x.shape[1] * lanes(x)))


@inner(forceinline=True)
def _place(x, group):
    """Return the block and the first column of a group, and how many columns it has."""
    width = lanes(x)
    columns = x.shape[2]
    per_block = -(-columns // width)
    column = group % per_block * width
    return group // per_block, column, min(width, columns - column)


@inner
def _softmax_task(start, stop, x, high, low, y):
    _, n, step = x.shape
    for group in range(start, stop):
        block, column, k = _place(x, group)
        i = block * n * step + column
        _softmax(pointer(x, i), n, step, k, high, low, pointer(y, i))


@inner
def _softmax_backward_task(start, stop, dy, y, inv_temperature, dx):
    _, n, step = y.shape
    for group in range(start, stop):
        block, column, k = _place(y, group)
        i = block * n * step + column
        _softmax_backward(
            pointer(dy, i), pointer(y, i), n, step, k, inv_temperature, pointer(dx, i)
        )


@inner
def _log_softmax_task(start, stop, x, high, low, inv_temperature, y):
    _, n, step = x.shape
    for group in range(start, stop):
        block, column, k = _place(x, group)
        i = block * n * step + column
        _log_softmax(
            pointer(x, i),
            n,
            step,
            k,
            high,
            low,
            inv_temperature,
            pointer(y, i),
        )


@inner
def _log_softmax_backward_task(start, stop, dy, y, high, low, inv_temperature, dx):
    _, n, step = y.shape
    for group in range(start, stop):
        block, column, k = _place(y, group)
        i = block * n * step + column
        _log_softmax_backward(
            pointer(dy, i), pointer(y, i), n, step, k, high, low, inv_temperature, pointer(dx, i)
        )


@inner
def _logsumexp_task(start, stop, x, high, low, top, log_sum):
    _, n, step = x.shape
    for group in range(start, stop):
        block, column, k = _place(x, group)
        i = block * n * step + column
        c = block * step + column
        _logsumexp(pointer(x, i), n, step, k, high, low, pointer(top, c), pointer(log_sum, c))


@inner
def _logsumexp_backward_task(start, stop, dlse, x, top, log_sum, high, low, dx):
    _, n, step = x.shape
    for group in range(start, stop):
        block, column, k = _place(x, group)
        i = block * n * step + column
        c = block * step + column
        _logsumexp_backward(
            pointer(dlse, c),
            pointer(x, i),
            n,
            step,
            k,
            pointer(top, c),
            pointer(log_sum, c),
            high,
            low,
            pointer(dx, i),
        )


# --- Kernels -------------------------------------------------------------------------------------


@kernel
def softmax(x, high, low, y):
    """y = softmax(x / τ) along the middle axis."""
    groups = _groups(x)
    if x.size <= GRAIN:
        _softmax_task(0, groups, x, high, low, y)
    else:
        share = _groups_per_task(x)
        for task in numba.prange(-(-groups // share)):
            start, stop = task * share, min(groups, (task + 1) * share)
            _softmax_task(start, stop, x, high, low, y)


@kernel
def softmax_backward(dy, y, inv_temperature, dx):
    """dx = y · (dy − Σ_j dy_j y_j) / τ, in which entries of weight 0 take no part."""
    groups = _groups(y)
    if y.size <= GRAIN:
        _softmax_backward_task(0, groups, dy, y, inv_temperature, dx)
    else:
        share = _groups_per_task(y)
        for task in numba.prange(-(-groups // share)):
            start, stop = task * share, min(groups, (task + 1) * share)
            _softmax_backward_task(start, stop, dy, y, inv_temperature, dx)


@kernel
def log_softmax(x, high, low, inv_temperature, y):
    """y = log softmax(x / τ) along the middle axis."""
    groups = _groups(x)
    if x.size <= GRAIN:
        _log_softmax_task(0, groups, x, high, low, inv_temperature, y)
    else:
        share = _groups_per_task(x)
        for task in numba.prange(-(-groups // share)):
            start, stop = task * share, min(groups, (task + 1) * share)
            _log_softmax_task(start, stop, x, high, low, inv_temperature, y)


@kernel
def log_softmax_backward(dy, y, high, low, inv_temperature, dx):
    """dx = (dy − exp(y) Σ_j dy_j) / τ, in which entries where y is −inf take no part."""
    groups = _groups(y)
    if y.size <= GRAIN:
        _log_softmax_backward_task(0, groups, dy, y, high, low, inv_temperature, dx)
    else:
        share = _groups_per_task(y)
        for task in numba.prange(-(-groups // share)):
            start, stop = task * share, min(groups, (task + 1) * share)
            _log_softmax_backward_task(start, stop, dy, y, high, low, inv_temperature, dx)


@kernel
def logsumexp(x, high, low, top, log_sum):
    """top = max_j x_j and log_sum = lse − top of every column, (A · C,)."""
    groups = _groups(x)
    if x.size <= GRAIN:
        _logsumexp_task(0, groups, x, high, low, top, log_sum)
    else:
        share = _groups_per_task(x)
        for task in numba.prange(-(-groups // share)):
            start, stop = task * share, min(groups, (task + 1) * share)
            _logsumexp_task(start, stop, x, high, low, top, log_sum)


@kernel
def logsumexp_backward(dlse, x, top, log_sum, high, low, dx):
    """dx_j = dlse · exp(x_j − lse), 0 where that weight is 0."""
    groups = _groups(x)
    if x.size <= GRAIN:
        _logsumexp_backward_task(0, groups, dlse, x, top, log_sum, high, low, dx)
    else:
        share = _groups_per_task(x)
        for task in numba.prange(-(-groups // share)):
            start, stop = task * share, min(groups, (task + 1) * share)
            _logsumexp_backward_task(start, stop, dlse, x, top, log_sum, high, low, dx)
