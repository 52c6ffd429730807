"""rotary: turn back

Each pair (x[m], x[m + D/2]) is turned by an angle that grows with the position. A rotation does not
change lengths: its transpose is its inverse.

Shapes: x, dy, dx (T, D); angle (T, D/2).
Read: derivations/rotary
Hint: Write one turn as a 2 x 2 matrix. What is its transpose?
Hint: The transpose turns by the opposite angle: the sign of one sine changes, and of the other.
Hint: dx1 = dy1 cos + dy2 sin; dx2 = dy2 cos - dy1 sin.
"""

import numpy as np


def rotary(x, angle):
    """Return y (T, D)."""
    half = x.shape[-1] // 2
    x1, x2 = x[:, :half], x[:, half:]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1)


def rotary_backward(dy, angle):
    """Return dx (T, D)."""
    half = dy.shape[-1] // 2
    dy1 = dy[:, :half]
    dy2 = dy[:, half:]
    cos = np.cos(angle)
    sin = np.sin(angle)
    # y1 = x1 cos - x2 sin;  y2 = x2 cos + x1 sin
    dx1 = dy1 * cos + dy2 * sin
    dx2 = dy2 * cos - dy1 * sin
    dx = np.concatenate([dx1, dx2], axis=-1)
    return dx


def data(rng):
    """Return the arguments of one check."""
    angle = np.arange(1.0, 4.0)[:, None] * np.array([1.0, 0.1])
    return {"dy": rng.standard_normal((3, 4)), "angle": angle}
