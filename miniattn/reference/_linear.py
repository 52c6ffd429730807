"""Linear maps, embeddings, dropout."""

# mypy: warn-return-any=False

import numpy as np
from numpy.typing import ArrayLike

from miniattn.reference._arrays import Array, f64


def linear(x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> Array:
    """y = x W^T + b."""
    y: Array = f64(x) @ f64(weight).T
    return y if bias is None else y + f64(bias)


def linear_backward(
    dy: ArrayLike, x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None
) -> tuple[Array, Array, Array | None]:
    """dx = dy W,  dW = dy^T x,  db = sum(dy)."""
    dy, x, weight = f64(dy), f64(x), f64(weight)
    dweight: Array = dy.reshape(-1, weight.shape[0]).T @ x.reshape(-1, weight.shape[1])
    dbias = None if bias is None else dy.reshape(-1, weight.shape[0]).sum(0)
    return dy @ weight, dweight, dbias


def embedding(ids: ArrayLike, weight: ArrayLike) -> Array:
    """Row ids[...] of the table."""
    return f64(weight)[np.asarray(ids)]


def embedding_backward(dy: ArrayLike, ids: ArrayLike, weight: ArrayLike) -> Array:
    """Every row of dweight is the sum of dy over the places where its id stood."""
    dweight = np.zeros(np.shape(weight))
    np.add.at(dweight, np.asarray(ids), f64(dy))
    return dweight


def dropout(x: ArrayLike, p: float, keep: ArrayLike) -> Array:
    """Kept entries divided by 1 - p, the others 0."""
    return np.where(np.asarray(keep, bool), f64(x) / (1.0 - p), 0.0)


def dropout_backward(dy: ArrayLike, x: ArrayLike, p: float, keep: ArrayLike) -> Array:
    """The same map as forward: it is linear and diagonal."""
    return dropout(dy, p, keep)
