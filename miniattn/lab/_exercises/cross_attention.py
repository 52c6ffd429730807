"""cross_attention: queries of one sequence, keys of another

q comes from x, k and v from memory. Two inputs, two gradients: who used what?

Shapes: x, dx, dout (T, E), memory, dmemory (S, E), Wq, Wk, Wv (E, E); one head, out = weights v.
Read: derivations/attention
Hint: Up to dq, dk and dv nothing is new.
Hint: memory was used twice: for k and for v.
Hint: dx = dq Wq; dmemory = dk Wk + dv Wv.
"""

import numpy as np


def softmax(x):
    """Return the softmax of every row."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def cross(x, memory, Wq, Wk, Wv):
    """Return out (T, E)."""
    q, k, v = x @ Wq.T, memory @ Wk.T, memory @ Wv.T
    return softmax(q @ k.T * q.shape[-1] ** -0.5) @ v


def cross_backward(dout, x, memory, Wq, Wk, Wv):
    """Return dx (T, E), dmemory (S, E)."""
    q, k, v = x @ Wq.T, memory @ Wk.T, memory @ Wv.T
    scale = q.shape[-1] ** -0.5
    weights = softmax(scale * (q @ k.T))
    # out = weights v
    dv = weights.T @ dout
    dweights = dout @ v.T
    # weights = softmax(scale q k^T)
    delta = (weights * dweights).sum(-1, keepdims=True)
    dscores = weights * (dweights - delta)
    dq = scale * (dscores @ k)
    dk = scale * (dscores.T @ q)
    # q = x Wq^T, k = memory Wk^T, v = memory Wv^T
    dx = dq @ Wq
    dmemory = dk @ Wk + dv @ Wv
    return dx, dmemory


def data(rng):
    """Return the arguments of one check."""
    Wq, Wk, Wv = rng.standard_normal((3, 4, 4))
    x, dout, memory = rng.standard_normal((3, 4, 4))
    return {"dout": dout, "x": x, "memory": memory, "Wq": Wq, "Wk": Wk, "Wv": Wv}
