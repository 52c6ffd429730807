"""The views and sums that attention by heads is made of."""

import numpy as np

from miniattn import _checks
from miniattn._typing import Array


def sized(name: str, x: object, letters: str, **sizes: int) -> Array:
    """Return ``x`` as an array of a shape that fits; its dtype is a matter of the projection."""
    array = _checks.float_array(name, x)
    _checks.shape(name, array, letters, sizes)
    return array


def split(x: Array, heads: int) -> Array:
    """View (B, T, H·D) as (B, H, T, D)."""
    batch, length, width = x.shape
    return x.reshape(batch, length, heads, width // heads).swapaxes(1, 2)


def merge(x: Array) -> Array:
    """Return (B, H, T, D) as (B, T, H·D), without a copy where x is a view of that."""
    batch, heads, length, width = x.shape
    return x.swapaxes(1, 2).reshape(batch, length, heads * width)


def places(count: int, start: Array | None = None) -> Array:
    """Return the positions of ``count`` tokens, (T,), or (B, T) after the ``start`` of each row."""
    places = np.arange(count)
    return places if start is None else start[:, None] + places


def sum_to(x: Array, shape: tuple[int, ...]) -> Array:
    """Return ``x`` summed over the axes along which ``shape`` was broadcast to it."""
    x = x.sum(axis=tuple(range(x.ndim - len(shape))))
    stretched = tuple(i for i, (n, full) in enumerate(zip(shape, x.shape, strict=True)) if n < full)
    summed: Array = x.sum(axis=stretched, keepdims=True)
    return summed
