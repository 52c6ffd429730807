"""Softmax, log-softmax and log-sum-exp over the rows of a matrix, and their gradients.

    m = max_j x_j    s = Σ_j exp((x_j − m) / τ)
    softmax_j = exp((x_j − m) / τ) / s    log_softmax_j = (x_j − m) / τ − log s    lse = m + log s

x is (R, n); each row of the results has one owner. ``high + low`` is log2(e) / τ in twice the
precision of x, so that exp(d / τ) = 2^(d (high + low)).

A hidden entry counts as −inf: a task copies its rows to a scratch and hides what is hidden there.
Row r takes its mask from ``mask[mask_row[r]]``, so that a mask shared by many rows is stored once;
an empty ``mask`` hides nothing.
"""

import numba
import numpy as np

from miniattn.kernels._runtime import inner, kernel
from miniattn.kernels.simd import (
    exp2_product,
    horizontal_sum,
    keep,
    lanes,
    load,
    load_first,
    pointer,
    registers,
    select,
    splat,
    store,
    store_first,
)
from miniattn.kernels.softmax_rows import (
    GRAIN,
    RUN,
    TERMS,
    exponentials,
    is_narrow,
    largest,
    logarithms,
    narrow_sums,
    narrow_tops,
    rows_per_task,
    scaled_weights,
    tops_and_sums,
)
from miniattn.kernels.tiles import round_up

# --- Some rows: a pointer to the first, their number and their length ----------------------------


@inner(forceinline=True)
def _scale(y, n, factor):
    step = lanes(y)
    whole = n - n % step
    for j in range(0, whole, step):
        store(y + j, load(y + j) * factor)
    if whole < n:
        store_first(y + whole, load_first(y + whole, n - whole) * factor, n - whole)


@inner(forceinline=True)
def _softmax_narrow(x, count, n, high, low, y):
    step = lanes(x)
    terms, factors = registers(TERMS, x), registers(1, x)
    s = narrow_sums(x, count, n, narrow_tops(x, count, n), high, low, terms, True)
    store(factors, select(s != 0.0, 1.0 / s, 0.0))
    whole = n - n % step
    for r in range(count):
        p, q = terms + r * round_up(n, lanes(x)), y + r * n
        for j in range(0, whole, step):
            store(q + j, load(p + j) * factors[r])
        if whole < n:
            store_first(q + whole, load(p + whole) * factors[r], n - whole)


@inner
def _softmax(x, count, n, high, low, y):
    if is_narrow(x, n):
        for top in range(0, count, lanes(x)):
            p, k = x + top * n, min(lanes(x), count - top)
            _softmax_narrow(p, k, n, high, low, y + top * n)
    else:
        for r in range(count):
            i = r * n
            s = exponentials(x + i, n, largest(x + i, n), high, low, y + i, True)
            _scale(y + i, n, 1 / s if s != 0 else 0.0)


@inner
def _log_softmax(x, count, n, high, low, inv_temperature, top, log_sum, y):
    tops_and_sums(x, count, n, high, low, top, log_sum)
    logarithms(log_sum, count)
    step = lanes(x)
    whole = n - n % step
    for r in range(count):
        p, q = x + r * n, y + r * n
        m = top[r]
        log_s = log_sum[r] if log_sum[r] != -np.inf else type(m)(0)
        for j in range(0, whole, step):
            store(q + j, (load(p + j) - m) * inv_temperature - log_s)
        if whole < n:
            v = (load_first(p + whole, n - whole) - m) * inv_temperature - log_s
            store_first(q + whole, v, n - whole)


@inner
def _softmax_backward(dy, y, count, n, inv_temperature, dx):
    step = lanes(y)
    whole = n - n % step
    for r in range(count):
        i = r * n
        g, p, q = dy + i, y + i, dx + i
        dot = _dot(g, p, n)
        for j in range(0, whole, step):
            w = load(p + j)
            store(q + j, select(w != 0.0, w * (load(g + j) - dot) * inv_temperature, 0.0))
        if whole < n:
            w = load_first(p + whole, n - whole)
            v = w * (load_first(g + whole, n - whole) - dot) * inv_temperature
            store_first(q + whole, select(w != 0.0, v, 0.0), n - whole)


@inner(forceinline=True)
def _dot(dy, y, n):
    """Return Σ_j dy[j] y[j] over the entries of weight y[j] ≠ 0."""
    step = lanes(y)
    total = 0.0
    for start in range(0, n, RUN * step):
        stop = min(start + RUN * step, n)
        whole = stop - (stop - start) % step
        s = splat(0.0, y)
        for j in range(start, whole, step):
            w = load(y + j)
            s = s + select(w != 0.0, w * load(dy + j), 0.0)
        if whole < stop:
            w = load_first(y + whole, stop - whole)
            s = s + select(w != 0.0, w * load_first(dy + whole, stop - whole), 0.0)
        total += horizontal_sum(s)
    return total


