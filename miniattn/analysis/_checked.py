"""Maps as they are given, checked."""

import numpy as np

from miniattn import _checks
from miniattn._typing import Array


def weight_map(name: str, weights: object, letters: str = "..., T, S") -> Array:
    """Return the map of the argument ``name`` as an array of the shape that ``letters`` say."""
    array = _checks.float_array(name, weights)
    _checks.shape(name, array, letters)
    return array


def square_map(name: str, weights: object, letters: str = "..., T, T") -> Array:
    """Return a map of self-attention, which has as many keys as queries."""
    array = weight_map(name, weights, letters)
    if array.shape[-1] != array.shape[-2]:
        raise ValueError(f"{name}: expected shape ({letters}), got {array.shape}")
    return array


def shares_of(weights: Array) -> Array:
    """Return each weight as a share of its row; 0 in a row that attends to nothing."""
    totals = weights.sum(axis=-1, keepdims=True)
    shares: Array = np.divide(weights, totals, out=np.zeros_like(weights), where=totals > 0)
    return shares


def unless_empty(weights: Array, values: Array) -> Array:
    """Return ``values`` (..., T), NaN for rows that attend to nothing."""
    return np.where(weights.sum(axis=-1) > 0, values, np.nan).astype(weights.dtype)
