"""attention: one head, from out to q, k and v

The four exercises before this one, in one function: read the forward upwards, and undo one line
at a time.

Shapes: q, k, v, dq, dk, dv, out, dout (T, D); weights (T, S) with S = T.
Read: derivations/attention
Hint: The order is dv and dweights, dscores, then dq and dk.
Hint: The weights are made again from q and k; the forward gives the two lines.
Hint: Each line is one of the exercises attention_dv, _dweights, _dscores and _dq_dk.
"""

import numpy as np


def attention(q, k, v):
    """Return out (T, D)."""
    scale = q.shape[-1] ** -0.5
    scores = scale * (q @ k.T)
    e = np.exp(scores - scores.max(-1, keepdims=True))
    weights = e / e.sum(-1, keepdims=True)
    return weights @ v


def attention_backward(dout, q, k, v):
    """Return dq (T, D), dk (S, D), dv (S, D)."""
    scale = q.shape[-1] ** -0.5
    scores = scale * (q @ k.T)
    e = np.exp(scores - scores.max(-1, keepdims=True))
    weights = e / e.sum(-1, keepdims=True)
    # out = weights v
    dv = weights.T @ dout
    dweights = dout @ v.T
    # weights = softmax(scores)
    delta = (weights * dweights).sum(-1, keepdims=True)
    dscores = weights * (dweights - delta)
    # scores = scale q k^T
    dq = scale * (dscores @ k)
    dk = scale * (dscores.T @ q)
    return dq, dk, dv


def data(rng):
    """Return the arguments of one check."""
    q, k, v, dout = rng.standard_normal((4, 4, 3))
    return {"dout": dout, "q": q, "k": k, "v": v}
