"""attention_bias: sum over what was broadcast

scores = raw + bias, where one bias (H, 1, S) serves all batch rows and all queries. Whatever
broadcasting copies on the way forward is summed on the way back.

Shapes: weights, dweights (B, H, T, S), dbias (H, 1, S).
Read: derivations/attention
Hint: First dscores: the softmax's backward.
Hint: d(raw + bias) goes to each of both with the factor 1; then look at the shapes.
Hint: dbias = dscores.sum(0).sum(1, keepdims=True).
"""

import numpy as np


def biased(raw, bias):
    """Return weights (B, H, T, S)."""
    scores = raw + bias
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def biased_backward(dweights, weights):
    """Return dbias (H, 1, S)."""
    # weights = softmax(scores)
    delta = (weights * dweights).sum(-1, keepdims=True)
    dscores = weights * (dweights - delta)
    # scores = raw + bias
    rows = dscores.sum(0)
    dbias = rows.sum(1, keepdims=True)
    return dbias


def data(rng):
    """Return the arguments of one check."""
    weights = biased(rng.standard_normal((2, 3, 4, 3)), rng.standard_normal((3, 1, 3)))
    return {"dweights": rng.standard_normal((2, 3, 4, 3)), "weights": weights}
