"""encoder_layer: attention and feed-forward, each with its norm and its straight path

m = x + attention(norm(x)); y = m + relu(norm(m) W1^T) W2^T. Nothing in it is new: take it apart
from the end, and give each line one.

Shapes: x, m, y, dx, dy (T, E), Wv (E, E), W1 (F, E), W2 (E, F); q = k = norm(x), v = norm(x) Wv^T.
Read: derivations/attention
Hint: Two residual blocks: dm = dy + what comes back from the feed-forward; dx likewise from dm.
Hint: In attention z is q, k and by Wv v at once: dz = dq + dk + dv Wv.
Hint: norm_backward is given: use it twice, each time with its own z and rms.
"""

import numpy as np


def norm(x, eps=0.1):
    """Return z (T, E), rms (T, 1)."""
    rms = np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    return x / rms, rms


def norm_backward(dz, z, rms):
    """Return dx (T, E)."""
    return (dz - z * (dz * z).mean(-1, keepdims=True)) / rms


def softmax(x):
    """Return the softmax of every row."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def encoder_layer(x, Wv, W1, W2):
    """Return y (T, E)."""
    z, _ = norm(x)
    weights = softmax(z @ z.T * z.shape[-1] ** -0.5)
    m = x + weights @ (z @ Wv.T)
    n, _ = norm(m)
    return m + np.maximum(n @ W1.T, 0.0) @ W2.T


def encoder_layer_backward(dy, x, Wv, W1, W2):
    """Return dx (T, E), dWv (E, E), dW1 (F, E), dW2 (E, F)."""
    z, rms1 = norm(x)
    scale = z.shape[-1] ** -0.5
    weights = softmax(scale * (z @ z.T))
    v = z @ Wv.T
    m = x + weights @ v
    n, rms2 = norm(m)
    h = n @ W1.T
    a = np.maximum(h, 0.0)
    # y = m + a W2^T
    dW2 = dy.T @ a
    da = dy @ W2
    # a = max(h, 0), h = n W1^T
    dh = np.where(h > 0, da, 0.0)
    dW1 = dh.T @ n
    dn = dh @ W1
    # n = norm(m)
    dm = dy + norm_backward(dn, n, rms2)
    # m = x + weights v, v = z Wv^T
    dv = weights.T @ dm
    dWv = dv.T @ z
    dweights = dm @ v.T
    # weights = softmax(scale z z^T)
    delta = (weights * dweights).sum(-1, keepdims=True)
    dscores = weights * (dweights - delta)
    dq = scale * (dscores @ z)
    dk = scale * (dscores.T @ z)
    dz = dq + dk + dv @ Wv
    # z = norm(x)
    dx = dm + norm_backward(dz, z, rms1)
    return dx, dWv, dW1, dW2


def data(rng):
    """Return the arguments of one check."""
    x, dy, Wv, W1, W2 = rng.standard_normal((5, 4, 4))
    return {"dy": dy, "x": x, "Wv": Wv, "W1": W1, "W2": W2}
