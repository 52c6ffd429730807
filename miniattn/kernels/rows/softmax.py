"""Softmax, log-softmax and log-sum-exp over the rows of a matrix, and their gradients.

    m = max_j x_j    s = Σ_j exp((x_j − m) / τ)
    softmax_j = exp((x_j − m) / τ) / s    log_softmax_j = (x_j − m) / τ − log s    lse = m + log s

x is (R, n); each row of the results has one owner. ``high + low`` is log2(e) / τ in twice the
precision of x, so that exp(d / τ) = 2^(d (high + low)).

A hidden entry counts as −inf: a kernel copies its rows to its scratch memory and hides there what
is hidden. Row r takes its mask from the row of that number, so that a mask shared by many is stored
once.
"""

import numpy as np

from miniattn.kernels.compile.settings import inner
from miniattn.kernels.registers import (
    LANES,
    address,
    exp2_product,
    first,
    fma,
    horizontal_sum,
    horizontal_sums,
    lanes,
    load,
    load_first,
    prefetch,
    registers,
    select,
    splat,
    store,
)
from miniattn.kernels.rows.frame import (
    GROUP,
    MASKED,
    column,
    column_of,
    is_narrow,
    matrix,
    rows_task,
)
from miniattn.kernels.rows.softmax_rows import (
    AHEAD,
    NEAR,
    RUN,
    distance_ahead,
    exponentials,
    group_sums,
    group_tops,
    largest,
    logarithms,
    tops_and_sums,
    weights,
)
from miniattn.kernels.rows.writing import each, fill, one

# ``factors`` are high, low, 1/τ. Where there is a mask, the last two operands are its distinct rows
# (M, n), and which of them each row of x has.


@rows_task
def softmax(rows):
    """y[r] = softmax(x[r] / τ), 0 where hidden; operands x, y, mask, its rows."""
    n, table, high, low = rows.n, rows.table, rows.factors[0], rows.factors[1]
    x, y = shown_rows(rows, matrix(rows, 0), 2), matrix(rows, 1)
    if is_narrow(x, n):
        terms = registers(GROUP, x)
        for r in range(0, rows.m, lanes(x)):
            p, k = x + r * n, min(lanes(x), rows.m - r)
            s = group_sums(p, k, n, group_tops(p, k, n), high, low, table, terms)
            factors = select(s != 0.0, 1.0 / s, 0.0)
            fill(y + r * n, k * n, rows.large, _product, each, (table, terms, factors))
    else:
        aside = rows.large and n <= NEAR
        for r in range(rows.m):
            p, q = x + r * n, y + r * n
            terms = rows.scratch if aside else q
            s = exponentials(p, n, largest(p, n), high, low, terms, True)
            fill(q, n, aside, _product, one, (table, terms, 1 / s if s != 0 else 0.0))
    set_hidden(rows, y, 2, 0)


@inner(forceinline=True)
def _product(of, j, k, operands):
    table, x, factor = operands
    return load_first(x + j, k) * of(factor, table + j)


@rows_task
def softmax_backward(rows):
    """dx = y · (dy − Σ_j dy_j y_j) / τ, in which entries of weight 0 take no part.

    Operands dy, y, dx.
    """
    n, table = rows.n, rows.table
    dy, y, dx = matrix(rows, 0), matrix(rows, 1), matrix(rows, 2)
    twice = 2 * rows.factors[2]  # of halves: dy − dot may be no number where its share is one
    if is_narrow(y, n):
        for r in range(0, rows.m, lanes(y)):
            i, k = r * n, min(lanes(y), rows.m - r)
            dots = _sums(_part_of_dot, dy + i, y + i, k, n)
            operands = table, dy + i, y + i, dots * -0.5, twice
            fill(dx + i, k * n, rows.large, _gradient, each, operands)
    else:
        for r in range(rows.m):
            i = r * n
            dot = _sum(_part_of_dot, dy + i, y + i, n)
            operands = table, dy + i, y + i, dot * -0.5, twice
            fill(dx + i, n, rows.large, _gradient, one, operands)


@inner
def _part_of_dot(dy, y):
    """Entries of weight 0 take no part."""
    return select(y != 0.0, y * dy, 0.0)


