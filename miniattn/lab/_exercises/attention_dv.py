"""attention_dv: what a value is told

out = weights v: value j was used by every query, with its weight. Find its gradient.

Shapes: weights (T, S), v, dv (S, D), dout (T, D).
Read: derivations/attention
Hint: out[i] = sum over j of weights[i, j] v[j]. Where does v[j] stand?
Hint: dv[j] is a sum over the queries i, so T has to disappear.
Hint: dv = weights^T dout.
"""

import numpy as np


def mix(weights, v):
    """Return out (T, D)."""
    return weights @ v


def mix_backward(dout, weights):
    """Return dv (S, D)."""
    # out = weights v
    dv = weights.T @ dout
    return dv


def data(rng):
    """Return the arguments of one check."""
    weights = rng.dirichlet(np.ones(4), size=4)
    return {"dout": rng.standard_normal((4, 3)), "weights": weights}
