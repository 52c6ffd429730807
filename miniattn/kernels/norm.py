"""Layer and root mean square normalisation of rows, forward and backward.

    x̂ = (x − mean) · rstd    y = x̂ · weight + bias    rstd = 1 / √(Σ (x − mean)² / n + eps)
    g = dy · weight    dx = rstd · (g − Σ g / n − x̂ · Σ (g · x̂) / n)
    dweight = Σ_rows dy · x̂    dbias = Σ_rows dy

Root mean square normalisation is the same around 0: ``centred`` is False, mean is 0, and the
term Σ g / n, which comes from the mean, is missing.

A row of y or dx has one owner. dweight and dbias are sums over all rows: each task adds up a range
of rows that is fixed by the shape, and the partial sums are added in order.
"""

import math

import numba
import numpy as np

from miniattn.kernels._runtime import inner, kernel
from miniattn.kernels.columns import RUN, add_partials, rows_per_task
from miniattn.kernels.simd import (
    first,
    fma,
    horizontal_sum,
    lanes,
    load,
    load_first,
    pointer,
    select,
    splat,
    store,
    store_first,
)

# Elements below which one thread is done sooner than a pool is woken.
SMALL = 8192
# Vectors added up lane by lane before they join a float64 total: this bounds the rounding error
# of a float32 sum, however long the row is.
VECTORS = 64


@inner
def _value(v, centre):
    return v


@inner
def _squared_distance(v, centre):
    d = v - centre
    return d * d


@inner
def _total(term, x, n, centre):
    """Return Σ term(x[j], centre) over j < n."""
    step = lanes(x)
    total = 0.0
    for start in range(0, n, VECTORS * step):
        stop = min(start + VECTORS * step, n)
        a = b = c = d = splat(0.0, x)  # four chains of additions: one would wait for itself
        j = start
        while j + 4 * step <= stop:
            a += term(load(x + j), centre)
            b += term(load(x + (j + step)), centre)
            c += term(load(x + (j + 2 * step)), centre)
            d += term(load(x + (j + 3 * step)), centre)
            j += 4 * step
        while j + step <= stop:
            a += term(load(x + j), centre)
            j += step
        if j < stop:
            v = term(load_first(x + j, stop - j), centre)
            b += select(first(stop - j, x), v, 0.0)
        total += horizontal_sum((a + b) + (c + d))
    return total


@inner
def _forward_row(x, weight, bias, n, eps, centred, y):
    mean = _total(_value, x, n, 0.0) / n if centred else 0.0
    rstd = 1 / math.sqrt(_total(_squared_distance, x, n, mean) / n + eps)
    for j in range(0, n - lanes(x) + 1, lanes(x)):
        xhat = (load(x + j) - mean) * rstd
        store(y + j, fma(xhat, load(weight + j), load(bias + j)))
    rest = n % lanes(x)
    if rest:
        j = n - rest
        xhat = (load_first(x + j, rest) - mean) * rstd
        out = fma(xhat, load_first(weight + j, rest), load_first(bias + j, rest))
        store_first(y + j, out, rest)
    return mean, rstd


@kernel
def forward(x, weight, bias, eps, centred, y, mean, rstd):
    """Fill y (R, n) and mean, rstd (R,) from x (R, n), weight (n,), bias (n,)."""
    count, n = x.shape
    w, b = pointer(weight, 0), pointer(bias, 0)
    if x.size <= SMALL:
        for r in range(count):
            mean[r], rstd[r] = _forward_row(
                pointer(x, r * n), w, b, n, eps, centred, pointer(y, r * n)
            )
    else:
        for r in numba.prange(count):
            mean[r], rstd[r] = _forward_row(
                pointer(x, r * n), w, b, n, eps, centred, pointer(y, r * n)
            )


