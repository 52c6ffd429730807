"""mse: the mean of squares

loss = mean((pred - target)^2) over all entries. A warm-up: two factors, neither of which is to be
forgotten.

Shapes: pred, target, dpred (N, E); dloss a number.
Read: derivations/mse
Hint: The derivative of a square is twice what is squared.
Hint: A mean is a sum and a factor.
Hint: dpred = 2 (pred - target) / (N E) dloss.
"""

import numpy as np


def mse(pred, target):
    """Return loss, a number."""
    error = pred - target
    return (error**2).mean()


def mse_backward(dloss, pred, target):
    """Return dpred (N, E)."""
    # error = pred - target
    error = pred - target
    # loss = mean(error^2)
    share = dloss / error.size
    dpred = 2.0 * error * share
    return dpred


def data(rng):
    """Return the arguments of one check."""
    pred, target = rng.standard_normal((2, 3, 4))
    return {"dloss": 0.7, "pred": pred, "target": np.round(target, 2)}
