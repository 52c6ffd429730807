"""The linear map of a few rows, as in a decoding step: bound by reading the weights once.

A BLAS packs the weights for a matrix product, which takes several times as long as reading them,
and its matrix-vector product sums in an order that depends on the number of threads.
"""

import numba

from miniattn.kernels.compile.settings import inner, kernel
from miniattn.kernels.registers import fma, horizontal_sum, lanes, load, load_first, pointer, splat

# Rows up to which this is faster than a matrix product (measured: 4 times at 1 row of 1024).
FEW = 8
# Multiplications below which one thread is done sooner than a pool is woken.
SMALL = 65_536


@inner
def _dot(a, b, n):
    """Return Σ_j a[j] · b[j], j < n."""
    step = lanes(a)
    s = t = u = v = splat(0.0, a)  # four chains of additions: one would wait for itself
    j = 0
    while j + 4 * step <= n:
        s = fma(load(a + j), load(b + j), s)
        t = fma(load(a + (j + step)), load(b + (j + step)), t)
        u = fma(load(a + (j + 2 * step)), load(b + (j + 2 * step)), u)
        v = fma(load(a + (j + 3 * step)), load(b + (j + 3 * step)), v)
        j += 4 * step
    while j + step <= n:
        s = fma(load(a + j), load(b + j), s)
        j += step
    if j < n:
        t = fma(load_first(a + j, n - j), load_first(b + j, n - j), t)
    return horizontal_sum((s + t) + (u + v))


@kernel
def few_rows(x, weight, y):
    """y[r, f] = Σ_e x[r, e] · weight[f, e] for x (R, E), weight (F, E), y (R, F)."""
    count, n = x.shape
    if count * weight.size <= SMALL:
        for f in range(weight.shape[0]):
            for r in range(count):
                y[r, f] = _dot(pointer(x, r * n), pointer(weight, f * n), n)
    else:
        for f in numba.prange(weight.shape[0]):
            for r in range(count):
                y[r, f] = _dot(pointer(x, r * n), pointer(weight, f * n), n)
