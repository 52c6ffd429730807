"""softmax_temperature: a factor on the way in

y = softmax(x / t): a high temperature flattens the weights, a low one sharpens them. The factor
1/t stands between x and the softmax, so the gradient passes it, too.

Shapes: x, y, dy, dx (T, S); temperature a number.
Read: derivations/softmax
Hint: Name what goes into the softmax: z = x / t. You know dz.
Hint: z depends on x by one factor. Which?
Hint: dx = dz / temperature, with dz as in the exercise softmax.
"""

import numpy as np


def softmax(x, temperature):
    """Return y (T, S)."""
    z = x / temperature
    e = np.exp(z - z.max(-1, keepdims=True))
    y = e / e.sum(-1, keepdims=True)
    return y


def softmax_backward(dy, y, temperature):
    """Return dx (T, S)."""
    # y = softmax(z)
    dot = (y * dy).sum(-1, keepdims=True)
    dz = y * (dy - dot)
    # z = x / temperature
    dx = dz / temperature
    return dx


def data(rng):
    """Return the arguments of one check."""
    y = softmax(rng.standard_normal((3, 4)), 2.5)
    return {"dy": rng.standard_normal((3, 4)), "y": y, "temperature": 2.5}
