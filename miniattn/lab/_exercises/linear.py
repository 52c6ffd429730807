"""linear: x, weight and bias

y = x W^T + b. Three gradients, each with the shape of what it is the gradient of: with that rule
the transposes cannot be put wrongly.

Shapes: x (B, T, E), weight (F, E), bias (F,), dy (B, T, F).
Read: derivations/linear
Hint: weight and bias serve every row of every batch: their gradients are sums over B and T.
Hint: Flatten B and T to rows; then dW (F, E) is a product of (F, rows) and (rows, E).
Hint: dx = dy W; dW = rows(dy)^T rows(x); db = the sum of rows(dy).
"""

import numpy as np


def linear(x, weight, bias):
    """Return y (B, T, F)."""
    return x @ weight.T + bias


def linear_backward(dy, x, weight):
    """Return dx (B, T, E), dweight (F, E), dbias (F,)."""
    # y = x W^T + b
    dx = dy @ weight
    rows = dy.reshape(-1, dy.shape[-1])
    dweight = rows.T @ x.reshape(-1, x.shape[-1])
    dbias = rows.sum(0)
    return dx, dweight, dbias


def data(rng):
    """Return the arguments of one check."""
    x, weight = rng.standard_normal((2, 3, 4)), rng.standard_normal((4, 4))
    return {"dy": rng.standard_normal((2, 3, 4)), "x": x, "weight": weight}
