"""online_softmax: one pass, without knowing the maximum

Scores come in tiles. Carry for each query the greatest score so far and the sum of
exp(score - top) so far, and mend the sum when a tile raises the maximum.

Shapes: scores (T, S), size of a tile a number; top, lse (T,).
Read: derivations/attention
Hint: exp(s - new) = exp(s - old) exp(old - new): older sums need one factor.
Hint: Begin with top = -inf and total = 0; exp(-inf) = 0 does the rest.
Hint: decay = exp(old - top); total = decay total + sum(exp(tile - top)); lse = top + log(total).
"""

import numpy as np


def online_softmax(scores, size):
    """Return top (T,), lse (T,)."""
    top = np.full(len(scores), -np.inf)
    total = np.zeros(len(scores))
    for start in range(0, scores.shape[1], size):
        tile = scores[:, start : start + size]
        old = top
        top = np.maximum(old, tile.max(-1))
        decay = np.exp(old - top)
        weight = np.exp(tile - top[:, None])
        total = decay * total + weight.sum(-1)
    lse = top + np.log(total)
    return top, lse


def data(rng):
    """Return the arguments of one check."""
    return {"scores": 2.0 * rng.standard_normal((3, 5)), "size": 2}
