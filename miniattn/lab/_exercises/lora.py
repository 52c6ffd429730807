"""lora: a small change beside a frozen weight

y = x W^T + scale (x A^T) B^T: W is frozen, A and B are thin and learned. No gradient for W; but x
gets one through both ways.

Shapes: x, dx (T, E), W (F, E), A, dA (R, E), B, dB (F, R), dy (T, F); scale a number.
Read: derivations/lora
Hint: Name the middle: h = x A^T (T, R). Then the branch is two linear maps and a factor.
Hint: Put the factor in once: dbranch = scale dy.
Hint: dB = dbranch^T h; dh = dbranch B; dA = dh^T x; dx = dy W + dh A.
"""

import numpy as np


def lora(x, W, A, B, scale):
    """Return y (T, F)."""
    return x @ W.T + scale * (x @ A.T @ B.T)


def lora_backward(dy, x, W, A, B, scale):
    """Return dx (T, E), dA (R, E), dB (F, R)."""
    h = x @ A.T
    # y = x W^T + scale h B^T
    dbranch = scale * dy
    dB = dbranch.T @ h
    dh = dbranch @ B
    # h = x A^T
    dA = dh.T @ x
    dx = dy @ W + dh @ A
    return dx, dA, dB


def data(rng):
    """Return the arguments of one check."""
    x, dy, W = rng.standard_normal((3, 4, 4))
    A, B = rng.standard_normal((2, 4)), rng.standard_normal((4, 2))
    return {"dy": dy, "x": x, "W": W, "A": A, "B": B, "scale": 0.5}
