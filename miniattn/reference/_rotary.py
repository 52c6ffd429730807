"""Rotary positions."""

# mypy: warn-return-any=False

import numpy as np
from numpy.typing import ArrayLike

from miniattn.reference._arrays import Array, f64


def rotary(
    x: ArrayLike,
    positions: ArrayLike,
    *,
    base: float = 10000.0,
    interleaved: bool = False,
    dim: int | None = None,
    frequencies: ArrayLike | None = None,
    magnitude: float = 1.0,
) -> Array:
    """Turn pair m of the dim/2 pairs of x (B, H, T, D) by the angle position base^(-2m/dim).

    A pair is read as a complex number, so that turning it is one product. The pairs are
    (x[m], x[m + dim/2]), or (x[2m], x[2m+1]) when interleaved. ``frequencies`` are the angles at
    position 1 where they are given. Pairs are multiplied by ``magnitude``, and entries from dim on
    are left alone.
    """
    x, positions = f64(x), np.asarray(positions)
    if frequencies is None:
        width = x.shape[-1] if dim is None else dim
        frequencies = base ** (-2.0 * np.arange(width // 2) / width)
    rate = f64(frequencies)
    width = 2 * rate.size
    first = np.s_[..., 0:width:2] if interleaved else np.s_[..., : width // 2]
    second = np.s_[..., 1:width:2] if interleaved else np.s_[..., width // 2 : width]
    angle = positions[..., None] * rate
    if positions.ndim == 2:
        angle = angle[:, None]  # (B, 1, T, dim/2): the same for every head
    turned = (x[first] + 1j * x[second]) * magnitude * np.exp(1j * angle)
    y = x.copy()
    y[first], y[second] = turned.real, turned.imag
    return y


def rotary_backward(
    dy: ArrayLike,
    x: ArrayLike,
    positions: ArrayLike,
    *,
    base: float = 10000.0,
    interleaved: bool = False,
    dim: int | None = None,
    frequencies: ArrayLike | None = None,
    magnitude: float = 1.0,
) -> Array:
    """Turn back: the inverse of a rotation is its transpose; a magnitude is that of both."""
    return rotary(
        dy,
        -np.asarray(positions),
        base=base,
        interleaved=interleaved,
        dim=dim,
        frequencies=frequencies,
        magnitude=magnitude,
    )
