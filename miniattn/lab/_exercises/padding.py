"""padding: rows of different length in one batch

Of batch row b only the first lengths[b] keys are there; the others are filling. Attention forward
and backward must not see them, and dk and dv of the filling are exactly 0.

Shapes: q, dq, dout (B, T, D), k, v, dk, dv (B, S, D), lengths (B,) ints.
Read: derivations/attention
Hint: seen = np.arange(S) < lengths[:, None, None] is the mask (B, 1, S).
Hint: Put -inf where it is False before the softmax; then every weight there is 0.
Hint: With that the backward is that of attention; what is 0 in weights is 0 in dscores.
"""

import numpy as np


def attention(q, k, v, lengths):
    """Return out (B, T, D) and weights (B, T, S)."""
    seen = np.arange(k.shape[1]) < lengths[:, None, None]
    scores = q @ k.swapaxes(-1, -2) * q.shape[-1] ** -0.5
    scores = np.where(seen, scores, -np.inf)
    e = np.exp(scores - scores.max(-1, keepdims=True))
    weights = e / e.sum(-1, keepdims=True)
    return weights @ v, weights


def attention_backward(dout, q, k, v, lengths):
    """Return dq (B, T, D), dk (B, S, D), dv (B, S, D)."""
    scale = q.shape[-1] ** -0.5
    seen = np.arange(k.shape[1]) < lengths[:, None, None]
    scores = np.where(seen, scale * (q @ k.swapaxes(-1, -2)), -np.inf)
    e = np.exp(scores - scores.max(-1, keepdims=True))
    weights = e / e.sum(-1, keepdims=True)
    # out = weights v
    dv = weights.swapaxes(-1, -2) @ dout
    dweights = dout @ v.swapaxes(-1, -2)
    # weights = softmax(scores)
    delta = (weights * dweights).sum(-1, keepdims=True)
    dscores = weights * (dweights - delta)
    # scores = scale q k^T
    dq = scale * (dscores @ k)
    dk = scale * (dscores.swapaxes(-1, -2) @ q)
    return dq, dk, dv


def data(rng):
    """Return the arguments of one check."""
    q, k, v, dout = rng.standard_normal((4, 2, 4, 3))
    return {"dout": dout, "q": q, "k": k, "v": v, "lengths": np.array([4, 2])}
