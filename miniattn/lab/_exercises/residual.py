"""residual: the straight path and the branch

y = x + norm(x) W^T: a pre-norm block with the smallest branch there is. x is used twice, so what
comes back from the two is added.

Shapes: x, dx, dy (T, E), W, dW (E, E).
Read: derivations/layer_norm
Hint: dy goes to the sum's two parts as it is.
Hint: Through the branch: W, then the norm's backward, as in the exercise rms_norm without weight.
Hint: dx = dy + dbranch. The dy is what keeps deep stacks learning.
"""

import numpy as np


def norm(x, eps=0.1):
    """Return z (T, E), rms (T, 1)."""
    rms = np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    return x / rms, rms


def block(x, W):
    """Return y (T, E)."""
    z, _ = norm(x)
    return x + z @ W.T


def block_backward(dy, x, W):
    """Return dx (T, E), dW (E, E)."""
    z, rms = norm(x)
    # y = x + z W^T
    dW = dy.T @ z
    dz = dy @ W
    # z = x / rms
    stretch = (dz * z).mean(-1, keepdims=True)
    dbranch = (dz - z * stretch) / rms
    dx = dy + dbranch
    return dx, dW


def data(rng):
    """Return the arguments of one check."""
    x, dy, W = rng.standard_normal((3, 4, 4))
    return {"dy": dy, "x": x, "W": W}
