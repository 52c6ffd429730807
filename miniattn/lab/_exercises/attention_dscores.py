"""attention_dscores: from out to scores

weights = softmax(scores), out = weights v. Two lines back, in the order in which they are undone.

Shapes: weights, dscores (T, S), v (S, D), dout (T, D).
Read: derivations/attention
Hint: First dweights, as in the exercise attention_dweights.
Hint: Then the softmax: what pulls all weights of a query alike moves none of them.
Hint: dscores = weights (dweights - sum over the keys of weights dweights).
"""

import numpy as np


def attention(scores, v):
    """Return out (T, D) and weights (T, S)."""
    e = np.exp(scores - scores.max(-1, keepdims=True))
    weights = e / e.sum(-1, keepdims=True)
    return weights @ v, weights


def attention_backward(dout, weights, v):
    """Return dscores (T, S)."""
    # out = weights v
    dweights = dout @ v.T
    # weights = softmax(scores)
    delta = (weights * dweights).sum(-1, keepdims=True)
    dscores = weights * (dweights - delta)
    return dscores


def data(rng):
    """Return the arguments of one check."""
    v = rng.standard_normal((4, 3))
    _, weights = attention(rng.standard_normal((4, 4)), v)
    return {"dout": rng.standard_normal((4, 3)), "weights": weights, "v": v}