@inner
def _log_softmax_backward(dy, y, count, n, high, low, inv_temperature, dx):
    step = lanes(y)
    whole = n - n % step
    for r in range(count):
        i = r * n
        g, p, q = dy + i, y + i, dx + i
        total = _sum_visible(g, p, n)
        for j in range(0, whole, step):
            v = load(p + j)
            d = (load(g + j) - exp2_product(v, high, low) * total) * inv_temperature
            store(q + j, select(v != -np.inf, d, 0.0))
        if whole < n:
            v = load_first(p + whole, n - whole)
            d = load_first(g + whole, n - whole) - exp2_product(v, high, low) * total
            store_first(q + whole, select(v != -np.inf, d * inv_temperature, 0.0), n - whole)


@inner(forceinline=True)
def _sum_visible(dy, y, n):
    """Return Σ_j dy[j] over the entries with y[j] ≠ −inf."""
    step = lanes(y)
    total = 0.0
    for start in range(0, n, RUN * step):
        stop = min(start + RUN * step, n)
        whole = stop - (stop - start) % step
        s = splat(0.0, y)
        for j in range(start, whole, step):
            s = s + select(load(y + j) != -np.inf, load(dy + j), 0.0)
        if whole < stop:
            k = stop - whole
            s = s + select(load_first(y + whole, k) != -np.inf, load_first(dy + whole, k), 0.0)
        total += horizontal_sum(s)
    return total


@inner
def _logsumexp_backward(dlse, x, count, n, top, log_sum, high, low, dx):
    for r in range(count):
        i = r * n
        scaled_weights(x + i, n, top[r], log_sum[r], high, low, dlse[r], dx + i)


# --- Masks ---------------------------------------------------------------------------------------


@inner
def _shown_rows(x, start, stop, mask, mask_row, scratch):
    """Return a pointer to rows start to stop of x, or to their copy with −inf where hidden."""
    n = x.shape[1]
    if mask.size == 0:
        return pointer(x, start * n)
    for r in range(start, stop):
        row, visible, copy = x[r], mask[mask_row[r]], scratch[r - start]
        for j in range(n):
            copy[j] = row[j] if visible[j] else -np.inf
    return pointer(scratch, 0)


@inner
def _scratch(x, start, stop, mask):
    count = stop - start if mask.size > 0 else 0
    return np.empty((count, x.shape[1]), x.dtype)


@inner
def _set_hidden(y, start, stop, mask, mask_row, value):
    """Put ``value`` where y is hidden: in a row that holds NaN the arithmetic can't."""
    if mask.size > 0:
        for r in range(start, stop):
            row, visible = y[r], mask[mask_row[r]]
            for j in range(row.size):
                row[j] = row[j] if visible[j] else value


# --- Tasks: the rows from start to stop ----------------------------------------------------------


@inner
def _softmax_task(start, stop, x, mask, mask_row, high, low, y):
    n = x.shape[1]
    scratch = _scratch(x, start, stop, mask)
    p = _shown_rows(x, start, stop, mask, mask_row, scratch)
    _softmax(p, stop - start, n, high, low, pointer(y, start * n))
    keep(scratch)
    _set_hidden(y, start, stop, mask, mask_row, 0)


@inner
def _log_softmax_task(start, stop, x, mask, mask_row, high, low, inv_temperature, y):
    n = x.shape[1]
    scratch = _scratch(x, start, stop, mask)
    p = _shown_rows(x, start, stop, mask, mask_row, scratch)
    top, log_sum = np.empty(stop - start, x.dtype), np.empty(stop - start, x.dtype)
    m, log_s, q = pointer(top, 0), pointer(log_sum, 0), pointer(y, start * n)
    _log_softmax(p, stop - start, n, high, low, inv_temperature, m, log_s, q)
    keep(scratch)
    keep(top)
    keep(log_sum)
    _set_hidden(y, start, stop, mask, mask_row, -np.inf)


@inner
def _softmax_backward_task(start, stop, dy, y, inv_temperature, dx):
    n = y.shape[1]
    i = start * n
    _softmax_backward(
        pointer(dy, i), pointer(y, i), stop - start, n, inv_temperature, pointer(dx, i)
    )


@inner
def _log_softmax_backward_task(start, stop, dy, y, high, low, inv_temperature, dx):
    n = y.shape[1]
    g, p, q = pointer(dy, start * n), pointer(y, start * n), pointer(dx, start * n)
    _log_softmax_backward(g, p, stop - start, n, high, low, inv_temperature, q)


