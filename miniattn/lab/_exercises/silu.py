"""silu: a product of x with a function of x

y = x sigmoid(x): x stands in it twice, so the gradient has two terms.

Shapes: x, dy, dx (T, F).
Read: derivations/silu
Hint: The product rule: the slope is sigmoid + x times the slope of sigmoid.
Hint: The slope of sigmoid is s (1 - s).
Hint: dx = dy (s + x s (1 - s)).
"""

import numpy as np


def sigmoid(x):
    """Return 1 / (1 + exp(-x))."""
    return 1.0 / (1.0 + np.exp(-x))


def silu(x):
    """Return y (T, F)."""
    return x * sigmoid(x)


def silu_backward(dy, x):
    """Return dx (T, F)."""
    s = sigmoid(x)
    # y = x s
    slope = s + x * s * (1.0 - s)
    dx = dy * slope
    return dx


def data(rng):
    """Return the arguments of one check."""
    x, dy = rng.standard_normal((2, 3, 4))
    return {"dy": dy, "x": x}
