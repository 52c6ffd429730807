"""causal: no gradient from the future

Key j is seen by query i if j <= i. The mask is put in before the softmax; find the gradient of the
scores, 0 where nothing was seen, whatever dweights holds there.

Shapes: scores, weights, dweights, dscores (T, T).
Read: derivations/attention
Hint: np.tri(T, dtype=bool) is the mask: True on and below the diagonal.
Hint: The softmax's backward already gives 0 where a weight is 0, unless 0 meets NaN.
Hint: Clear dweights outside of the mask first, by np.where; then the softmax's backward.
"""

import numpy as np


def causal_softmax(scores):
    """Return weights (T, T)."""
    seen = np.tri(len(scores), dtype=bool)
    z = np.where(seen, scores, -np.inf)
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def causal_backward(dweights, scores):
    """Return dscores (T, T)."""
    seen = np.tri(len(scores), dtype=bool)
    z = np.where(seen, scores, -np.inf)
    e = np.exp(z - z.max(-1, keepdims=True))
    weights = e / e.sum(-1, keepdims=True)
    # hidden pairs are left out
    dw = np.where(seen, dweights, 0.0)
    # weights = softmax(z)
    delta = (weights * dw).sum(-1, keepdims=True)
    dscores = weights * (dw - delta)
    return dscores


def data(rng):
    """Return the arguments of one check."""
    dweights = np.where(np.tri(4, dtype=bool), rng.standard_normal((4, 4)), np.inf)
    return {"dweights": dweights, "scores": rng.standard_normal((4, 4))}
