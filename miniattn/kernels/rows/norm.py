"""Layer and root mean square normalisation of rows, forward and backward.

    x̂ = (x − mean) · rstd    y = x̂ · weight + bias    rstd = 1 / √(Σ (x − mean)² / n + eps)
    g = dy · weight    dx = rstd · (g − Σ g / n − x̂ · Σ (g · x̂) / n)
    dweight = Σ_rows dy · x̂    dbias = Σ_rows dy

Root mean square normalisation is the same around 0: ``centred`` is False, mean is 0, and the
term Σ g / n, which comes from the mean, is missing.

A row whose numbers are so large or small that squares or products leave the dtype, or whose mean is
large beside what varies, is left to `norm_scaled`; a minus sign at its rstd tells backward.

A row of y or dx has one owner. dweight and dbias are sums over all rows: each piece of work adds up
a range of rows that is fixed by the shape, and the caller adds these sums in order.
"""

import numpy as np

from miniattn.kernels.compile.settings import inner
from miniattn.kernels.elementary import is_float32
from miniattn.kernels.registers import (
    LANES,
    absolute,
    address,
    first,
    fma,
    horizontal_sums,
    lanes,
    load,
    load_first,
    prefetch,
    registers,
    select,
    splat,
    sqrt,
    store,
    store_first,
)
from miniattn.kernels.rows import norm_scaled
from miniattn.kernels.rows.columns import RUN
from miniattn.kernels.rows.frame import COUNT, REST, column, matrix, operand, rows_task
from miniattn.kernels.rows.norm_scaled import VECTORS, Norm, add
from miniattn.kernels.rows.softmax_rows import distance_ahead
from miniattn.kernels.rows.writing import fill, one

CENTRED = REST  # the place among the sizes of whether it is layer normalisation
# Mean squares and gradients below the first, in float32 and float64, may have lost products that
# count, means of gradients above the second may overflow once they are multiplied by x̂.
LEAST32, LEAST64 = 1e-30, 1e-290
MOST32, MOST64 = 1e30, 1e290
# Standard deviations from 0 up to which a mean is rounded to nothing that shows.
NEAR = 4.0
# Elements that are worked on at once: the first cache keeps them, and the next as many.
ROOM = 2048


@inner
def _rows_together(x, n):
    """Return how many rows are worked on at once: up to a register of them, where there is room."""
    count = lanes(x)
    while count > 1 and count * n > ROOM:
        count //= 2
    return count


@inner
def _value(v, centre):
    return v


@inner
def _squared_distance(v, centre):
    d = v - centre
    return d * d


@inner(forceinline=True)
def _part_sums(term, x, n, centre):
    """Return a register whose lanes add up to Σ term(x[j], centre) over j < n."""
    step, ahead = lanes(x), distance_ahead(n)
    total, lost = splat(0.0, x), splat(0.0, x)
    for start in range(0, n, VECTORS * step):
        stop = min(start + VECTORS * step, n)
        a = b = c = d = splat(0.0, x)  # four chains of additions: one would wait for itself
        j = start
        while j + 4 * step <= stop:
            for line in range(4):
                prefetch(x + (j + line * step + ahead))
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
        total, lost = add(total, lost, (a + b) + (c + d))
    return total


@inner(forceinline=True)
def _clear(parts):
    for r in range(lanes(parts)):
        store(parts + r * lanes(parts), splat(0.0, parts))


@inner
def _forward(x, bias, count, norm, y, mean, rstd):
    """Do up to ``lanes`` rows; what is left of each is reduced for all by one tree of shuffles."""
    n = norm.n
    parts, means, rstds = registers(LANES, x), registers(1, x), registers(1, x)
    _clear(parts)
    if norm.centred:
        for r in range(count):
            store(parts + r * lanes(x), _part_sums(_value, x + r * n, n, 0.0))
    store(means, horizontal_sums(parts) * (1 / n))
    for r in range(count):
        store(parts + r * lanes(x), _part_sums(_squared_distance, x + r * n, n, means[r]))
    variance = horizontal_sums(parts) * (1 / n)
    square = variance + norm.eps
    ordinary = _is_ordinary(load(means), variance, square)
    store(rstds, 1.0 / sqrt(square) * select(ordinary, splat(1.0, x), -1.0))
    for r in range(count):
        i = r * n
        if rstds[r] > 0:
            operands = x + i, norm.weight, bias, means[r], rstds[r]
            fill(y + i, n, norm.large, _normalised, one, operands)
        elif n > 0:
            norm_scaled.forward(x + i, bias, norm, y + i, means + r, rstds + r)
    store_first(mean, load(means), count)
    store_first(rstd, load(rstds), count)


@inner(forceinline=True)
def _is_ordinary(mean, variance, square):
    """Return where nothing overflowed, no square was lost, and the mean is near; NaN nowhere."""
    least = LEAST32 if is_float32(mean) else LEAST64
    near = absolute(mean) <= sqrt(variance) * NEAR
    return near & (square >= least) & (square < np.inf)


@inner(forceinline=True)
def _normalised(of, j, k, operands):
    x, weight, bias, mean, rstd = operands
    xhat = (load_first(x + j, k) - mean) * rstd
    return fma(xhat, load_first(weight + j, k), load_first(bias + j, k))


@rows_task
def forward(rows):
    """Fill y (R, n) and mean, rstd (R,) from x (R, n), weight (n,), bias (n,).

    Operands in the order x, weight, bias, y, and mean and rstd in one array; factor eps.
    """
    norm, bias = _norm(rows, operand(rows, 1)), operand(rows, 2)
    x, y, mean = matrix(rows, 0), matrix(rows, 3), column(rows, 4)
    rstd = mean + rows.sizes[COUNT]
    together = _rows_together(x, rows.n)
    for r in range(0, rows.m, together):
        k, i = min(together, rows.m - r), r * rows.n
        _forward(x + i, bias, k, norm, y + i, mean + r, rstd + r)


