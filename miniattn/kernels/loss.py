"""Cross-entropy fused with its softmax, over the rows of a matrix of logits.

    loss_r = lse_r − (1 − ε) x_t − ε mean_j x_j,    t = targets[r], ε = label smoothing
    dx_j   = (softmax_j − (1 − ε)[j = t] − ε/N) · scale

Rows whose target is ``ignore_index`` have loss 0 and gradient 0, whatever they hold. The losses are
handed back a row each: the caller sums them in order, so that threads cannot change the bits.
"""

import math

import numba
import numpy as np

from miniattn.kernels._runtime import kernel
from miniattn.kernels.softmax import _stats


@kernel
def cross_entropy(x, targets, ignore_index, smoothing, loss, lse):
    """Fill loss (R,) float64 and lse (R,)."""
    everything = np.empty(0, np.bool_)
    for r in numba.prange(x.shape[0]):
        t = targets[r]
        loss[r] = 0.0
        lse[r] = 0.0
        if t != ignore_index:
            m, s = _stats(x[r], everything, 1.0)
            if s == 0:
                loss[r] = np.inf
                lse[r] = -np.inf
            else:
                log_s = math.log(s)
                lse[r] = m + log_s
                loss[r] = log_s - (1 - smoothing) * (x[r, t] - m)
                if smoothing > 0:
                    total = 0.0
                    for j in range(x.shape[1]):
                        total += x[r, j] - m
                    loss[r] -= smoothing * total / x.shape[1]


@kernel
def cross_entropy_backward(scale, x, targets, ignore_index, smoothing, lse, dx):
    """Fill dx (R, N)."""
    n = x.shape[1]
    for r in numba.prange(x.shape[0]):
        t = targets[r]
        if t == ignore_index or lse[r] == -np.inf:
            dx[r] = 0.0
        else:
            for j in range(n):
                dx[r, j] = (math.exp(x[r, j] - lse[r]) - smoothing / n) * scale
            dx[r, t] -= (1 - smoothing) * scale