@inner(forceinline=True)
def _gradient(of, j, k, operands):
    table, dy, y, dot, twice = operands
    w = load_first(y + j, k)
    d = w * fma(load_first(dy + j, k), 0.5, of(dot, table + j)) * twice
    return select(w != 0.0, d, 0.0)


@rows_task
def log_softmax(rows):
    """y[r] = log softmax(x[r] / τ), −inf where hidden.

    Operands x, y, two numbers for each row, mask, its rows.
    """
    n, table, high, low = rows.n, rows.table, rows.factors[0], rows.factors[1]
    x, y = shown_rows(rows, matrix(rows, 0), 4), matrix(rows, 1)
    top, log_sum = column(rows, 2), column(rows, 3)
    tops_and_sums(x, rows.m, n, high, low, table, top, log_sum)
    logarithms(log_sum, rows.m)
    for r in range(rows.m):
        log_sum[r] = log_sum[r] if log_sum[r] != -np.inf else 0
    # Above τ = 1 a difference may be no number where a share of it is one: halves are subtracted.
    half = 0.5 if rows.factors[2] < 1 else 1.0
    inverse = rows.factors[2] / half
    if is_narrow(x, n):
        for r in range(0, rows.m, lanes(x)):
            i, k = r * n, min(lanes(x), rows.m - r)
            m, log_s = load_first(top + r, k) * -half, load_first(log_sum + r, k)
            operands = table, x + i, half, m, log_s, inverse
            fill(y + i, k * n, rows.large, _logarithm, each, operands)
    else:
        for r in range(rows.m):
            i = r * n
            operands = table, x + i, half, top[r] * -half, log_sum[r], inverse
            fill(y + i, n, rows.large, _logarithm, one, operands)
    set_hidden(rows, y, 4, -np.inf)


@inner(forceinline=True)
def _logarithm(of, j, k, operands):
    table, x, half, m, log_s, inverse = operands
    below = fma(load_first(x + j, k), half, of(m, table + j))
    return below * inverse - of(log_s, table + j)


@rows_task
def log_softmax_backward(rows):
    """dx = (dy − exp(y) Σ_j dy_j) / τ, in which entries where y is −inf take no part.

    Operands dy, y, dx; ``high + low`` is log2(e), without the temperature.
    """
    n, table = rows.n, rows.table
    high, low, inv_temperature = rows.factors[0], rows.factors[1], rows.factors[2]
    dy, y, dx = matrix(rows, 0), matrix(rows, 1), matrix(rows, 2)
    if is_narrow(y, n):
        for r in range(0, rows.m, lanes(y)):
            i, k = r * n, min(lanes(y), rows.m - r)
            totals = _sums(_visible, dy + i, y + i, k, n)
            operands = table, dy + i, y + i, totals, high, low, inv_temperature
            fill(dx + i, k * n, rows.large, _log_gradient, each, operands)
    else:
        for r in range(rows.m):
            i = r * n
            total = _sum(_visible, dy + i, y + i, n)
            operands = table, dy + i, y + i, total, high, low, inv_temperature
            fill(dx + i, n, rows.large, _log_gradient, one, operands)


@inner
def _visible(dy, y):
    """Entries with y = −inf take no part."""
    return select(y != -np.inf, dy, 0.0)


@inner(forceinline=True)
def _log_gradient(of, j, k, operands):
    table, dy, y, total, high, low, inv_temperature = operands
    v = load_first(y + j, k)
    d = load_first(dy + j, k) - exp2_product(v, high, low) * of(total, table + j)
    return select(v != -np.inf, d * inv_temperature, 0.0)


@rows_task
def logsumexp(rows):
    """top[r] = max_j x[r, j] and log_sum[r] = lse[r] − top[r].

    Operands x, top, log_sum, mask, its rows.
    """
    n, high, low = rows.n, rows.factors[0], rows.factors[1]
    x, top, log_sum = shown_rows(rows, matrix(rows, 0), 3), column(rows, 1), column(rows, 2)
    tops_and_sums(x, rows.m, n, high, low, rows.table, top, log_sum)
    logarithms(log_sum, rows.m)


