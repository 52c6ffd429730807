"""logsumexp: the softmax as a gradient

lse = log(sum(exp(x))) is a soft maximum of each row. Its gradient is a thing that you know, and it
can be had from x and lse alone.

Shapes: x, dx (T, S); lse, dlse (T,).
Read: derivations/logsumexp
Hint: The derivative of log(s) is 1/s, that of exp is exp.
Hint: d lse / d x_j = exp(x_j) / sum(exp(x)). Which function is that?
Hint: p = exp(x - lse), with lse as a column; then dx = p times dlse, as a column, too.
"""

import numpy as np


def logsumexp(x):
    """Return lse (T,)."""
    top = x.max(-1, keepdims=True)
    return top[:, 0] + np.log(np.exp(x - top).sum(-1))


def logsumexp_backward(dlse, x, lse):
    """Return dx (T, S)."""
    # lse = log(sum(exp(x)))
    p = np.exp(x - lse[:, None])
    dx = p * dlse[:, None]
    return dx


def data(rng):
    """Return the arguments of one check."""
    x = rng.standard_normal((3, 4))
    return {"dlse": rng.standard_normal(3), "x": x, "lse": logsumexp(x)}