@inner
def _logsumexp_task(start, stop, x, mask, mask_row, high, low, top, log_sum):
    scratch = _scratch(x, start, stop, mask)
    p = _shown_rows(x, start, stop, mask, mask_row, scratch)
    m, s = pointer(top, start), pointer(log_sum, start)
    tops_and_sums(p, stop - start, x.shape[1], high, low, m, s)
    logarithms(s, stop - start)
    keep(scratch)


@inner
def _logsumexp_backward_task(start, stop, dlse, x, mask, mask_row, top, log_sum, high, low, dx):
    n = x.shape[1]
    scratch = _scratch(x, start, stop, mask)
    p = _shown_rows(x, start, stop, mask, mask_row, scratch)
    g, m, log_s = pointer(dlse, start), pointer(top, start), pointer(log_sum, start)
    _logsumexp_backward(g, p, stop - start, n, m, log_s, high, low, pointer(dx, start * n))
    keep(scratch)
    _set_hidden(dx, start, stop, mask, mask_row, 0)


# --- Kernels -------------------------------------------------------------------------------------


@kernel
def softmax(x, mask, mask_row, high, low, y):
    """y[r] = softmax(x[r] / τ), 0 where hidden."""
    count, n = x.shape
    if x.size <= GRAIN:
        _softmax_task(0, count, x, mask, mask_row, high, low, y)
    else:
        share = rows_per_task(count, n)
        for task in numba.prange(-(-count // share)):
            start, stop = task * share, min(count, (task + 1) * share)
            _softmax_task(start, stop, x, mask, mask_row, high, low, y)


@kernel
def softmax_backward(dy, y, inv_temperature, dx):
    """dx = y · (dy − Σ_j dy_j y_j) / τ, in which entries of weight 0 take no part."""
    count, n = y.shape
    if y.size <= GRAIN:
        _softmax_backward_task(0, count, dy, y, inv_temperature, dx)
    else:
        share = rows_per_task(count, n)
        for task in numba.prange(-(-count // share)):
            start, stop = task * share, min(count, (task + 1) * share)
            _softmax_backward_task(start, stop, dy, y, inv_temperature, dx)


@kernel
def log_softmax(x, mask, mask_row, high, low, inv_temperature, y):
    """y[r] = log softmax(x[r] / τ), −inf where hidden."""
    count, n = x.shape
    if x.size <= GRAIN:
        _log_softmax_task(0, count, x, mask, mask_row, high, low, inv_temperature, y)
    else:
        share = rows_per_task(count, n)
        for task in numba.prange(-(-count // share)):
            start, stop = task * share, min(count, (task + 1) * share)
            _log_softmax_task(start, stop, x, mask, mask_row, high, low, inv_temperature, y)


@kernel
def log_softmax_backward(dy, y, high, low, inv_temperature, dx):
    """dx = (dy − exp(y) Σ_j dy_j) / τ, in which entries where y is −inf take no part."""
    count, n = y.shape
    if y.size <= GRAIN:
        _log_softmax_backward_task(0, count, dy, y, high, low, inv_temperature, dx)
    else:
        share = rows_per_task(count, n)
        for task in numba.prange(-(-count // share)):
            start, stop = task * share, min(count, (task + 1) * share)
            _log_softmax_backward_task(start, stop, dy, y, high, low, inv_temperature, dx)


@kernel
def logsumexp(x, mask, mask_row, high, low, top, log_sum):
    """top[r] = max_j x[r, j] and log_sum[r] = lse[r] − top[r]."""
    count, n = x.shape
    if x.size <= GRAIN:
        _logsumexp_task(0, count, x, mask, mask_row, high, low, top, log_sum)
    else:
        share = rows_per_task(count, n)
        for task in numba.prange(-(-count // share)):
            start, stop = task * share, min(count, (task + 1) * share)
            _logsumexp_task(start, stop, x, mask, mask_row, high, low, top, log_sum)


@kernel
def logsumexp_backward(dlse, x, mask, mask_row, top, log_sum, high, low, dx):
    """dx[r, j] = dlse[r] · exp(x[r, j] − lse[r]), 0 where that weight is 0."""
    count, n = x.shape
    if x.size <= GRAIN:
        _logsumexp_backward_task(0, count, dlse, x, mask, mask_row, top, log_sum, high, low, dx)
    else:
        share = rows_per_task(count, n)
        for task in numba.prange(-(-count // share)):
            start, stop = task * share, min(count, (task + 1) * share)
            _logsumexp_backward_task(
                start, stop, dlse, x, mask, mask_row, top, log_sum, high, low, dx
            )
