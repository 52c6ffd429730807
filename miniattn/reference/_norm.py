"""Normalisations."""

# mypy: warn-return-any=False

import math

import numpy as np
from numpy.typing import ArrayLike

from miniattn.reference._arrays import Array, f64, quiet


@quiet
def layer_norm(
    x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None, *, eps: float = 1e-5
) -> Array:
    """y = (x - mean) / sqrt(var + eps) * weight + bias over the last axis."""
    y = _standardise(f64(x), eps)[0] * f64(weight)
    return y if bias is None else y + f64(bias)


@quiet
def layer_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
) -> tuple[Array, Array, Array | None]:
    """dx = (g - mean(g) - z mean(g z)) / sigma with z = (x - mean) / sigma and g = dy weight."""
    dy = f64(dy)
    z, sigma = _standardise(f64(x), eps)
    g = dy * f64(weight)
    dx = (g - g.mean(-1, keepdims=True) - z * (g * z).mean(-1, keepdims=True)) / sigma
    rows = tuple(range(dy.ndim - 1))
    return dx, (dy * z).sum(rows), None if bias is None else dy.sum(rows)


def _standardise(x: Array, eps: float) -> tuple[Array, Array]:
    """(x - mean) / sigma and sigma = sqrt(var + eps).

    From the first entry on: the mean of equal numbers is then no rounded sum of them.
    """
    d = x - x[..., :1]
    return _over_rms(d - d.mean(-1, keepdims=True), eps)


def _over_rms(d: Array, eps: float) -> tuple[Array, Array]:
    """d / rms and rms = sqrt(mean(d^2) + eps), in a unit in which no square is out of range."""
    unit = np.maximum(np.abs(d).max(-1, keepdims=True, initial=0.0), math.sqrt(eps))
    unit = np.where((0 < unit) & (unit < np.inf), unit, 1.0)
    small = d / unit
    rms = np.sqrt((small**2).mean(-1, keepdims=True) + (math.sqrt(eps) / unit) ** 2)
    return small / rms, rms * unit


@quiet
def rms_norm(x: ArrayLike, weight: ArrayLike, *, eps: float = 1e-6) -> Array:
    """y = x / sqrt(mean(x^2) + eps) * weight over the last axis."""
    return _over_rms(f64(x), eps)[0] * f64(weight)


@quiet
def rms_norm_backward(
    dy: ArrayLike, x: ArrayLike, weight: ArrayLike, *, eps: float = 1e-6
) -> tuple[Array, Array]:
    """dx = (g - z mean(g z)) / rms with z = x / rms and g = dy weight."""
    dy = f64(dy)
    z, rms = _over_rms(f64(x), eps)
    g = dy * f64(weight)
    dx = (g - z * (g * z).mean(-1, keepdims=True)) / rms
    return dx, (dy * z).sum(tuple(range(dy.ndim - 1)))


@quiet
def batch_norm(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    mask: ArrayLike | None = None,
    eps: float = 1e-5,
) -> Array:
    """y = (x - mean) / sqrt(var + eps) * weight + bias, by features of the vectors that count."""
    x = f64(x)
    real = np.ones(x.shape[:-1], bool) if mask is None else np.asarray(mask)
    y = np.zeros_like(x)
    y[real] = _standardise(x[real].T, eps)[0].T * f64(weight)
    if bias is not None:
        y[real] += f64(bias)
    return y


@quiet
def batch_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    mask: ArrayLike | None = None,
    eps: float = 1e-5,
) -> tuple[Array, Array, Array | None]:
    """As `layer_norm_backward`, but down the columns of the vectors that count."""
    x, dy = f64(x), f64(dy)
    real = np.ones(x.shape[:-1], bool) if mask is None else np.asarray(mask)
    z, sigma = _standardise(x[real].T, eps)
    g = dy[real].T
    dx = np.zeros_like(x)
    inner = (g - g.mean(-1, keepdims=True) - z * (g * z).mean(-1, keepdims=True)) / sigma
    dx[real] = inner.T * f64(weight)
    return dx, (g * z).sum(-1), None if bias is None else g.sum(-1)
