"""Cross-entropy fused with its softmax, over the rows of a matrix of logits.

    loss_r = lse_r − (1 − ε) x_t − ε mean_j x_j,    t = targets[r], ε = label smoothing
    dx_j   = (softmax_j − (1 − ε)[j = t] − ε/N) · scale

The softmax is never stored: backward rebuilds it from top_r = max_j x_j and log_sum_r = lse_r −
top_r. Rows whose target is ``ignore_index`` have loss 0 and gradient 0, whatever they hold. The
losses are handed back a row each: the caller adds them in order, so that threads cannot change the
bits. ``high + low`` is log2(e) in twice the precision of x.
"""

import numpy as np

from miniattn.kernels.compile.settings import inner
from miniattn.kernels.registers import (
    iota,
    lanes,
    load,
    load_first,
    registers,
    select,
    splat,
    to_float,
)
from miniattn.kernels.rows.frame import REST, column, column_of, is_narrow, matrix, rows_task
from miniattn.kernels.rows.softmax_rows import logarithms, tops_and_sums, weights
from miniattn.kernels.rows.writing import each, fill, one

IGNORED = REST  # the place of ``ignore_index`` among the sizes
_NOWHERE = 2.0**22  # past every place in a group of rows


@rows_task
def cross_entropy(rows):
    """Fill loss (R,) float64, top (R,) and log_sum (R,).

    Operands x, targets, loss, top, log_sum; factors high, low, ε.
    """
    n, smoothing, ignore_index = rows.n, rows.factors[2], rows.sizes[IGNORED]
    x, targets = matrix(rows, 0), column_of(rows, 1, np.int64)
    loss, top, log_sum = column_of(rows, 2, np.float64), column(rows, 3), column(rows, 4)
    _counted_tops_and_sums(rows, x, targets, top, log_sum)
    logarithms(log_sum, rows.m)
    for r in range(rows.m):
        t = targets[r]
        loss[r] = 0
        if t != ignore_index:
            p, m, log_s = x + r * n, np.float64(top[r]), np.float64(log_sum[r])
            if log_s == -np.inf:
                loss[r] = np.inf
            else:
                loss[r] = log_s
                if smoothing < 1:  # else 0 · ∞ where the target's logit is −∞
                    loss[r] = loss[r] - (1 - smoothing) * (p[t] - m)
                if smoothing > 0:
                    loss[r] = loss[r] - smoothing * _mean_above(p, n, m)


@inner
def _counted_tops_and_sums(rows, x, targets, top, total):
    """Do `tops_and_sums` for the rows that count, in runs; set 0 and 1 for the others."""
    n, high, low = rows.n, rows.factors[0], rows.factors[1]
    start = 0
    while start < rows.m:
        stop = start
        while stop < rows.m and targets[stop] != rows.sizes[IGNORED]:
            stop += 1
        if stop > start:
            p, m, s = x + start * n, top + start, total + start
            tops_and_sums(p, stop - start, n, high, low, rows.table, m, s)
            start = stop
        else:
            top[start], total[start] = 0, 1
            start += 1


@inner
def _mean_above(x, n, m):
    total, share = 0.0, 1 / n
    for j in range(n):
        total += (x[j] - m) * share  # the sum may overflow where the mean does not
    return total


@rows_task
def tops_and_totals(rows):
    """Fill top (R,) and total (R,), ``Σ_j exp(x_j − top)``; operands x, top, total.

    Factors high, low. For the columns of a wider matrix: such numbers of several runs of columns
    can be put together.
    """
    high, low = rows.factors[0], rows.factors[1]
    top, total = column(rows, 1), column(rows, 2)
    tops_and_sums(matrix(rows, 0), rows.m, rows.n, high, low, rows.table, top, total)


@rows_task
def cross_entropy_backward(rows):
    """Fill dx (R, n); operands x, targets, dx, top, log_sum; factors high, low, ε, scale, N.

    x may be some of N columns, of whose rows top and log_sum are: a target outside [0, n) is then
    in another column.
    """
    n, table, high, low = rows.n, rows.table, rows.factors[0], rows.factors[1]
    smoothing, scale, classes = rows.factors[2], rows.factors[3], rows.factors[4]
    x, targets, dx = matrix(rows, 0), column_of(rows, 1, np.int64), matrix(rows, 2)
    top, log_sum, ignore_index = column(rows, 3), column(rows, 4), rows.sizes[IGNORED]
    certain, even = (1 - smoothing) * scale, smoothing / classes * scale
    if is_narrow(x, n):
        places = registers(1, x)
        for r in range(0, rows.m, lanes(x)):
            i, k = r * n, min(lanes(x), rows.m - r)
            for a in range(k):
                t = targets[r + a]
                place = a * n + t if 0 <= t < n else _NOWHERE
                counts = t != ignore_index and log_sum[r + a] != -np.inf
                places[a] = place if counts else -1
            m, log_s = load_first(top + r, k), load_first(log_sum + r, k)
            softmax = table, x + i, m, log_s, high, low
            operands = softmax, scale, even, certain, load(places)
            fill(dx + i, k * n, rows.large, _gradient_of_group, each, operands)
    else:
        for r in range(rows.m):
            i, t = r * n, targets[r]
            if t == ignore_index or log_sum[r] == -np.inf:
                fill(dx + i, n, rows.large, _nothing, one, x)
            else:
                softmax = table, x + i, top[r], log_sum[r], high, low
                operands = softmax, scale, even, certain, t
                fill(dx + i, n, rows.large, _gradient_of_row, one, operands)


@inner(forceinline=True)
def _nothing(of, j, k, x):
    return splat(0.0, x)


@inner(forceinline=True)
def _gradient_of_row(of, j, k, operands):
    softmax, scale, even, certain, target = operands
    d = weights(of, j, k, softmax) * scale - even
    return select(iota(d, np.int32) == target - j, d - certain, d)


@inner(forceinline=True)
def _gradient_of_group(of, j, k, operands):
    """``places`` are those of the targets in the group, −1 in rows that do not count."""
    softmax, scale, even, certain, places = operands
    d = weights(of, j, k, softmax) * scale - even
    place = of(places, softmax[0] + j)
    d = select(to_float(iota(d, np.int32) + j, d) == place, d - certain, d)
    return select(place >= 0.0, d, 0.0)
