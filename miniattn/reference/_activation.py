"""Functions of each element alone."""

# mypy: warn-return-any=False

import math

import numpy as np
from numpy.typing import ArrayLike

from miniattn.reference._arrays import Array, f64, quiet


def relu(x: ArrayLike) -> Array:
    """max(x, 0); NaN stays NaN."""
    return np.maximum(f64(x), 0.0)


def relu_backward(dy: ArrayLike, x: ArrayLike) -> Array:
    """dy where x > 0, else 0."""
    return np.where(f64(x) > 0, f64(dy), 0.0)


@quiet
def sigmoid(x: ArrayLike) -> Array:
    """1 / (1 + exp(-x)), written so that no exponential overflows."""
    return np.exp(-np.logaddexp(0.0, -f64(x)))


def sigmoid_backward(dy: ArrayLike, x: ArrayLike) -> Array:
    """dx = dy s (1 - s), and 1 - s(x) = s(-x)."""
    return f64(dy) * sigmoid(x) * sigmoid(-f64(x))


def tanh(x: ArrayLike) -> Array:
    """The hyperbolic tangent."""
    return np.tanh(f64(x))


@quiet
def tanh_backward(dy: ArrayLike, x: ArrayLike) -> Array:
    """dx = dy / cosh(x)^2 = dy (1 - y^2)."""
    return f64(dy) / np.cosh(f64(x)) ** 2


@quiet
def silu(x: ArrayLike) -> Array:
    """x sigmoid(x)."""
    return f64(x) * sigmoid(x)


@quiet
def silu_backward(dy: ArrayLike, x: ArrayLike) -> Array:
    """dx = dy (s + x s (1 - s))."""
    s = sigmoid(x)
    return f64(dy) * (s + f64(x) * s * sigmoid(-f64(x)))


_erfc = np.vectorize(math.erfc, otypes=[np.float64])


_GELU_TANH = math.sqrt(2.0 / math.pi)


@quiet
def gelu(x: ArrayLike, *, approximate: str = "none") -> Array:
    """x Phi(x), Phi the normal distribution function, or its tanh approximation."""
    x = f64(x)
    if approximate == "tanh":
        near = np.clip(x, -99.0, 99.0)  # past it tanh is 1
        return x * 0.5 * (1.0 + np.tanh(_GELU_TANH * (near + 0.044715 * near**3)))
    return x * 0.5 * _erfc(-x / math.sqrt(2.0))


@quiet
def gelu_backward(dy: ArrayLike, x: ArrayLike, *, approximate: str = "none") -> Array:
    """dx = dy (Phi(x) + x Phi'(x))."""
    dy, x = f64(dy), f64(x)
    if approximate == "tanh":
        near = np.clip(x, -99.0, 99.0)  # past it the slope is 0 and its square no number
        t = np.tanh(_GELU_TANH * (near + 0.044715 * near**3))
        slope = 0.5 * (1.0 - t**2) * _GELU_TANH * (1.0 + 3.0 * 0.044715 * near**2)
        return dy * (0.5 * (1.0 + t) + x * slope)
    density = np.exp(-0.5 * x**2) / math.sqrt(2.0 * math.pi)
    return dy * (0.5 * _erfc(-x / math.sqrt(2.0)) + x * density)
