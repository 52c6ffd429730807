"""rms_norm: without the mean

y = x / sqrt(mean(x^2) + eps) weight. One of the two terms of layer_norm is gone; which?

Shapes: x, dy, dx (T, E); weight, dweight (E,).
Read: derivations/rms_norm
Hint: Nothing is subtracted from x, so nothing is shifted back.
Hint: With z = x / rms, the length of z is fixed: the part of dz along z has no effect.
Hint: dx = (dz - z mean(dz z)) / rms with dz = dy weight.
"""

import numpy as np


def rms_norm(x, weight, eps=0.1):
    """Return y (T, E)."""
    rms = np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    return x / rms * weight


def rms_norm_backward(dy, x, weight, eps=0.1):
    """Return dx (T, E), dweight (E,)."""
    rms = np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    z = x / rms
    # y = z weight
    dweight = (dy * z).sum(0)
    dz = dy * weight
    # z = x / rms
    stretch = (dz * z).mean(-1, keepdims=True)
    dx = (dz - z * stretch) / rms
    return dx, dweight


def data(rng):
    """Return the arguments of one check."""
    x, dy = rng.standard_normal((2, 3, 4))
    return {"dy": dy, "x": x, "weight": rng.standard_normal(4)}
