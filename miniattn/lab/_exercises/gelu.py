"""gelu: a chain inside of a product

y = x (1 + t) / 2 with t = tanh(u) and u = c (x + a x^3). Do it line by line: name the gradient of
each letter.

Shapes: x, dy, dx (T, F).
Read: derivations/gelu
Hint: x reaches y straight, and through u and t: two terms that are added.
Hint: dt = dy x / 2; du = dt (1 - t^2); what does u give to x?
Hint: dx = dy (1 + t) / 2 + du c (1 + 3 a x^2).
"""

import numpy as np

C, A = 0.7978845608028654, 0.044715


def gelu(x):
    """Return y (T, F)."""
    t = np.tanh(C * (x + A * x**3))
    return 0.5 * x * (1.0 + t)


def gelu_backward(dy, x):
    """Return dx (T, F)."""
    t = np.tanh(C * (x + A * x**3))
    # y = x (1 + t) / 2
    straight = 0.5 * dy * (1.0 + t)
    dt = 0.5 * dy * x
    # t = tanh(u)
    du = dt * (1.0 - t**2)
    # u = c (x + a x^3)
    dx = straight + du * C * (1.0 + 3.0 * A * x**2)
    return dx


def data(rng):
    """Return the arguments of one check."""
    x, dy = rng.standard_normal((2, 3, 4))
    return {"dy": dy, "x": x}
