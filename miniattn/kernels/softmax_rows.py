"""What softmax, its logarithm and cross-entropy have in common: maxima and sums of rows.

    m = max_j x_j    s = Σ_j exp((x_j − m) / τ)

Wide rows are worked on one by one. Of narrow rows, as many as a register has lanes go together:
what is left of each, a register of partial maxima or sums, is reduced for all of them by one tree
of shuffles, because row by row these reductions took longer than the exponentials.

A row is a pointer to its first element, and its length n; rows follow each other without a gap.
``high + low`` is log2(e) / τ in twice the precision of x, so that exp(d / τ) = 2^(d (high + low)).
"""

import numpy as np

from miniattn.kernels._runtime import inner
from miniattn.kernels.simd import (
    LANES,
    exp2_product,
    first,
    horizontal_max,
    horizontal_maxima,
    horizontal_sum,
    horizontal_sums,
    lanes,
    load,
    load_first,
    log,
    maximum,
    prefetch,
    registers,
    select,
    splat,
    store,
    store_first,
)
from miniattn.kernels.tiles import round_up

# Elements that one task works on; with fewer, one thread is done before a pool is awake.
GRAIN = 16_384
# Vectors added up in the array's own precision before they join a float64 total: this bounds the
# rounding error of a float32 sum, however long the row.
RUN = 32
# Registers up to which a row is narrow: as many rows as a register has lanes fit the first cache.
NARROW = 8
TERMS = NARROW * LANES  # registers that hold the terms of narrow rows
# Elements up to which the next row is fetched from memory while one is worked on: both stay in the
# second cache.
NEAR = 65_536


@inner
def distance_ahead(n):
    """Return how far ahead of a row to prefetch: to the next one, unless rows are too long."""
    return n if n <= NEAR else 0


@inner
def rows_per_task(count, n):
    """Return the share of one task; it depends on the shape alone."""
    return max(1, min(count, GRAIN // max(1, n)))


@inner
def is_narrow(x, n):
    """Return whether rows of n elements are worked on several at a time."""
    return n <= NARROW * lanes(x)


# --- One row -------------------------------------------------------------------------------------


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
    step, ahead = lanes(x), distance_ahead(n)
    total = 0.0
    for start in range(0, n, RUN * step):
        stop = min(start + RUN * step, n)
        whole = stop - (stop - start) % step
        s = splat(0.0, x)
        for j in range(start, whole, step):
            prefetch(x + (j + ahead))
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


# --- Up to ``lanes`` narrow rows -----------------------------------------------------------------


@inner(forceinline=True)
def narrow_tops(x, count, n):
    """Return origins of the rows in the lanes of a vector."""
    step = lanes(x)
    partial = registers(LANES, x)
    whole = n - n % step
    for r in range(count):
        p = x + r * n
        m = splat(-np.inf, x)
        for j in range(0, whole, step):
            m = maximum(load(p + j), m)
        if whole < n:
            v = load_first(p + whole, n - whole)
            m = maximum(select(first(n - whole, x), v, -np.inf), m)
        store(partial + r * step, m)
    m = horizontal_maxima(partial)
    return select(m > -np.inf, m, 0.0)


@inner(forceinline=True)
def narrow_sums(x, count, n, m, high, low, terms, keep):
    """Return the rows' Σ_j exp((x[j] − m) / τ) as a vector; the terms are kept if asked for.

    Each row of ``terms`` takes whole registers, because what a masked store wrote can't be read
    back for a while.
    """
    step = lanes(x)
    partial, tops = registers(LANES, x), registers(1, x)
    store(tops, m)
    whole = n - n % step
    for r in range(count):
        p, q = x + r * n, terms + r * round_up(n, lanes(x))
        s = splat(0.0, x)
        prefetch(p + (step * n + whole))  # of the next rows
        for j in range(0, whole, step):
            prefetch(p + (step * n + j))
            e = exp2_product(load(p + j) - tops[r], high, low)
            if keep:
                store(q + j, e)
            s = s + e
        if whole < n:
            v = select(first(n - whole, x), load_first(p + whole, n - whole), -np.inf)
            e = exp2_product(v - tops[r], high, low)
            if keep:
                store(q + whole, e)
            s = s + e
        store(partial + r * step, s)
    return horizontal_sums(partial)


# --- Any number of rows --------------------------------------------------------------------------


@inner
def tops_and_sums(x, count, n, high, low, top, total):
    """Set top[r] to max_j x[r, j] and total[r] to Σ_j exp((x[r, j] − top[r]) / τ)."""
    if is_narrow(x, n):
        for r in range(0, count, lanes(x)):
            p, k = x + r * n, min(lanes(x), count - r)
            m = narrow_tops(p, k, n)
            store_first(top + r, m, k)
            store_first(total + r, narrow_sums(p, k, n, m, high, low, p, False), k)
    else:
        for r in range(count):
            p = x + r * n
            m = largest(p, n)
            top[r] = m
            total[r] = exponentials(p, n, m, high, low, p, False)


@inner
def logarithms(s, count):
    """Take the logarithm of s in place: many rows at once, where one alone would take 10 ns."""
    for r in range(0, count, lanes(s)):
        store_first(s + r, log(load_first(s + r, count - r)), count - r)
