"""Rows whose normalisation needs care: read in units of their own, and from a place of their own.

Squares of numbers beyond 1e19 overflow in float32, those below 1e-19 get lost, and where a mean is
large beside what varies, its rounding is as large as that. Such a row is read as

    z = ((x · before) − origin) · after        origin = x_0 · before, or 0 around 0

so that equal numbers are exactly 0 and the largest |z| is about 1, or smaller where eps rules.
``before`` and ``after`` are powers of two, which round nothing, one of them 1: large numbers are
made smaller before anything is subtracted, small ones larger after it. In these units

    x̂ = (z − mean) · rstd    rstd = 1 / √(Σ (z − mean)² / n + eps · (before · after)²)

In backward the gain and the gradient that comes in have units of their own as well, and the three
are taken out again at the end, where nothing overflows but what overflows in the result.

These rows take half as long again as the others: `norm` decides which they are.
"""

import math
from typing import NamedTuple

import numpy as np

from miniattn.kernels.compile.settings import inner
from miniattn.kernels.elementary import is_float32
from miniattn.kernels.registers import (
    absolute,
    first,
    fma,
    horizontal_max,
    horizontal_sum,
    lanes,
    load_first,
    maximum,
    select,
    splat,
    store_first,
)
from miniattn.kernels.rows.writing import fill, one

# Vectors added up lane by lane before they join a total, which carries a correction: this bounds
# the rounding error of a float32 sum, however long the row is.
VECTORS = 64


class Norm(NamedTuple):
    """What all rows have in common."""

    weight: int  # a pointer to n numbers
    n: int
    eps: float
    centred: bool
    large: bool  # see `writing`


@inner(forceinline=True)
def add(total, lost, s):
    """Add s to total; return both the sum and what rounding has lost so far (Kahan)."""
    s = s - lost
    larger = total + s
    return larger, (larger - total) - s


# --- Units -----------------------------------------------------------------------------------


@inner
def _largest(x, n, origin):
    """Return max_j |x[j] − origin| / 2: half of it, because the whole may overflow."""
    step = lanes(x)
    most = splat(0.0, x)
    for j in range(0, n, step):
        k = min(step, n - j)
        v = absolute(load_first(x + j, k) * 0.5 - origin * 0.5)
        most = maximum(select(first(k, x), v, 0.0), most)
    return np.float64(horizontal_max(most))


@inner
def is_zero(x, n):
    """Return whether all numbers are 0."""
    return _largest(x, n, 0.0) == 0


# Nothing in these is rearranged: (eps · unit) · unit is no overflow where eps · (unit · unit) is.
@inner(fastmath=False)
def _exponent(half, like):
    """Return e with 2^e ≤ 2 · half < 2^(e+1), kept so that 2^−e is a normal number."""
    most = 126 if is_float32(splat(0.0, like)) else 1022
    if not 0 < half < np.inf:
        return 0
    return max(-most, min(math.frexp(half)[1], most))


@inner(fastmath=False)
def _scaled_eps(eps, unit):
    return (eps * unit) * unit


@inner
def _moments(x, norm):
    """Return how to read a row: before, origin, after, mean; rstd; and the exponent of the unit."""
    n, eps, centred = norm.n, norm.eps, norm.centred
    shift = np.float64(x[0]) if centred else 0.0
    e = _exponent(max(_largest(x, n, shift), 0.5 * math.sqrt(eps)), x)
    unit = math.ldexp(1.0, -e)
    before, after = min(unit, 1.0), max(unit, 1.0)
    mean = 0.0
    if centred:
        reading = before, shift * before, after, 0.0
        mean = np.float64(horizontal_sum(_sums(_read, x, n, reading))) * (1 / n)
    reading = before, shift * before, after, mean
    square = np.float64(horizontal_sum(_sums(_squared, x, n, reading))) * (1 / n)
    return reading, 1 / math.sqrt(square + _scaled_eps(eps, unit)), e


@inner(forceinline=True)
def _read(v, reading):
    """Return z − mean."""
    before, origin, after, mean = reading
    return (v * before - origin) * after - mean


@inner(forceinline=True)
def _squared(v, reading):
    d = _read(v, reading)
    return d * d


