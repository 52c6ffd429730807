"""Softmax, log-softmax and log-sum-exp over the rows of a matrix, and their gradients.

    m = max_j x_j    s = Σ_j exp((x_j − m) / τ)
    softmax_j = exp((x_j − m) / τ) / s    log_softmax_j = (x_j − m) / τ − log s    lse = m + log s

x is (R, n); each row of the results has one owner. ``high + low`` is log2(e) / τ in twice the
precision of x, so that exp(d / τ) = 2^(d (high + low)).

A hidden entry counts as −inf: a task copies its rows to its scratch memory and hides there what is
hidden. Row r takes its mask from the row of that number, so that a mask shared by many is stored
once.
"""

import numpy as np

from miniattn.kernels.compile.queue import take
from miniattn.kernels.compile.settings import inner, task
from miniattn.kernels.registers import (
    LANES,
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
from miniattn.kernels.rows.frame import LARGE, MASKED, PIECES, SHARE, N, operand, part_of
from miniattn.kernels.rows.softmax_rows import (
    AHEAD,
    GROUP,
    NEAR,
    RUN,
    distance_ahead,
    exponentials,
    group_sums,
    group_tops,
    is_narrow,
    largest,
    logarithms,
    number_rows,
    tops_and_sums,
    weights,
)
from miniattn.kernels.rows.writing import each, fill, finish, one

# --- Some rows: a pointer to the first, their number and their length ----------------------------


@inner
def _softmax(x, count, n, high, low, table, scratch, large, y):
    if is_narrow(x, n):
        terms = registers(GROUP, x)
        for r in range(0, count, lanes(x)):
            p, k = x + r * n, min(lanes(x), count - r)
            s = group_sums(p, k, n, group_tops(p, k, n), high, low, table, terms)
            factors = select(s != 0.0, 1.0 / s, 0.0)
            fill(y + r * n, k * n, large, _product, each, (table, terms, factors))
    else:
        for r in range(count):
            p, q = x + r * n, y + r * n
            terms = scratch if large and n <= NEAR else q
            s = exponentials(p, n, largest(p, n), high, low, terms, True)
            fill(q, n, large and n <= NEAR, _product, one, (table, terms, 1 / s if s != 0 else 0.0))


@inner(forceinline=True)
def _product(of, j, k, operands):
    table, x, factor = operands
    return load_first(x + j, k) * of(factor, table + j)


@inner
def _log_softmax(x, count, n, high, low, inv_temperature, table, large, top, log_sum, y):
    tops_and_sums(x, count, n, high, low, table, top, log_sum)
    logarithms(log_sum, count)
    for r in range(count):
        log_sum[r] = log_sum[r] if log_sum[r] != -np.inf else 0
    # Above τ = 1 a difference may be no number where a share of it is one: halves are subtracted.
    half = 0.5 if inv_temperature < 1 else 1.0
    inverse = inv_temperature / half
    if is_narrow(x, n):
        for r in range(0, count, lanes(x)):
            i, k = r * n, min(lanes(x), count - r)
            m, log_s = load_first(top + r, k) * -half, load_first(log_sum + r, k)
            operands = table, x + i, half, m, log_s, inverse
            fill(y + i, k * n, large, _logarithm, each, operands)
    else:
        for r in range(count):
            i = r * n
            operands = table, x + i, half, top[r] * -half, log_sum[r], inverse
            fill(y + i, n, large, _logarithm, one, operands)


@inner(forceinline=True)
def _logarithm(of, j, k, operands):
    table, x, half, m, log_s, inverse = operands
    below = fma(load_first(x + j, k), half, of(m, table + j))
    return below * inverse - of(log_s, table + j)


@inner
def _softmax_backward(dy, y, count, n, inv_temperature, table, large, dx):
    twice = 2 * inv_temperature  # of halves: dy − dot may be no number where its share is one
    if is_narrow(y, n):
        for r in range(0, count, lanes(y)):
            i, k = r * n, min(lanes(y), count - r)
            dots = _sums(_part_of_dot, dy + i, y + i, k, n)
            operands = table, dy + i, y + i, dots * -0.5, twice
            fill(dx + i, k * n, large, _gradient, each, operands)
    else:
        for r in range(count):
            i = r * n
            dot = _sum(_part_of_dot, dy + i, y + i, n)
            operands = table, dy + i, y + i, dot * -0.5, twice
            fill(dx + i, n, large, _gradient, one, operands)


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


@inner
def _log_softmax_backward(dy, y, count, n, high, low, inv_temperature, table, large, dx):
    if is_narrow(y, n):
        for r in range(0, count, lanes(y)):
            i, k = r * n, min(lanes(y), count - r)
            totals = _sums(_visible, dy + i, y + i, k, n)
            operands = table, dy + i, y + i, totals, high, low, inv_temperature
            fill(dx + i, k * n, large, _log_gradient, each, operands)
    else:
        for r in range(count):
            i = r * n
            total = _sum(_visible, dy + i, y + i, n)
            operands = table, dy + i, y + i, total, high, low, inv_temperature
            fill(dx + i, n, large, _log_gradient, one, operands)


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


@inner
def _logsumexp_backward(dlse, x, count, n, top, log_sum, high, low, table, large, dx):
    if is_narrow(x, n):
        for r in range(0, count, lanes(x)):
            i, k = r * n, min(lanes(x), count - r)
            m, log_s, g = (
                load_first(top + r, k),
                load_first(log_sum + r, k),
                load_first(dlse + r, k),
            )
            operands = table, x + i, m, log_s, high, low, g
            fill(dx + i, k * n, large, _share, each, operands)
    else:
        for r in range(count):
            i = r * n
            operands = table, x + i, top[r], log_sum[r], high, low, dlse[r]
            fill(dx + i, n, large, _share, one, operands)


@inner(forceinline=True)
def _share(of, j, k, operands):
    table, x, m, log_s, high, low, dlse = operands
    w = weights(of, j, k, (table, x, m, log_s, high, low))
    return select(load_first(x + j, k) != -np.inf, w * of(dlse, table + j), 0.0)


# --- Masks ---------------------------------------------------------------------------------------


@inner
def _shown_rows(x, start, count, n, sizes, operands, mask, scratch):
    """Return a pointer to rows of x, or to their copy in ``scratch`` with −inf where hidden."""
    p = x + start * n
    if sizes[MASKED] == 0:
        return p
    visible, row = operand(operands, mask, np.uint8), operand(operands, mask + 1, np.int64) + start
    for r in range(count):
        shown = visible + row[r] * n
        for j in range(n):
            scratch[r * n + j] = p[r * n + j] if shown[j] else -np.inf
    return scratch


@inner
def _set_hidden(y, start, count, n, sizes, operands, mask, value):
    """Put ``value`` where y is hidden: in a row that holds NaN the arithmetic can't."""
    if sizes[MASKED] != 0:
        row, q = operand(operands, mask + 1, np.int64) + start, y + start * n
        for r in range(count):
            shown = operand(operands, mask, np.uint8) + row[r] * n
            for j in range(n):
                q[r * n + j] = q[r * n + j] if shown[j] else value


# --- Tasks ---------------------------------------------------------------------------------------
#
# ``factors`` are high, low, 1/τ. Where there is a mask, the last two operands are its distinct rows
# (M, n), and which of them each row of x has.


@task
def softmax(sizes, factors, operands, queue, scratch):
    """y[r] = softmax(x[r] / τ), 0 where hidden; operands x, y, mask, its rows."""
    n, large, high, low = sizes[N], sizes[LARGE] != 0, factors[0], factors[1]
    x, y = operand(operands, 0, scratch), operand(operands, 1, scratch)
    table = registers(GROUP, np.int32)
    number_rows(table, x, sizes[SHARE], n)
    piece = take(queue)
    while piece < sizes[PIECES]:
        start, count = part_of(sizes, piece)
        p = _shown_rows(x, start, count, n, sizes, operands, 2, scratch)
        _softmax(p, count, n, high, low, table, scratch, large, y + start * n)
        _set_hidden(y, start, count, n, sizes, operands, 2, 0)
        piece = take(queue)
    finish(large)


@task
def softmax_backward(sizes, factors, operands, queue, scratch):
    """dx = y · (dy − Σ_j dy_j y_j) / τ, in which entries of weight 0 take no part.

    Operands dy, y, dx.
    """
    n, large = sizes[N], sizes[LARGE] != 0
    dy, y = operand(operands, 0, scratch), operand(operands, 1, scratch)
    dx = operand(operands, 2, scratch)
    table = registers(GROUP, np.int32)
    number_rows(table, y, sizes[SHARE], n)
    piece = take(queue)
    while piece < sizes[PIECES]:
        start, count = part_of(sizes, piece)
        i = start * n
        _softmax_backward(dy + i, y + i, count, n, factors[2], table, large, dx + i)
        piece = take(queue)
    finish(large)


@task
def log_softmax(sizes, factors, operands, queue, scratch):
    """y[r] = log softmax(x[r] / τ), −inf where hidden.

    Operands x, y, two numbers for each row, mask, its rows.
    """
    n, large, high, low = sizes[N], sizes[LARGE] != 0, factors[0], factors[1]
    x, y = operand(operands, 0, scratch), operand(operands, 1, scratch)
    top, log_sum = operand(operands, 2, scratch), operand(operands, 3, scratch)
    table = registers(GROUP, np.int32)
    number_rows(table, x, sizes[SHARE], n)
    piece = take(queue)
    while piece < sizes[PIECES]:
        start, count = part_of(sizes, piece)
        p = _shown_rows(x, start, count, n, sizes, operands, 4, scratch)
        m, log_s, q = top + start, log_sum + start, y + start * n
        _log_softmax(p, count, n, high, low, factors[2], table, large, m, log_s, q)
        _set_hidden(y, start, count, n, sizes, operands, 4, -np.inf)
        piece = take(queue)
    finish(large)


@task
def log_softmax_backward(sizes, factors, operands, queue, scratch):
    """dx = (dy − exp(y) Σ_j dy_j) / τ, in which entries where y is −inf take no part.

    Operands dy, y, dx; ``high + low`` is log2(e), without the temperature.
    """
    n, large, high, low = sizes[N], sizes[LARGE] != 0, factors[0], factors[1]
    dy, y = operand(operands, 0, scratch), operand(operands, 1, scratch)
    dx = operand(operands, 2, scratch)
    table = registers(GROUP, np.int32)
    number_rows(table, y, sizes[SHARE], n)
    piece = take(queue)
    while piece < sizes[PIECES]:
        start, count = part_of(sizes, piece)
        g, p, q = dy + start * n, y + start * n, dx + start * n
        _log_softmax_backward(g, p, count, n, high, low, factors[2], table, large, q)
        piece = take(queue)
    finish(large)


@task
def logsumexp(sizes, factors, operands, queue, scratch):
    """top[r] = max_j x[r, j] and log_sum[r] = lse[r] − top[r].

    Operands x, top, log_sum, mask, its rows.
    """
    n, high, low = sizes[N], factors[0], factors[1]
    x = operand(operands, 0, scratch)
    top, log_sum = operand(operands, 1, scratch), operand(operands, 2, scratch)
    table = registers(GROUP, np.int32)
    number_rows(table, x, sizes[SHARE], n)
    piece = take(queue)
    while piece < sizes[PIECES]:
        start, count = part_of(sizes, piece)
        p = _shown_rows(x, start, count, n, sizes, operands, 3, scratch)
        tops_and_sums(p, count, n, high, low, table, top + start, log_sum + start)
        logarithms(log_sum + start, count)
        piece = take(queue)


@task
def logsumexp_backward(sizes, factors, operands, queue, scratch):
    """dx[r, j] = dlse[r] · exp(x[r, j] − lse[r]), 0 where that weight is 0.

    Operands dlse, x, dx, top, log_sum, mask, its rows.
    """
    n, large, high, low = sizes[N], sizes[LARGE] != 0, factors[0], factors[1]
    dlse, x = operand(operands, 0, scratch), operand(operands, 1, scratch)
    dx = operand(operands, 2, scratch)
    top, log_sum = operand(operands, 3, scratch), operand(operands, 4, scratch)
    table = registers(GROUP, np.int32)
    number_rows(table, x, sizes[SHARE], n)
    piece = take(queue)
    while piece < sizes[PIECES]:
        start, count = part_of(sizes, piece)
        p = _shown_rows(x, start, count, n, sizes, operands, 5, scratch)
        g, m, log_s, q = dlse + start, top + start, log_sum + start, dx + start * n
        _logsumexp_backward(g, p, count, n, m, log_s, high, low, table, large, q)
        _set_hidden(dx, start, count, n, sizes, operands, 5, 0)
        piece = take(queue)
    finish(large)
