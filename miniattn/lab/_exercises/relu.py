"""relu: a gate

y = max(x, 0): what was let through lets its gradient through, what was not, does not.

Shapes: x, dy, dx (T, F).
Read: derivations/relu
Hint: The slope is 1 or 0.
Hint: It is x that decides, and not dy.
Hint: dx = np.where(x > 0, dy, 0.0).
"""

import numpy as np


def relu(x):
    """Return y (T, F)."""
    return np.maximum(x, 0.0)


def relu_backward(dy, x):
    """Return dx (T, F)."""
    # y = max(x, 0)
    open_ = x > 0
    dx = np.where(open_, dy, 0.0)
    return dx


def data(rng):
    """Return the arguments of one check."""
    x, dy = rng.standard_normal((2, 3, 4))
    return {"dy": dy, "x": x}
