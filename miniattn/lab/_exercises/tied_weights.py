"""tied_weights: one table at both ends

A table E turns ids into vectors, and the same table turns vectors into logits. It is used twice, so
its gradient adds up from two places that know nothing of each other.

Shapes: ids (T,) ints, table, dtable (V, E), dlogits (T, V); x = table[ids], logits = x table^T.
Read: derivations/embedding
Hint: From the logits: a linear map, with the table for its weight.
Hint: From the look-up: rows of dx are added where their ids stood.
Hint: dtable = dlogits^T x, then np.add.at(dtable, ids, dlogits table).
"""

import numpy as np


def logits(ids, table):
    """Return logits (T, V)."""
    x = table[ids]
    return x @ table.T


def logits_backward(dlogits, ids, table):
    """Return dtable (V, E)."""
    x = table[ids]
    # logits = x table^T
    dx = dlogits @ table
    dtable = dlogits.T @ x
    # x = table[ids]
    np.add.at(dtable, ids, dx)
    return dtable


def data(rng):
    """Return the arguments of one check."""
    ids = np.array([1, 3, 1, 0])
    return {
        "dlogits": rng.standard_normal((4, 4)),
        "ids": ids,
        "table": rng.standard_normal((4, 4)),
    }
