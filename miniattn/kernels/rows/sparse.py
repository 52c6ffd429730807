"""Sparsemax and entmax-1.5 over the rows of a matrix: weights of which most are exactly 0.

With z = x / (p τ) less its largest, and d_j = max(0, z_j − t)::

    y_j = d_j^p        Σ_j y_j = 1 defines t; p = 1 is sparsemax, p = 2 entmax-1.5

f(t) = Σ_j d_j^p − 1 is convex and falls. Newton's steps from t = −1, where the largest entry alone
makes up the sum, climb to its root and never pass it; as soon as the entries above t stay the same,
a step of sparsemax is exact. What the last one adds to t is smaller than t's last place: it is kept
apart, and subtracted after t is.

A hidden entry counts as −inf (see `softmax`).
"""

from miniattn.kernels.compile.settings import inner
from miniattn.kernels.registers import (
    any_true,
    first,
    fma,
    horizontal_sum,
    lanes,
    load_first,
    select,
    splat,
    sqrt,
    store_first,
)
from miniattn.kernels.rows.frame import REST, matrix, rows_task
from miniattn.kernels.rows.softmax import set_hidden, shown_rows
from miniattn.kernels.rows.softmax_rows import largest

STEPS = 64  # a limit that rows do not come near: most are done in 5 to 10


@rows_task
def sparse(rows):
    """y[r] from x[r], 0 where hidden; operands x, y, mask, its rows; factor 1 / (p τ), p behind."""
    n, factor, squared = rows.n, rows.factors[0], rows.sizes[REST] == 2
    x, y = shown_rows(rows, matrix(rows, 0), 2), matrix(rows, 1)
    for r in range(rows.m):
        p, q = x + r * n, y + r * n
        spoilt = _distances(p, n, largest(p, n), factor, q)
        t, rest = threshold(q, n, squared)
        for j in range(0, n, lanes(y)):
            k = min(lanes(y), n - j)
            d = (load_first(q + j, k) - t) - rest
            d = select(d > 0.0, d, 0.0)
            d = d * d if squared else d
            store_first(q + j, d + spoilt, k)
    set_hidden(rows, y, 2, 0)


@inner
def _distances(x, n, m, factor, z):
    """Write z = (x − m) factor; return 0, or NaN where one of them is NaN."""
    spoilt = splat(0.0, x)
    for j in range(0, n, lanes(x)):
        k = min(lanes(x), n - j)
        v = (load_first(x + j, k) - m) * factor
        spoilt = select((v != v) & first(k, x), v, spoilt)
        store_first(z + j, v, k)
    return horizontal_sum(spoilt)


@inner
def threshold(z, n, squared):
    """Return t in two parts, a number of z's dtype and the rest; no z is above 0."""
    t, rest = splat(-1.0, z), 0.0
    for _ in range(STEPS):
        ones, sums, squares = _sums_above(z, n, t)
        if ones == 0.0:  # nothing to see
            return t, 0.0
        rest = (squares - 1.0) / (2.0 * sums) if squared else (sums - 1.0) / ones
        higher = t + rest
        if not any_true(higher > t):
            return t, rest
        t = higher
    return t, 0.0


@inner
def _sums_above(z, n, t):
    """Return Σ 1, Σ d and Σ d² over the entries above t, each register's in double precision."""
    ones, sums, squares = 0.0, 0.0, 0.0
    step = lanes(z)
    for start in range(0, n, 32 * step):
        a = b = c = splat(0.0, z)
        for j in range(start, min(n, start + 32 * step), step):
            k = min(step, n - j)
            d = load_first(z + j, k) - t
            d = select((d > 0.0) & first(k, z), d, 0.0)
            a = a + select(d > 0.0, 1.0, splat(0.0, z))
            b = b + d
            c = c + d * d
        ones += horizontal_sum(a)
        sums += horizontal_sum(b)
        squares += horizontal_sum(c)
    return ones, sums, squares


@rows_task
def sparse_backward(rows):
    """dx = u (dy − Σ_j u_j dy_j / Σ_j u_j) / τ, with u = 1 where y is not 0, or √y.

    Operands dy, y, dx; factor 1 / τ, p behind.
    """
    n, squared = rows.n, rows.sizes[REST] == 2
    dy, y, dx = matrix(rows, 0), matrix(rows, 1), matrix(rows, 2)
    step = lanes(y)
    twice = 2.0 * rows.factors[0]  # of halves: dy − mean may be no number where its share is one
    for r in range(rows.m):
        i, total = r * n, 0.0
        for j in range(0, n, step):
            total += horizontal_sum(_root(y + (i + j), min(step, n - j), squared))
        share = 1.0 / total if total != 0.0 else 0.0
        mean = _mean(dy + i, y + i, n, share, squared, 0.0)
        rest = _mean(dy + i, y + i, n, share, squared, mean)  # what rounding took from the mean
        for j in range(0, n, step):
            k = min(step, n - j)
            u = _root(y + (i + j), k, squared)
            d = u * ((load_first(dy + (i + j), k) * 0.5 - mean) - rest) * twice
            store_first(dx + (i + j), select(u != 0.0, d, 0.0), k)


@inner
def _mean(dy, y, n, share, squared, origin):
    """Return Σ_j u_j share (dy_j / 2 − origin)."""
    total = 0.0
    for j in range(0, n, lanes(y)):
        k = min(lanes(y), n - j)
        u = _root(y + j, k, squared)
        d = u * share * (load_first(dy + j, k) * 0.5 - origin)
        total += horizontal_sum(select(u != 0.0, d, 0.0))
    return total


@inner
def _root(y, k, squared):
    """Return u of k entries, and 0 behind them."""
    v = load_first(y, k)
    u = sqrt(v) if squared else select(v != 0.0, fma(v, 0.0, 1.0), v)  # NaN stays NaN
    return select(first(k, y), u, 0.0)
