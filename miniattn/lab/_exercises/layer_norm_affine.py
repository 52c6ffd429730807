"""layer_norm_affine: weight, bias and what stands before them

y = z weight + bias, with z as in the exercise layer_norm, from x on: this is the layer as it is
used, all three gradients of it.

Shapes: x, dy, dx (T, E); weight, bias, dweight, dbias (E,).
Read: derivations/layer_norm
Hint: weight and bias serve every row: their gradients are sums over the rows.
Hint: What goes on to z is dy weight. Then it is the exercise layer_norm.
Hint: eps stands beside the variance, under the root: sigma = sqrt(mean(d^2) + eps).
"""

import numpy as np


def layer_norm(x, weight, bias, eps=0.1):
    """Return y (T, E)."""
    d = x - x.mean(-1, keepdims=True)
    sigma = np.sqrt((d**2).mean(-1, keepdims=True) + eps)
    return d / sigma * weight + bias


def layer_norm_backward(dy, x, weight, eps=0.1):
    """Return dx (T, E), dweight (E,), dbias (E,)."""
    d = x - x.mean(-1, keepdims=True)
    sigma = np.sqrt((d**2).mean(-1, keepdims=True) + eps)
    z = d / sigma
    # y = z weight + bias
    dbias = dy.sum(0)
    dweight = (dy * z).sum(0)
    dz = dy * weight
    # z = (x - mean) / sigma
    shift = dz.mean(-1, keepdims=True)
    stretch = (dz * z).mean(-1, keepdims=True)
    dx = (dz - shift - z * stretch) / sigma
    return dx, dweight, dbias


def data(rng):
    """Return the arguments of one check."""
    x, dy = rng.standard_normal((2, 3, 4))
    return {"dy": dy, "x": x, "weight": rng.standard_normal(4)}
