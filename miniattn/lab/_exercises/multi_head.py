"""multi_head: projections around heads

q, k and v are three linear maps of one x, cut into heads; what the heads give is joined and goes
through a fourth. x is used three times: its gradient is a sum of three.

Shapes: x, dx, dy (T, E), Wq, Wk, Wv, Wo (E, E); H heads; q = cut(x Wq^T).
Read: derivations/attention
Hint: From the last line: dWo = dy^T joined, and d joined = dy Wo. Cut it into heads.
Hint: Each head is the exercise attention. Join dq, dk and dv to (T, E) again.
Hint: dWq = dq^T x, and dx = dq Wq + dk Wk + dv Wv.
"""

import numpy as np


def cut(x, H):
    """Return (H, T, D) of (T, E)."""
    return x.reshape(len(x), H, -1).swapaxes(0, 1)


def join(heads):
    """Return (T, E) of (H, T, D)."""
    return heads.swapaxes(0, 1).reshape(heads.shape[1], -1)


def softmax(x):
    """Return the softmax of every row."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def multi_head(x, Wq, Wk, Wv, Wo, H):
    """Return y (T, E)."""
    q, k, v = cut(x @ Wq.T, H), cut(x @ Wk.T, H), cut(x @ Wv.T, H)
    weights = softmax(q @ k.swapaxes(-1, -2) * q.shape[-1] ** -0.5)
    return join(weights @ v) @ Wo.T


def multi_head_backward(dy, x, Wq, Wk, Wv, Wo, H):
    """Return dx (T, E), dWq, dWk, dWv, dWo (E, E)."""
    q = cut(x @ Wq.T, H)
    k = cut(x @ Wk.T, H)
    v = cut(x @ Wv.T, H)
    scale = q.shape[-1] ** -0.5
    weights = softmax(scale * (q @ k.swapaxes(-1, -2)))
    joined = join(weights @ v)
    # y = joined Wo^T
    dWo = dy.T @ joined
    dout = cut(dy @ Wo, H)
    # out = weights v
    dv = join(weights.swapaxes(-1, -2) @ dout)
    dweights = dout @ v.swapaxes(-1, -2)
    # weights = softmax(scores)
    delta = (weights * dweights).sum(-1, keepdims=True)
    dscores = weights * (dweights - delta)
    # scores = scale q k^T
    dq = join(scale * (dscores @ k))
    dk = join(scale * (dscores.swapaxes(-1, -2) @ q))
    # q = x Wq^T, k = x Wk^T, v = x Wv^T
    dWq = dq.T @ x
    dWk = dk.T @ x
    dWv = dv.T @ x
    dx = dq @ Wq + dk @ Wk + dv @ Wv
    return dx, dWq, dWk, dWv, dWo


def data(rng):
    """Return the arguments of one check."""
    Wq, Wk, Wv, Wo = rng.standard_normal((4, 4, 4))
    x, dy = rng.standard_normal((2, 4, 4))
    return {"dy": dy, "x": x, "Wq": Wq, "Wk": Wk, "Wv": Wv, "Wo": Wo, "H": 2}