@inner
def _sums(term, x, n, reading):
    """Return a register whose lanes add up to Σ term(x[j], reading) over j < n."""
    step = lanes(x)
    total, lost = splat(0.0, x), splat(0.0, x)
    for start in range(0, n, VECTORS * step):
        run = splat(0.0, x)
        for j in range(start, min(start + VECTORS * step, n), step):
            k = min(step, n - j)
            run += select(first(k, x), term(load_first(x + j, k), reading), 0.0)
        total, lost = add(total, lost, run)
    return total


# --- A row -----------------------------------------------------------------------------------


@inner
def forward(x, bias, norm, y, mean, rstd):
    """Fill y (n,); ``mean`` and ``rstd``, of one number each, get what tells the row apart.

    That is the mean as well as one number can say it, and −rstd.
    """
    reading, r, _ = _moments(x, norm)
    fill(y, norm.n, norm.large, _normalised, one, (x, norm.weight, bias, reading, r))
    before, origin, after, low = reading
    mean[0] = origin / before + low / after / before
    rstd[0] = -(r * before * after)


@inner(forceinline=True)
def _normalised(of, j, k, operands):
    x, weight, bias, reading, rstd = operands
    xhat = _read(load_first(x + j, k), reading) * rstd
    return fma(xhat, load_first(weight + j, k), load_first(bias + j, k))


@inner
def add_to_parameters(dy, x, norm, dweight, dbias):
    """Add dy · x̂ to dweight and dy to dbias."""
    reading, rstd, _ = _moments(x, norm)
    n, step = norm.n, lanes(x)
    for j in range(0, n, step):
        k = min(step, n - j)
        d = load_first(dy + j, k)
        xhat = _read(load_first(x + j, k), reading) * rstd
        store_first(dweight + j, fma(d, xhat, load_first(dweight + j, k)), k)
        store_first(dbias + j, load_first(dbias + j, k) + d, k)


@inner
def backward(dy, x, norm, dx):
    """Fill dx (n,)."""
    n, weight = norm.n, norm.weight
    reading, rstd, e = _moments(x, norm)
    e_dy, e_weight = _exponent(_largest(dy, n, 0.0), x), _exponent(_largest(weight, n, 0.0), x)
    units = math.ldexp(1.0, -e_dy), math.ldexp(1.0, -e_weight)
    step = lanes(x)
    total_g, lost_g = splat(0.0, x), splat(0.0, x)
    total_gx, lost_gx = total_g, lost_g
    for start in range(0, n, VECTORS * step):
        run_g, run_gx = splat(0.0, x), splat(0.0, x)
        for j in range(start, min(start + VECTORS * step, n), step):
            k = min(step, n - j)
            g = _gradient_of_xhat(dy + j, weight + j, k, units)
            xhat = select(first(k, x), _read(load_first(x + j, k), reading) * rstd, 0.0)
            run_g += g
            run_gx = fma(g, xhat, run_gx)
        total_g, lost_g = add(total_g, lost_g, run_g)
        total_gx, lost_gx = add(total_gx, lost_gx, run_gx)
    mean_g = np.float64(horizontal_sum(total_g)) * (1 / n if norm.centred else 0.0)
    mean_gx = np.float64(horizontal_sum(total_gx)) * (1 / n)
    # 2^(e_dy + e_weight − e) itself may not be a number of this dtype: four steps in one direction.
    exponent = e_dy + e_weight - e
    quarter = int(exponent / 4)
    steps = math.ldexp(1.0, quarter), math.ldexp(1.0, exponent - 3 * quarter)
    numbers = dy, x, weight, reading, rstd, units, mean_g, mean_gx, steps
    fill(dx, n, norm.large, _gradient, one, numbers)


@inner(forceinline=True)
def _gradient_of_xhat(dy, weight, k, units):
    return (load_first(dy, k) * units[0]) * (load_first(weight, k) * units[1])


@inner(forceinline=True)
def _gradient(of, j, k, operands):
    dy, x, weight, reading, rstd, units, mean_g, mean_gx, steps = operands
    xhat = _read(load_first(x + j, k), reading) * rstd
    g = _gradient_of_xhat(dy + j, weight + j, k, units)
    d = (g - mean_g - xhat * mean_gx) * rstd
    return d * steps[0] * steps[0] * steps[0] * steps[1]
