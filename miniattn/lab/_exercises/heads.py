"""heads: to cut a vector and to join it again

A row of E numbers is cut into H heads of D, neighbours together, and heads come before rows. The
backward of a cut is a join: no arithmetic, only the right order of axes.

Shapes: x, dx (T, E), heads, dheads (H, T, D), E = H D.
Read: derivations/attention
Hint: The forward is a reshape and a swap. Undo them in the opposite order.
Hint: Swap H and T first; a reshape alone would mix rows with heads.
Hint: dx = dheads.swapaxes(0, 1).reshape(T, E).
"""

import numpy as np


def cut(x, H):
    """Return heads (H, T, D)."""
    return x.reshape(len(x), H, -1).swapaxes(0, 1).copy()


def cut_backward(dheads):
    """Return dx (T, E)."""
    # heads = x.reshape(T, H, D).swapaxes(0, 1)
    rows = dheads.swapaxes(0, 1)
    dx = rows.reshape(len(rows), -1)
    return dx


def data(rng):
    """Return the arguments of one check."""
    return {"dheads": rng.standard_normal((4, 4, 2))}
