"""What softmax, its logarithm and cross-entropy have in common: maxima and sums of rows.

    m = max_j x_j    s = Σ_j exp((x_j − m) / τ)

Wide rows are worked on one by one. Of narrow rows, as many as a register has lanes go together:
what is left of each, a register of partial maxima or sums, is reduced for all of them by one tree
of shuffles, because row by row these reductions took longer than the exponentials. Such a group of
rows, which follow each other without a gap, is also a whole number of registers, however long its
rows are: it is written from its first element to its last, and a table says to which row each of
them belongs.

A row is a pointer to its first element, and its length n. ``high + low`` is log2(e) / τ in twice
the precision of x, so that exp(d / τ) = 2^(d (high + low)).
"""

import numpy as np

from miniattn.kernels.compile.settings import inner
from miniattn.kernels.registers import (
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
from miniattn.kernels.rows.frame import GROUP, is_narrow
from miniattn.kernels.rows.writing import each, fill

# Vectors added up in the array's own precision before they join a float64 total: this bounds the
# rounding error of a float32 sum, however long the row.
RUN = 32
# Elements up to which the next row is fetched from memory while one is worked on: both stay in the
# second cache.
NEAR = 65_536
# Elements at least that lie between what is worked on and what is fetched: memory takes as long.
AHEAD = 1024


@inner
def distance_ahead(n):
    """Return how far ahead of a row to prefetch: to the next one, unless rows are too long."""
    return max(n, AHEAD) if n <= NEAR else 0


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


# --- A group: up to ``lanes`` narrow rows --------------------------------------------------------


@inner(forceinline=True)
def group_tops(x, count, n):
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
def group_sums(x, count, n, m, high, low, table, terms):
    """Return the rows' Σ_j exp((x[j] − m) / τ) as a vector; the terms are left in ``terms``."""
    if n < 2 * lanes(x):
        fill(terms, count * n, False, _exponentials_of_group, each, (x, n, m, high, low, table))
        return _sums(terms, count, n)
    return _terms_and_sums(x, count, n, m, high, low, terms)


@inner(forceinline=True)
def _exponentials_of_group(of, j, k, operands):
    x, n, m, high, low, table = operands
    prefetch(x + (j + max(AHEAD, lanes(x) * n)))
    return exp2_product(load_first(x + j, k) - of(m, table + j), high, low)


@inner(forceinline=True)
def _sums(terms, count, n):
    step = lanes(terms)
    partial = registers(LANES, terms)
    whole = n - n % step
    for r in range(count):
        p = terms + r * n
        s = load_first(p + whole, n - whole)
        for j in range(0, whole, step):
            s = s + load(p + j)
        store(partial + r * step, s)
    return horizontal_sums(partial)


@inner(forceinline=True)
def _terms_and_sums(x, count, n, m, high, low, terms):
    """Do both at once, row by row: rows of some registers waste little of their last one."""
    step = lanes(x)
    partial, tops = registers(LANES, x), registers(1, x)
    store(tops, m)
    whole, ahead = n - n % step, max(AHEAD, step * n)
    for r in range(count):
        p, q = x + r * n, terms + r * n
        s = splat(0.0, x)
        prefetch(p + (ahead + whole))
        for j in range(0, whole, step):
            prefetch(p + (ahead + j))
            e = exp2_product(load(p + j) - tops[r], high, low)
            store(q + j, e)
            s = s + e
        if whole < n:
            v = select(first(n - whole, x), load_first(p + whole, n - whole), -np.inf)
            e = exp2_product(v - tops[r], high, low)
            store(q + whole, e)  # in full: the next row is written over what is too much
            s = s + e
        store(partial + r * step, s)
    return horizontal_sums(partial)


# --- Any number of rows --------------------------------------------------------------------------


@inner(forceinline=True)
def weights(of, j, k, operands):
    """Return exp(x − m − log s), 0 where x is −inf: a term of `fill`."""
    table, x, m, log_s, high, low = operands
    v = load_first(x + j, k)
    w = exp2_product((v - of(m, table + j)) - of(log_s, table + j), high, low)
    return select(v != -np.inf, w, 0.0)


@inner
def tops_and_sums(x, count, n, high, low, table, top, total):
    """Set top[r] to max_j x[r, j] and total[r] to Σ_j exp((x[r, j] − top[r]) / τ)."""
    if is_narrow(x, n):
        terms = registers(GROUP, x)
        for r in range(0, count, lanes(x)):
            p, k = x + r * n, min(lanes(x), count - r)
            m = group_tops(p, k, n)
            store_first(top + r, m, k)
            store_first(total + r, group_sums(p, k, n, m, high, low, table, terms), k)
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
