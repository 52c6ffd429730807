"""Softmax, log-softmax and log-sum-exp over the rows of a matrix, and their gradients.

    m = max_j x_j    s = Σ_j exp((x_j − m) / τ)
    softmax_j = exp((x_j − m) / τ) / s    log_softmax_j = (x_j − m) / τ − log s    lse = m + log s

x is (R, n). A hidden entry counts as −inf. Row r takes its mask from ``mask[mask_row[r]]``, so that
a mask shared by many rows is stored once; an empty ``mask`` hides nothing. Each row of the results
has one owner.
"""

import math

import numba
import numpy as np

from miniattn.kernels._runtime import inner, kernel


@inner
def _stats(x, visible, inv_temperature):
    """Return m and s of one row; both are 0 where nothing is visible."""
    n = x.size
    masked = visible.size > 0
    m = x.dtype.type(-np.inf)
    for j in range(n):
        if (not masked or visible[j]) and x[j] > m:
            m = x[j]
    if m == -np.inf:
        m = x.dtype.type(0)  # −inf − (−inf) would be NaN
    s = 0.0
    for j in range(n):
        if not masked or visible[j]:
            s += math.exp((x[j] - m) * inv_temperature)
    return m, s


@inner
def _mask_of(mask, mask_row, r):
    return mask[mask_row[r]] if mask.size > 0 else mask[0:0].reshape(0)


@kernel
def softmax(x, mask, mask_row, inv_temperature, y):
    """y[r] = softmax(x[r] / τ), 0 where hidden."""
    for r in numba.prange(x.shape[0]):
        visible = _mask_of(mask, mask_row, r)
        masked = visible.size > 0
        m, s = _stats(x[r], visible, inv_temperature)
        inv = 0.0 if s == 0 else 1 / s
        for j in range(x.shape[1]):
            shown = not masked or visible[j]
            y[r, j] = math.exp((x[r, j] - m) * inv_temperature) * inv if shown else 0.0


@kernel
def softmax_backward(dy, y, inv_temperature, dx):
    """dx = y · (dy − Σ_j dy_j y_j) / τ, in which entries of weight 0 take no part."""
    for r in numba.prange(y.shape[0]):
        dot = 0.0
        for j in range(y.shape[1]):
            if y[r, j] != 0:
                dot += dy[r, j] * y[r, j]
        for j in range(y.shape[1]):
            w = y[r, j]
            dx[r, j] = w * (dy[r, j] - dot) * inv_temperature if w != 0 else 0.0


@kernel
def log_softmax(x, mask, mask_row, inv_temperature, y):
    """y[r] = log softmax(x[r] / τ), −inf where hidden."""
    for r in numba.prange(x.shape[0]):
        visible = _mask_of(mask, mask_row, r)
        masked = visible.size > 0
        m, s = _stats(x[r], visible, inv_temperature)
        log_s = 0.0 if s == 0 else math.log(s)
        for j in range(x.shape[1]):
            shown = not masked or visible[j]
            y[r, j] = (x[r, j] - m) * inv_temperature - log_s if shown else -np.inf


@kernel
def log_softmax_backward(dy, y, inv_temperature, dx):
    """dx = (dy − exp(y) Σ_j dy_j) / τ; entries where y is −inf take no part."""
    for r in numba.prange(y.shape[0]):
        total = 0.0
        for j in range(y.shape[1]):
            if y[r, j] != -np.inf:
                total += dy[r, j]
        for j in range(y.shape[1]):
            shown = y[r, j] != -np.inf
            dx[r, j] = (dy[r, j] - math.exp(y[r, j]) * total) * inv_temperature if shown else 0.0


@kernel
def logsumexp(x, mask, mask_row, lse):
    """lse[r] = log Σ_j exp(x[r, j]), −inf where nothing is visible."""
    for r in numba.prange(x.shape[0]):
        m, s = _stats(x[r], _mask_of(mask, mask_row, r), 1.0)
        lse[r] = m + math.log(s) if s != 0 else -np.inf


@kernel
def logsumexp_backward(dlse, x, mask, mask_row, lse, dx):
    """dx[r, j] = dlse[r] · exp(x[r, j] − lse[r]), 0 where that weight is 0."""
    for r in numba.prange(x.shape[0]):
        visible = _mask_of(mask, mask_row, r)
        masked = visible.size > 0
        for j in range(x.shape[1]):
            shown = (not masked or visible[j]) and x[r, j] != -np.inf
            dx[r, j] = dlse[r] * math.exp(x[r, j] - lse[r]) if shown else 0.0