@inner
def _norm(rows, weight):
    return Norm(weight, rows.n, rows.factors[0], rows.sizes[CENTRED] != 0, rows.large)


@inner(forceinline=True)
def _gradient_sums(dy, x, weight, n, mean, rstd, dweight, dbias):
    """Return registers that add up to Σ g and Σ (g · x̂); add dy · x̂ to dweight, dy to dbias."""
    step, ahead = lanes(x), distance_ahead(n)
    total_g, lost_g = splat(0.0, x), splat(0.0, x)
    total_gx, lost_gx = total_g, lost_g
    for start in range(0, n, VECTORS * step):
        stop = min(start + VECTORS * step, n)
        run_g, run_gx = splat(0.0, x), splat(0.0, x)
        for j in range(start, stop - step + 1, step):
            prefetch(dy + (j + ahead))
            prefetch(x + (j + ahead))
            d = load(dy + j)
            xhat = (load(x + j) - mean) * rstd
            g = d * load(weight + j)
            run_g += g
            run_gx = fma(g, xhat, run_gx)
            store(dweight + j, fma(d, xhat, load(dweight + j)))
            store(dbias + j, load(dbias + j) + d)
        rest = (stop - start) % step
        if rest:
            j = stop - rest
            d = load_first(dy + j, rest)
            xhat = (load_first(x + j, rest) - mean) * rstd
            g = d * load_first(weight + j, rest)
            run_g += g
            run_gx += select(first(rest, x), g * xhat, 0.0)
            store_first(dweight + j, fma(d, xhat, load_first(dweight + j, rest)), rest)
            store_first(dbias + j, load_first(dbias + j, rest) + d, rest)
        total_g, lost_g = add(total_g, lost_g, run_g)
        total_gx, lost_gx = add(total_gx, lost_gx, run_gx)
    return total_g, total_gx


@inner
def _backward(dy, x, count, norm, moments, dx, sums):
    """Do up to ``lanes`` rows; add to dweight and dbias, the sums, what they contribute."""
    (mean, rstd), (dweight, dbias), weight, n = moments, sums, norm.weight, norm.n
    step = lanes(x)
    parts_g, parts_gx = registers(LANES, x), registers(LANES, x)
    means_g, means_gx, ordinary = registers(1, x), registers(1, x), registers(1, x)
    _clear(parts_g)
    _clear(parts_gx)
    for r in range(count):
        i = r * n
        if rstd[r] > 0:
            g, gx = _gradient_sums(dy + i, x + i, weight, n, mean[r], rstd[r], dweight, dbias)
            store(parts_g + r * step, g)
            store(parts_gx + r * step, gx)
        elif n > 0:
            norm_scaled.add_to_parameters(dy + i, x + i, norm, dweight, dbias)
    store(means_g, horizontal_sums(parts_g) * (1 / n if norm.centred else 0.0))
    store(means_gx, horizontal_sums(parts_gx) * (1 / n))
    between = _is_between(absolute(load(means_g)), absolute(load(means_gx)))
    store(ordinary, select(between, load_first(rstd, count), 0.0))
    for r in range(count):
        i = r * n
        if ordinary[r] > 0 or (rstd[r] > 0 and norm_scaled.is_zero(dy + i, n)):
            numbers = dy + i, x + i, weight, mean[r], rstd[r], means_g[r], means_gx[r]
            fill(dx + i, n, norm.large, _gradient, one, numbers)
        elif n > 0:
            norm_scaled.backward(dy + i, x + i, norm, dx + i)


@inner(forceinline=True)
def _is_between(g, gx):
    """Return where neither product overflowed and not both may have got lost; NaN nowhere."""
    least = LEAST32 if is_float32(g) else LEAST64
    most = MOST32 if is_float32(g) else MOST64
    return ((g >= least) | (gx >= least)) & (g < most) & (gx < most)


@inner(forceinline=True)
def _gradient(of, j, k, operands):
    dy, x, weight, mean, rstd, mean_g, mean_gx = operands
    xhat = (load_first(x + j, k) - mean) * rstd
    g = load_first(dy + j, k) * load_first(weight + j, k)
    return (g - mean_g - xhat * mean_gx) * rstd


@rows_task
def backward(rows):
    """Fill dx (R, n), and for each piece of work its sums of dweight and dbias; factor eps.

    Operands dy, x (R, n), weight (n,), mean and rstd (2, R), dx, and float64 sums (pieces, 4, n):
    dweight, dbias, and room for those of a few rows.
    """
    n, norm = rows.n, _norm(rows, operand(rows, 2))
    dy, x, mean, dx = matrix(rows, 0), matrix(rows, 1), column(rows, 3), matrix(rows, 4)
    rstd = mean + rows.sizes[COUNT]
    place = rows.operands[5] + rows.piece * 4 * n * 8
    sums, run = address(place, np.float64), address(place + 2 * n * 8, x)
    together = _rows_together(x, 4 * n)
    for j in range(2 * n):
        sums[j] = 0
    for top in range(0, rows.m, RUN):
        for j in range(2 * n):
            run[j] = 0
        bottom = min(top + RUN, rows.m)
        for r in range(top, bottom, together):
            k, i = min(together, bottom - r), r * n
            moments = mean + r, rstd + r
            _backward(dy + i, x + i, k, norm, moments, dx + i, (run, run + n))
        for j in range(2 * n):
            sums[j] = sums[j] + run[j]
