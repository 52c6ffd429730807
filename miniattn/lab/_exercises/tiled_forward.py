"""tiled_forward: attention that never holds the scores

The same walk as in online_softmax, with a second sum beside total: that of the values, so weighted.
At the end one division makes out of it.

Shapes: q, out (T, D), k, v (S, D), size of a tile a number, lse (T,).
Read: derivations/attention
Hint: o grows like total: both are mended by the same decay.
Hint: o = decay o + weight v[tile], with weight (T, tile) not divided by anything yet.
Hint: out = o / total, and lse = top + log(total).
"""

import numpy as np


def tiled_forward(q, k, v, size):
    """Return out (T, D), lse (T,)."""
    scale = q.shape[-1] ** -0.5
    top = np.full(len(q), -np.inf)
    total = np.zeros(len(q))
    o = np.zeros((len(q), v.shape[-1]))
    for start in range(0, len(k), size):
        scores = scale * (q @ k[start : start + size].T)
        old = top
        top = np.maximum(old, scores.max(-1))
        decay = np.exp(old - top)
        weight = np.exp(scores - top[:, None])
        total = decay * total + weight.sum(-1)
        o = decay[:, None] * o + weight @ v[start : start + size]
    out = o / total[:, None]
    lse = top + np.log(total)
    return out, lse


def data(rng):
    """Return the arguments of one check."""
    q, k, v = rng.standard_normal((3, 5, 3))
    return {"q": 2.0 * q, "k": k, "v": v, "size": 2}
