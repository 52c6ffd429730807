"""embedding: rows that are used twice

y = weight[ids]: an id that stands in two places takes its row to both, so its row of the gradient
is a sum. `dweight[ids] += dy` does not do that: of equal ids it keeps the last.

Shapes: ids (B, T) ints, weight (V, E), dy (B, T, E), dweight (V, E).
Read: derivations/embedding
Hint: Start with zeros of the table's shape.
Hint: Add row by row, in a loop, or with a function of NumPy that adds where indices repeat.
Hint: np.add.at(dweight, ids, dy).
"""

import numpy as np


def embedding(ids, weight):
    """Return y (B, T, E)."""
    return weight[ids]


def embedding_backward(dy, ids, weight):
    """Return dweight (V, E)."""
    dweight = np.zeros_like(weight)
    # y = weight[ids]
    np.add.at(dweight, ids, dy)
    return dweight


def data(rng):
    """Return the arguments of one check."""
    ids = np.array([[1, 4, 1], [0, 1, 4]])
    return {"dy": rng.standard_normal((2, 3, 4)), "ids": ids, "weight": rng.standard_normal((5, 4))}
