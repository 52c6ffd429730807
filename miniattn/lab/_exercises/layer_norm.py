"""layer_norm: two sums that pull back

z = (x - mean) / sigma: mean and sigma depend on every entry of the row, so each gives a term.

Shapes: x, z, dz, dx (T, E); sigma (T, 1).
Read: derivations/layer_norm
Hint: Leave out of dz what no change of x can do: shift the whole of z, or stretch it.
Hint: Shifting is the mean of dz; stretching is z times the mean of dz z.
Hint: dx = (dz - mean(dz) - z mean(dz z)) / sigma.
"""

import numpy as np


def normalise(x, eps=1e-5):
    """Return z (T, E) and sigma (T, 1)."""
    d = x - x.mean(-1, keepdims=True)
    sigma = np.sqrt((d**2).mean(-1, keepdims=True) + eps)
    return d / sigma, sigma


def normalise_backward(dz, z, sigma):
    """Return dx (T, E)."""
    # d = x - mean(x)
    shift = dz.mean(-1, keepdims=True)
    # sigma = sqrt(mean(d^2) + eps)
    stretch = (dz * z).mean(-1, keepdims=True)
    # z = d / sigma
    dx = (dz - shift - z * stretch) / sigma
    return dx


def data(rng):
    """Return the arguments of one check."""
    z, sigma = normalise(3.0 * rng.standard_normal((3, 4)) + 1.0)
    return {"dz": rng.standard_normal((3, 4)), "z": z, "sigma": sigma}
