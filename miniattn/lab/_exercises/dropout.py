"""dropout: the same gate, the same factor

y = x / (1 - p) where an entry is kept, else 0. Whatever the forward did to an entry, the backward
does to its gradient.

Shapes: x, dy, dx (T, E); keep (T, E) bool; p a number.
Read: derivations/dropout
Hint: The map is linear, and each entry goes its own way.
Hint: Of the two things that the forward does to an entry, do both.
Hint: dx = np.where(keep, dy / (1 - p), 0.0).
"""

import numpy as np


def dropout(x, keep, p):
    """Return y (T, E)."""
    return np.where(keep, x / (1.0 - p), 0.0)


def dropout_backward(dy, keep, p):
    """Return dx (T, E)."""
    # y = x / (1 - p), where it is kept
    scaled = dy / (1.0 - p)
    dx = np.where(keep, scaled, 0.0)
    return dx


def data(rng):
    """Return the arguments of one check."""
    keep = np.array(
        [[True, False, True, True], [True, True, False, True], [False, True, True, True]]
    )
    return {"dy": rng.standard_normal((3, 4)), "keep": keep, "p": 0.3}
