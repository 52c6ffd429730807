"""gpt_step: a language model from the loss to its table

Tokens become vectors by a table, attend to the past, and become logits by the same table; the loss
is the mean cross-entropy of the next token. One number goes back through all of it.

Shapes: ids, targets (T,) ints, table, dtable (V, E); q = k = v = x, no factor, causal.
Read: derivations/attention
Hint: dlogits = (p - onehot) / T, as in cross_entropy.
Hint: x is used as q, as k and as v, and the table at both ends: sums everywhere.
Hint: dx = dq + dk + dv; then np.add.at(dtable, ids, dx), on top of dlogits^T h.
"""

import numpy as np


def softmax(x):
    """Return the softmax of every row."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def gpt_loss(ids, targets, table):
    """Return the loss, a number."""
    x = table[ids]
    seen = np.tri(len(ids), dtype=bool)
    h = softmax(np.where(seen, x @ x.T, -np.inf)) @ x
    p = softmax(h @ table.T)
    return -np.log(p[np.arange(len(ids)), targets]).mean()


def gpt_step(ids, targets, table):
    """Return dtable (V, E)."""
    x = table[ids]
    seen = np.tri(len(ids), dtype=bool)
    weights = softmax(np.where(seen, x @ x.T, -np.inf))
    h = weights @ x
    p = softmax(h @ table.T)
    # loss = mean(-log p[targets])
    onehot = (np.arange(len(table)) == targets[:, None]).astype(p.dtype)
    dlogits = (p - onehot) / len(ids)
    # logits = h table^T
    dtable = dlogits.T @ h
    dh = dlogits @ table
    # h = weights x
    dv = weights.T @ dh
    dweights = dh @ x.T
    # weights = softmax(x x^T), causal
    delta = (weights * dweights).sum(-1, keepdims=True)
    dscores = weights * (dweights - delta)
    dq = dscores @ x
    dk = dscores.T @ x
    dx = dq + dk + dv
    # x = table[ids]
    np.add.at(dtable, ids, dx)
    return dtable


def data(rng):
    """Return the arguments of one check."""
    ids, targets = np.array([1, 3, 1, 0]), np.array([3, 1, 0, 2])
    return {"ids": ids, "targets": targets, "table": rng.standard_normal((5, 4))}
