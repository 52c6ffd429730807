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
    first,
    horizontal_max,
    horizontal_sum,
    lanes,
    load,
    load_first,
    log,
    maximum,
    pointer,
    select,
    splat,
    store,
    store_first,
)

# Elements that one task works on; with fewer, one thread is done before a pool is awake.
GRAIN = 16_384
# Vectors added up in the array's own precision before they join a float64 total: this bounds the
# rounding error of a float32 sum, however long the row.
RUN = 32


@inner
def rows_per_task(count, n):
    """Return the share of one task; it depends on the shape alone."""
    return max(1, min(count, GRAIN // max(1, n)))


# --- One row: a pointer to its first element, and its length -------------------------------------


@inner(forceinline=True)
def origin(v):
    """Return the largest lane, or 0 if all are −inf: −inf − (−inf) would be NaN."""
    m = horizontal_max(v)
    return m if m > -np.inf else type(m)(0)


@inner(forceinline=True)
def largest(x, n):
    """Return max_j x[j], NaN passed over; 0 where all is −inf."""
    step = lanes(x)
    a = splat(-np.inf, x)
    b, c, d = a, a, a  # four chains hide the latency of one
    whole = n - n % (4 * step)
    for j in range(0, whole, 4 * step):
        a = maximum(load(x + j), a)
        b = maximum(load(x + (j + step)), b)
        c = maximum(load(x + (j + 2 * step)), c)
        d = maximum(load(x + (j + 3 * step)), d)
    for j in range(whole, n, step):
        a = maximum(select(first(n - j, x), load_first(x + j, n - j), -np.inf), a)
    return origin(maximum(maximum(a, b), maximum(c, d)))


@inner(forceinline=True)
def exponentials(x, n, m, high, low, y, keep):
    """Return s = Σ_j exp((x[j] − m) / τ); the terms are kept in y if asked for."""
    step = lanes(x)
    total = 0.0
    for start in range(0, n, RUN * step):
        stop = min(start + RUN * step, n)
        whole = stop - (stop - start) % step
        s = splat(0.0, x)
        for j in range(start, whole, step):
            e = exp2_product(load(x + j) - m, high, low)
            if keep:
                store(y + j, e)
            s = s + e
        if whole < stop:
            k = stop - whole
            e = exp2_product(load_first(x + whole, k) - m, high, low)
            if keep:
                store_first(y + whole, e, k)
            s = s + select(first(k, x), e, 0.0)
        total += horizontal_sum(s)
    return total


@inner(forceinline=True)
def _scale(y, n, factor):
    step = lanes(y)
    whole = n - n % step
    for j in range(0, whole, step):
        store(y + j, load(y + j) * factor)
    if whole < n:
        store_first(y + whole, load_first(y + whole, n - whole) * factor, n - whole)


@inner(forceinline=True)
def top_and_sum(x, n, high, low):
    """Return m and s of a row."""
    if n <= lanes(x):
        v = select(first(n, x), load_first(x, n), -np.inf)
        m = origin(v)
        return m, np.float64(horizontal_sum(exp2_product(v - m, high, low)))
    m = largest(x, n)
    return m, exponentials(x, n, m, high, low, x, False)


@inner(forceinline=True)
def scaled_weights(x, n, m, log_s, high, low, factor, dx):
    """Set dx[j] = factor · exp(x[j] − m − log s), 0 where x is −inf."""
    step = lanes(x)
    whole = n - n % step
    for j in range(0, whole, step):
        v = load(x + j)
        w = exp2_product((v - m) - log_s, high, low) * factor
        store(dx + j, select(v != -np.inf, w, 0.0))
    if whole < n:
        v = load_first(x + whole, n - whole)
        w = exp2_product((v - m) - log_s, high, low) * factor
        store_first(dx + whole, select(v != -np.inf, w, 0.0), n - whole)


# --- Some rows: a pointer to the first, their number and their length ----------------------------


@inner
def _softmax_one(x, count, n, high, low, y):
    """Rows of at most one register: they stay there from beginning to end."""
    inside = first(n, x)
    for r in range(count):
        i = r * n
        v = select(inside, load_first(x + i, n), -np.inf)
        e = exp2_product(v - origin(v), high, low)
        s = horizontal_sum(e)
        store_first(y + i, e * (type(s)(1) / s if s != 0 else s), n)


@inner
def _softmax_two(x, count, n, high, low, y):
    """Rows of one to two registers."""
    step = lanes(x)
    k = n - step
    inside = first(k, x)
    for r in range(count):
        i = r * n
        v = load(x + i)
        w = select(inside, load_first(x + (i + step), k), -np.inf)
        m = origin(maximum(v, w))
        e = exp2_product(v - m, high, low)
        f = exp2_product(w - m, high, low)
        s = horizontal_sum(e + f)
        factor = type(s)(1) / s if s != 0 else s
        store(y + i, e * factor)
        store_first(y + (i + step), f * factor, k)


@inner
def _softmax(x, count, n, high, low, y):
    if n <= lanes(x):
        _softmax_one(x, count, n, high, low, y)
    elif n <= 2 * lanes(x):
        _softmax_two(x, count, n, high, low, y)
    else:
        for r in range(count):
            i = r * n
            s = exponentials(x + i, n, largest(x + i, n), high, low, y + i, True)
            _scale(y + i, n, 1 / s if s != 0 else 0.0)


@inner
def log_sums(x, count, n, high, low, top, log_sum):
    """Set top[r] to max_j x[r, j] and log_sum[r] to log Σ_j exp((x[r, j] − top[r]) / τ)."""
    for r in range(count):
        m, s = top_and_sum(x + r * n, n, high, low)
        top[r] = m
        log_sum[r] = s
    logarithms(log_sum, count)


@inner
def logarithms(s, count):
    """Take the logarithm of s in place: many rows at once, where one alone would take 10 ns."""
    for r in range(0, count, lanes(s)):
        store_first(s + r, log(load_first(s + r, count - r)), count - r)


@inner
def _log_softmax(x, count, n, high, low, inv_temperature, top, log_sum, y):
    log_sums(x, count, n, high, low, top, log_sum)
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
    _set_hidden(y, start, stop, mask, mask_row, 0)


@inner
def _log_softmax_task(start, stop, x, mask, mask_row, high, low, inv_temperature, y):
    n = x.shape[1]
    scratch = _scratch(x, start, stop, mask)
    p = _shown_rows(x, start, stop, mask, mask_row, scratch)
    top, log_sum = np.empty(stop - start, x.dtype), np.empty(stop - start, x.dtype)
    m, log_s, q = pointer(top, 0), pointer(log_sum, 0), pointer(y, start * n)
    _log_softmax(p, stop - start, n, high, low, inv_temperature, m, log_s, q)
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
    log_sums(p, stop - start, x.shape[1], high, low, pointer(top, start), pointer(log_sum, start))


@inner
def _logsumexp_backward_task(start, stop, dlse, x, mask, mask_row, top, log_sum, high, low, dx):
    n = x.shape[1]
    scratch = _scratch(x, start, stop, mask)
    p = _shown_rows(x, start, stop, mask, mask_row, scratch)
    g, m, log_s = pointer(dlse, start), pointer(top, start), pointer(log_sum, start)
    _logsumexp_backward(g, p, stop - start, n, m, log_s, high, low, pointer(dx, start * n))
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
