"""attention_lse: a second result, a second gradient

lse is a result, too, when parts of attention are merged. Its gradient comes back beside dout, and
both meet in the scores.

Shapes: weights, dscores (T, S), v (S, D), dout (T, D), dlse (T,).
Read: derivations/attention
Hint: The gradient of lse with respect to its row of scores is the row of weights.
Hint: What comes from out and what comes from lse are added.
Hint: dscores = weights (dweights - delta + dlse), dlse as a column.
"""

import numpy as np


def attention(scores, v):
    """Return out (T, D), lse (T,) and weights (T, S)."""
    top = scores.max(-1)
    lse = top + np.log(np.exp(scores - top[:, None]).sum(-1))
    weights = np.exp(scores - lse[:, None])
    return weights @ v, lse, weights


def attention_backward(dout, dlse, weights, v):
    """Return dscores (T, S)."""
    # out = weights v
    dweights = dout @ v.T
    # weights = softmax(scores)
    delta = (weights * dweights).sum(-1, keepdims=True)
    dscores = weights * (dweights - delta)
    # lse = logsumexp(scores)
    dscores = dscores + weights * dlse[:, None]
    return dscores


def data(rng):
    """Return the arguments of one check."""
    v, dout = rng.standard_normal((2, 4, 3))
    _, _, weights = attention(rng.standard_normal((4, 4)), v)
    return {"dout": dout, "dlse": rng.standard_normal(4), "weights": weights, "v": v}
