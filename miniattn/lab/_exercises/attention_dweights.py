"""attention_dweights: what a weight is told

out = weights v: if query i attended a little more to key j, out[i] would move towards v[j]. How
much of that does the loss want?

Shapes: v (S, D), dout (T, D), dweights (T, S).
Read: derivations/attention
Hint: out[i, d] = sum over j of weights[i, j] v[j, d]: weights[i, j] reaches all d.
Hint: D has to disappear: a product of (T, D) and (D, S).
Hint: dweights = dout v^T.
"""

import numpy as np


def mix(weights, v):
    """Return out (T, D)."""
    return weights @ v


def mix_backward(dout, v):
    """Return dweights (T, S)."""
    # out = weights v
    dweights = dout @ v.T
    return dweights


def data(rng):
    """Return the arguments of one check."""
    return {"dout": rng.standard_normal((4, 4)), "v": rng.standard_normal((4, 4))}
