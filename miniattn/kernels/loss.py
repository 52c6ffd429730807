"""Cross-entropy fused with its softmax, over the rows of a matrix of logits.

    loss_r = lse_r − (1 − ε) x_t − ε mean_j x_j,    t = targets[r], ε = label smoothing
    dx_j   = (softmax_j − (1 − ε)[j = t] − ε/N) · scale

The softmax is never stored: backward rebuilds it from top_r = max_j x_j and log_sum_r = lse_r −
top_r. Rows whose target is ``ignore_index`` have loss 0 and gradient 0, whatever they hold. The
losses are handed back a row each: the caller adds them in order, so that threads cannot change the
bits. ``high + low`` is log2(e) in twice the precision of x.
"""

import numba
import numpy as np

from miniattn.kernels._runtime import inner, kernel
from miniattn.kernels.simd import pointer
from miniattn.kernels.softmax_rows import (
    GRAIN,
    logarithms,
    rows_per_task,
    scaled_weights,
    tops_and_sums,
)


@inner
def _counted_tops_and_sums(x, targets, count, n, ignore_index, high, low, top, total):
    """Do `tops_and_sums` for the rows that count, in runs; set 0 and 1 for the others."""
    start = 0
    while start < count:
        stop = start
        while stop < count and targets[stop] != ignore_index:
            stop += 1
        if stop > start:
            tops_and_sums(x + start * n, stop - start, n, high, low, top + start, total + start)
            start = stop
        else:
            top[start], total[start] = 0, 1
            start += 1


@inner
def _rows(x, targets, count, n, ignore_index, smoothing, high, low, loss, top, log_sum):
    _counted_tops_and_sums(x, targets, count, n, ignore_index, high, low, top, log_sum)
    logarithms(log_sum, count)
    for r in range(count):
        t = targets[r]
        loss[r] = 0
        if t != ignore_index:
            p, m, log_s = x + r * n, np.float64(top[r]), np.float64(log_sum[r])
            if log_s == -np.inf:
                loss[r] = np.inf
            else:
                loss[r] = log_s - (1 - smoothing) * (p[t] - m)
                if smoothing > 0:
                    loss[r] = loss[r] - smoothing * _mean_above(p, n, m)


@inner
def _mean_above(x, n, m):
    total = 0.0
    for j in range(n):
        total += x[j] - m
    return total / n


@inner
def _rows_backward(
    scale, x, targets, count, n, ignore_index, smoothing, top, log_sum, high, low, dx
):
    for r in range(count):
        q = dx + r * n
        if targets[r] == ignore_index or log_sum[r] == -np.inf:
            for j in range(n):
                q[j] = 0
        else:
            scaled_weights(x + r * n, n, top[r], log_sum[r], high, low, scale, q)
            if smoothing > 0:
                for j in range(n):
                    q[j] = q[j] - smoothing / n * scale
    # In a loop of its own: reading back what a vector store has just written stalls for 6 ns.
    for r in range(count):
        t = targets[r]
        if t != ignore_index and log_sum[r] != -np.inf:
            dx[r * n + t] = dx[r * n + t] - (1 - smoothing) * scale


@inner
def _task(start, stop, x, targets, ignore_index, smoothing, high, low, loss, top, log_sum):
    n = x.shape[1]
    p, t = pointer(x, start * n), pointer(targets, start)
    results = pointer(loss, start), pointer(top, start), pointer(log_sum, start)
    _rows(p, t, stop - start, n, ignore_index, smoothing, high, low, *results)


@inner
def _backward_task(
    start, stop, scale, x, targets, ignore_index, smoothing, top, log_sum, high, low, dx
):
    n = x.shape[1]
    p, t = pointer(x, start * n), pointer(targets, start)
    m, log_s = pointer(top, start), pointer(log_sum, start)
    q = pointer(dx, start * n)
    _rows_backward(scale, p, t, stop - start, n, ignore_index, smoothing, m, log_s, high, low, q)


@kernel
def cross_entropy(x, targets, ignore_index, smoothing, high, low, loss, top, log_sum):
    """Fill loss (R,) float64, top (R,) and log_sum (R,)."""
    count, n = x.shape
    if x.size <= GRAIN:
        _task(0, count, x, targets, ignore_index, smoothing, high, low, loss, top, log_sum)
    else:
        share = rows_per_task(count, n)
        for task in numba.prange(-(-count // share)):
            start, stop = task * share, min(count, (task + 1) * share)
            _task(start, stop, x, targets, ignore_index, smoothing, high, low, loss, top, log_sum)


@kernel
def cross_entropy_backward(scale, x, targets, ignore_index, smoothing, top, log_sum, high, low, dx):
    """Fill dx (R, N)."""
    count, n = x.shape
    if x.size <= GRAIN:
        _backward_task(
            0, count, scale, x, targets, ignore_index, smoothing, top, log_sum, high, low, dx
        )
    else:
        share = rows_per_task(count, n)
        for task in numba.prange(-(-count // share)):
            start, stop = task * share, min(count, (task + 1) * share)
            _backward_task(
                start, stop, scale, x, targets, ignore_index, smoothing, top, log_sum, high, low, dx
            )
