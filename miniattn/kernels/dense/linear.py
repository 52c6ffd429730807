"""The linear map of a few rows, as in a decoding step: bound by reading the weights once.

A BLAS packs the weights for a matrix product, which takes several times as long as reading them,
and its matrix-vector product sums in an order that depends on the number of threads.
"""

from miniattn.kernels.compile.settings import inner
from miniattn.kernels.registers import (
    fma,
    horizontal_sum,
    lanes,
    load,
    load_first,
    splat,
    store_first,
)
from miniattn.kernels.rows.frame import COUNT, REST, matrix, operand, rows_task

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


@rows_task
def few_rows(rows):
    """y[r, f] = Σ_e x[r, e] · weight[f, e] + bias[f]; the rows are those of weight (F, E).

    Operands x (R, E), weight, y (R, F) and bias (F,), if there is one. How many rows x has, and
    whether there is a bias, follow the other sizes.
    """
    x, weight, y = operand(rows, 0), matrix(rows, 1), operand(rows, 2) + rows.start
    n, features = rows.n, rows.sizes[COUNT]
    for f in range(rows.m):
        for r in range(rows.sizes[REST]):
            y[r * features + f] = _dot(x + r * n, weight + f * n, n)
    if rows.sizes[REST + 1] != 0:
        _add_to_rows(y, operand(rows, 3) + rows.start, rows.sizes[REST], features, rows.m)


@inner
def _add_to_rows(y, bias, count, step, n):
    """Compute ``y[r, f] += bias[f]`` for ``n`` columns of rows that begin ``step`` apart."""
    w = lanes(y)
    for r in range(count):
        for f in range(0, n, w):
            p, left = y + (r * step + f), min(w, n - f)
            store_first(p, load_first(p, left) + load_first(bias + f, left), left)
