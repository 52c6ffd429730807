"""Layer and root mean square normalisation of rows, forward and backward.

A row of y or dx has one owner. The gradients of gain and bias are sums over all rows: each task
adds up a range of rows that is fixed by the shape, and the partial sums are added in order.
"""

import math

import numba
import numpy as np

from miniattn.kernels._runtime import kernel
from miniattn.kernels.columns import add_partials, rows_per_task


@kernel
def layer_norm(x, weight, bias, eps, y, mean, rstd):
    """y = (x − mean) · rstd · weight + bias, row by row; an absent bias has length 0."""
    count, n = x.shape
    for r in numba.prange(count):
        total = 0.0
        for c in range(n):
            total += x[r, c]
        mu = total / n
        total = 0.0
        for c in range(n):
            total += (x[r, c] - mu) ** 2
        rs = 1 / math.sqrt(total / n + eps)
        mean[r], rstd[r] = mu, rs
        for c in range(n):
            y[r, c] = (x[r, c] - mu) * rs * weight[c]
        if bias.size:
            for c in range(n):
                y[r, c] += bias[c]


@kernel
def layer_norm_backward(dy, x, weight, mean, rstd, dx, dweight, dbias):
    """dx = rstd · (g − mean(g) − x̂ · mean(g · x̂)), dweight = Σ dy · x̂, dbias = Σ dy."""
    count, n = x.shape
    share = rows_per_task(count)
    tasks = -(-count // share)
    dweights, dbiases = np.empty((tasks, n)), np.empty((tasks, n))
    for task in numba.prange(tasks):
        dweights[task], dbiases[task] = 0, 0
        for r in range(task * share, min((task + 1) * share, count)):
            sum_g, sum_gx = 0.0, 0.0
            for c in range(n):
                xhat = (x[r, c] - mean[r]) * rstd[r]
                g = dy[r, c] * weight[c]
                sum_g += g
                sum_gx += g * xhat
                dweights[task, c] += dy[r, c] * xhat
                dbiases[task, c] += dy[r, c]
            for c in range(n):
                xhat = (x[r, c] - mean[r]) * rstd[r]
                dx[r, c] = rstd[r] * (dy[r, c] * weight[c] - sum_g / n - xhat * sum_gx / n)
    add_partials(dweights, dweight)
    add_partials(dbiases, dbias)


@kernel
def rms_norm(x, weight, eps, y, rrms):
    """y = x · rrms · weight, row by row."""
    count, n = x.shape
    for r in numba.prange(count):
        total = 0.0
        for c in range(n):
            total += x[r, c] * x[r, c]
        rr = 1 / math.sqrt(total / n + eps)
        rrms[r] = rr
        for c in range(n):
            y[r, c] = x[r, c] * rr * weight[c]


@kernel
def rms_norm_backward(dy, x, weight, rrms, dx, dweight):
    """dx = rrms · (g − x̂ · mean(g · x̂)), dweight = Σ dy · x̂."""
    count, n = x.shape
    share = rows_per_task(count)
    tasks = -(-count // share)
    dweights = np.empty((tasks, n))
    for task in numba.prange(tasks):
        dweights[task] = 0
        for r in range(task * share, min((task + 1) * share, count)):
            sum_gx = 0.0
            for c in range(n):
                xhat = x[r, c] * rrms[r]
                sum_gx += dy[r, c] * weight[c] * xhat
                dweights[task, c] += dy[r, c] * xhat
            for c in range(n):
                xhat = x[r, c] * rrms[r]
                dx[r, c] = rrms[r] * (dy[r, c] * weight[c] - xhat * sum_gx / n)
    add_partials(dweights, dweight)
