"""grouped_heads: a key that serves several heads

H query heads share G heads of keys: query head h reads key head h // (H / G). What is shared
collects from all who use it.

Shapes: q, dq (H, T, D), k, dk (G, S, D), dscores (H, T, S); scores = q k^T, without a factor.
Read: derivations/attention
Hint: Spread k to H heads first: np.repeat(k, H // G, axis=0). Then it is a product for each head.
Hint: You then have H gradients of keys for G heads of keys: those of a group are neighbours.
Hint: Reshape (H, S, D) to (G, H // G, S, D) and sum over axis 1.
"""

import numpy as np


def score(q, k):
    """Return scores (H, T, S)."""
    group = len(q) // len(k)
    return q @ np.repeat(k, group, axis=0).swapaxes(-1, -2)


def score_backward(dscores, q, k):
    """Return dq (H, T, D), dk (G, S, D)."""
    group = len(q) // len(k)
    spread = np.repeat(k, group, axis=0)
    # scores = q spread^T
    dq = dscores @ spread
    dspread = dscores.swapaxes(-1, -2) @ q
    # spread = repeat(k, group)
    dk = dspread.reshape(len(k), group, *k.shape[1:]).sum(1)
    return dq, dk


def data(rng):
    """Return the arguments of one check."""
    q, k = rng.standard_normal((6, 3, 2)), rng.standard_normal((3, 3, 2))
    return {"dscores": rng.standard_normal((6, 3, 3)), "q": q, "k": k}
