"""softmax_masked: what is hidden gets no gradient

Hidden entries have weight 0 and take no part in the sum. What comes back for them, dy, may hold
anything, NaN too, and must reach nothing: select, do not multiply by zero.

Shapes: x, y, dy, dx (T, S); mask (T, S) bool, True where an entry is seen.
Read: derivations/softmax
Hint: 0 times NaN is NaN. np.where chooses instead of multiplying.
Hint: Clear dy where the mask is False before anything is done with it.
Hint: seen = np.where(mask, dy, 0.0), and then the softmax's backward of seen.
"""

import numpy as np


def softmax(x, mask):
    """Return y (T, S): 0 where the mask hides, and in rows that see nothing."""
    z = np.where(mask, x, -np.inf)
    top = np.where(mask.any(-1, keepdims=True), z.max(-1, keepdims=True), 0.0)
    e = np.exp(z - top)
    total = e.sum(-1, keepdims=True)
    return e / np.where(total == 0.0, 1.0, total)


def softmax_backward(dy, y, mask):
    """Return dx (T, S)."""
    # hidden entries are left out
    seen = np.where(mask, dy, 0.0)
    # y = e / sum(e)
    dot = (y * seen).sum(-1, keepdims=True)
    dx = y * (seen - dot)
    return dx


def data(rng):
    """Return the arguments of one check."""
    mask = np.array([[True, True, False, True], [False, True, True, True], [True] * 4])
    dy = np.where(mask, rng.standard_normal((3, 4)), np.nan)
    return {"dy": dy, "y": softmax(rng.standard_normal((3, 4)), mask), "mask": mask}