@inner
def _backward_sums(dy, x, weight, n, mean, rstd, dweight, dbias):
    """Return Σ g and Σ (g · x̂) of one row; add dy · x̂ to dweight and dy to dbias."""
    sum_g, sum_gx = 0.0, 0.0
    for start in range(0, n, VECTORS * lanes(x)):
        stop = min(start + VECTORS * lanes(x), n)
        run_g, run_gx = splat(0.0, x), splat(0.0, x)
        for j in range(start, stop - lanes(x) + 1, lanes(x)):
            d = load(dy + j)
            xhat = (load(x + j) - mean) * rstd
            g = d * load(weight + j)
            run_g += g
            run_gx = fma(g, xhat, run_gx)
            store(dweight + j, fma(d, xhat, load(dweight + j)))
            store(dbias + j, load(dbias + j) + d)
        rest = (stop - start) % lanes(x)
        if rest:
            j = stop - rest
            d = load_first(dy + j, rest)
            xhat = (load_first(x + j, rest) - mean) * rstd
            g = d * load_first(weight + j, rest)
            run_g += g
            run_gx += select(first(rest, x), g * xhat, 0.0)
            store_first(dweight + j, fma(d, xhat, load_first(dweight + j, rest)), rest)
            store_first(dbias + j, load_first(dbias + j, rest) + d, rest)
        sum_g += horizontal_sum(run_g)
        sum_gx += horizontal_sum(run_gx)
    return sum_g, sum_gx


@inner
def _backward_row(dy, x, weight, n, mean, rstd, centred, dx, dweight, dbias):
    sum_g, sum_gx = _backward_sums(dy, x, weight, n, mean, rstd, dweight, dbias)
    mean_g, mean_gx = sum_g / n if centred else 0.0, sum_gx / n
    for j in range(0, n - lanes(x) + 1, lanes(x)):
        xhat = (load(x + j) - mean) * rstd
        g = load(dy + j) * load(weight + j)
        store(dx + j, (g - mean_g - xhat * mean_gx) * rstd)
    rest = n % lanes(x)
    if rest:
        j = n - rest
        xhat = (load_first(x + j, rest) - mean) * rstd
        g = load_first(dy + j, rest) * load_first(weight + j, rest)
        store_first(dx + j, (g - mean_g - xhat * mean_gx) * rstd, rest)


@inner
def _backward_rows(dy, x, weight, mean, rstd, centred, dx, start, stop, dweight, dbias):
    """Do rows start to stop; set dweight, dbias (n,) float64 to their sums over these rows."""
    n = x.shape[1]
    run_weight, run_bias = np.empty(n, x.dtype), np.empty(n, x.dtype)
    dweight[:], dbias[:] = 0, 0
    for top in range(start, stop, RUN):
        run_weight[:], run_bias[:] = 0, 0
        for r in range(top, min(top + RUN, stop)):
            _backward_row(
                pointer(dy, r * n), pointer(x, r * n), pointer(weight, 0), n, mean[r], rstd[r],
                centred, pointer(dx, r * n), pointer(run_weight, 0), pointer(run_bias, 0),
            )  # fmt: skip
        dweight += run_weight
        dbias += run_bias


@kernel
def backward(dy, x, weight, mean, rstd, centred, dx, dweight, dbias):
    """Fill dx (R, n), dweight and dbias (n,) from dy, x (R, n), weight (n,), mean, rstd (R,)."""
    count, n = x.shape
    share = rows_per_task(count)
    tasks = -(-count // share)
    dweights, dbiases = np.empty((tasks, n)), np.empty((tasks, n))
    if x.size <= SMALL:
        for task in range(tasks):
            start, stop = task * share, min((task + 1) * share, count)
            _backward_rows(
                dy, x, weight, mean, rstd, centred, dx, start, stop, dweights[task], dbiases[task]
            )
    else:
        for task in numba.prange(tasks):
            start, stop = task * share, min((task + 1) * share, count)
            _backward_rows(
                dy, x, weight, mean, rstd, centred, dx, start, stop, dweights[task], dbiases[task]
            )
    add_partials(dweights, dweight)
    add_partials(dbiases, dbias)
