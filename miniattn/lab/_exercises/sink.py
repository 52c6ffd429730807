"""sink: a place to attend to that carries nothing

One learned logit joins the softmax of every query and has no value: weights of the keys may sum to
less than 1. It has a gradient, because it takes weight from the others.

Shapes: scores, weights, dscores (T, S), sink a number, share (T,), v (S, D), dout (T, D).
Read: derivations/attention
Hint: Think of the sink as one more key, with a value of zeros: its dweight is 0.
Hint: Then the row sum delta is the same as without it, and so is dscores.
Hint: dsink = -sum over the queries of share delta.
"""

import numpy as np


def attention(scores, sink, v):
    """Return out (T, D), weights (T, S), and the share of the sink (T,)."""
    top = np.maximum(scores.max(-1, keepdims=True), sink)
    e = np.exp(scores - top)
    total = e.sum(-1, keepdims=True) + np.exp(sink - top)
    weights = e / total
    return weights @ v, weights, 1.0 - weights.sum(-1)


def attention_backward(dout, weights, share, v):
    """Return dscores (T, S), dsink (a number)."""
    # out = weights v
    dweights = dout @ v.T
    # weights, share = softmax of the scores and the sink
    delta = (weights * dweights).sum(-1)
    dscores = weights * (dweights - delta[:, None])
    dsink = -(share * delta).sum()
    return dscores, dsink


def data(rng):
    """Return the arguments of one check."""
    v, dout = rng.standard_normal((2, 4, 3))
    _, weights, share = attention(rng.standard_normal((4, 4)), 0.5, v)
    return {"dout": dout, "weights": weights, "share": share, "v": v}
