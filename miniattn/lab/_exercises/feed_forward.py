"""feed_forward: two maps with a gate between them

y = relu(x W1^T) W2^T. The weights of a map get their gradient from what went in and what comes
back; write down both before you multiply.

Shapes: x, dx, dy (T, E), W1, dW1 (F, E), W2, dW2 (E, F).
Read: derivations/linear
Hint: Name the hidden units: h = x W1^T, a = relu(h). Upwards: y, a, h, x.
Hint: dW2 needs a, and not h; dW1 needs dh, and not da.
Hint: da = dy W2; dh = np.where(h > 0, da, 0); dW1 = dh^T x; dx = dh W1.
"""

import numpy as np


def feed_forward(x, W1, W2):
    """Return y (T, E)."""
    h = x @ W1.T
    return np.maximum(h, 0.0) @ W2.T


def feed_forward_backward(dy, x, W1, W2):
    """Return dx (T, E), dW1 (F, E), dW2 (E, F)."""
    h = x @ W1.T
    a = np.maximum(h, 0.0)
    # y = a W2^T
    dW2 = dy.T @ a
    da = dy @ W2
    # a = max(h, 0)
    dh = np.where(h > 0, da, 0.0)
    # h = x W1^T
    dW1 = dh.T @ x
    dx = dh @ W1
    return dx, dW1, dW2


def data(rng):
    """Return the arguments of one check."""
    x, dy = rng.standard_normal((2, 4, 4))
    W1, W2 = rng.standard_normal((2, 4, 4))
    return {"dy": dy, "x": x, "W1": W1, "W2": W2}