@rows_task
def logsumexp_backward(rows):
    """dx[r, j] = dlse[r] · exp(x[r, j] − lse[r]), 0 where that weight is 0.

    Operands dlse, x, dx, top, log_sum, mask, its rows.
    """
    n, table, high, low = rows.n, rows.table, rows.factors[0], rows.factors[1]
    x, dx = shown_rows(rows, matrix(rows, 1), 5), matrix(rows, 2)
    dlse, top, log_sum = column(rows, 0), column(rows, 3), column(rows, 4)
    if is_narrow(x, n):
        for r in range(0, rows.m, lanes(x)):
            i, k = r * n, min(lanes(x), rows.m - r)
            m, log_s = load_first(top + r, k), load_first(log_sum + r, k)
            operands = table, x + i, m, log_s, high, low, load_first(dlse + r, k)
            fill(dx + i, k * n, rows.large, _share, each, operands)
    else:
        for r in range(rows.m):
            i = r * n
            operands = table, x + i, top[r], log_sum[r], high, low, dlse[r]
            fill(dx + i, n, rows.large, _share, one, operands)
    set_hidden(rows, dx, 5, 0)


@inner(forceinline=True)
def _share(of, j, k, operands):
    table, x, m, log_s, high, low, dlse = operands
    w = weights(of, j, k, (table, x, m, log_s, high, low))
    return select(load_first(x + j, k) != -np.inf, w * of(dlse, table + j), 0.0)


# --- Sums over a row, and over each row of a group -----------------------------------------------


@inner(forceinline=True)
def _sum(term, dy, y, n):
    """Return Σ_j term(dy[j], y[j])."""
    step, ahead = lanes(y), distance_ahead(n)
    total = 0.0
    for start in range(0, n, RUN * step):
        stop = min(start + RUN * step, n)
        whole = stop - (stop - start) % step
        s = splat(0.0, y)
        for j in range(start, whole, step):
            prefetch(y + (j + ahead))
            prefetch(dy + (j + ahead))
            s = s + term(load(dy + j), load(y + j))
        if whole < stop:
            k = stop - whole
            last = term(load_first(dy + whole, k), load_first(y + whole, k))
            s = s + select(first(k, y), last, 0.0)
        total += horizontal_sum(s)
    return total


@inner(forceinline=True)
def _sums(term, dy, y, count, n):
    """Return Σ_j term(dy[r, j], y[r, j]) of each row r of a group."""
    step = lanes(y)
    partial = registers(LANES, y)
    whole, ahead = n - n % step, max(AHEAD, step * n)
    for r in range(count):
        g, p = dy + r * n, y + r * n
        prefetch(g + (ahead + whole))
        prefetch(p + (ahead + whole))
        last = term(load_first(g + whole, n - whole), load_first(p + whole, n - whole))
        s = select(first(n - whole, y), last, 0.0)
        for j in range(0, whole, step):
            prefetch(g + (ahead + j))
            prefetch(p + (ahead + j))
            s = s + term(load(g + j), load(p + j))
        store(partial + r * step, s)
    return horizontal_sums(partial)


# --- Masks ---------------------------------------------------------------------------------------


@inner
def shown_rows(rows, x, mask):
    """Return x, a pointer to rows, or to their copy in scratch with −inf where hidden.

    ``mask`` is the number of the operand.
    """
    if rows.sizes[MASKED] == 0:
        return x
    n, row = rows.n, column_of(rows, mask + 1, np.int64)
    visible = address(rows.operands[mask], np.uint8)
    for r in range(rows.m):
        shown = visible + row[r] * n
        for j in range(n):
            rows.scratch[r * n + j] = x[r * n + j] if shown[j] else -np.inf
    return rows.scratch


@inner
def set_hidden(rows, y, mask, value):
    """Put ``value`` where y is hidden: in a row that holds NaN the arithmetic can't."""
    if rows.sizes[MASKED] != 0:
        n, row = rows.n, column_of(rows, mask + 1, np.int64)
        for r in range(rows.m):
            shown = address(rows.operands[mask], np.uint8) + row[r] * n
            for j in range(n):
                y[r * n + j] = y[r * n + j] if shown[j] else value
