"""attention_dropout: a gate between weights and values

out = (weights keep / (1 - p)) v: what is mixed are not the weights that the softmax made. Each of
the three gradients needs one of the two.

Shapes: weights, dscores (T, S), keep (T, S) bool, v, dv (S, D), dout (T, D); p a number.
Read: derivations/attention
Hint: Name what is mixed: used = weights keep / (1 - p). Then out = used v.
Hint: dv needs used; the softmax's backward needs weights, and dweights behind the gate.
Hint: dweights = np.where(keep, dout v^T / (1 - p), 0), then as in attention_dscores.
"""

import numpy as np


def mix(weights, v, keep, p):
    """Return out (T, D)."""
    used = np.where(keep, weights / (1.0 - p), 0.0)
    return used @ v


def mix_backward(dout, weights, v, keep, p):
    """Return dscores (T, S), dv (S, D)."""
    used = np.where(keep, weights / (1.0 - p), 0.0)
    # out = used v
    dv = used.T @ dout
    dused = dout @ v.T
    # used = weights keep / (1 - p)
    dweights = np.where(keep, dused / (1.0 - p), 0.0)
    # weights = softmax(scores)
    delta = (weights * dweights).sum(-1, keepdims=True)
    dscores = weights * (dweights - delta)
    return dscores, dv


def data(rng):
    """Return the arguments of one check."""
    keep = rng.permuted(np.array([[True, True, False, True]] * 4), axis=1)
    weights = rng.dirichlet(np.ones(4), size=4)
    v, dout = rng.standard_normal((2, 4, 4))
    return {"dout": dout, "weights": weights, "v": v, "keep": keep, "p": 0.3}
