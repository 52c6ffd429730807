"""tanh: from the result alone

The slope of tanh can be had from its value, so that x need not be kept.

Shapes: x, y, dy, dx (T, F).
Read: derivations/tanh
Hint: d tanh / dx = 1 / cosh^2, and cosh^2 - sinh^2 = 1.
Hint: Divide the second by cosh^2.
Hint: dx = dy (1 - y^2).
"""

import numpy as np


def tanh(x):
    """Return y (T, F)."""
    return np.tanh(x)


def tanh_backward(dy, y):
    """Return dx (T, F)."""
    # y = tanh(x)
    slope = 1.0 - y**2
    dx = dy * slope
    return dx


def data(rng):
    """Return the arguments of one check."""
    x, dy = rng.standard_normal((2, 3, 4))
    return {"dy": dy, "y": tanh(x)}
