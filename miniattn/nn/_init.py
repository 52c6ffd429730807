"""How weights start: the two distributions that the layers draw from."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import numpy as np
from numpy.typing import DTypeLike

from miniattn import _checks
from miniattn._typing import Array

_drawing: ContextVar[bool] = ContextVar("drawing", default=True)


@contextlib.contextmanager
def undrawn() -> Iterator[None]:
    """Let weights start at 0, in memory that is not touched: for what is loaded right after."""
    before = _drawing.set(False)
    try:
        yield
    finally:
        _drawing.reset(before)


def drawing() -> bool:
    """Whether weights are drawn."""
    return _drawing.get()


def generator(rng: np.random.Generator | None) -> np.random.Generator:
    """Return ``rng``, or a fresh unseeded one for None."""
    return np.random.default_rng() if rng is None else _checks.generator("rng", rng)


def glorot_uniform(rng: np.random.Generator, shape: tuple[int, int], dtype: DTypeLike) -> Array:
    """Draw U(−a, a) with a = √(6 / (in + out)), for a weight of shape (out, in).

    Keeps the variance of activations and of gradients from growing or shrinking with depth:
    Glorot & Bengio, "Understanding the difficulty of training deep feedforward neural networks",
    AISTATS 2010, equation 16.
    """
    dtype = _checks.float_dtype("dtype", dtype)
    if not drawing():
        return np.zeros(shape, dtype)
    bound = np.sqrt(6.0 / sum(shape))
    return rng.uniform(-bound, bound, shape).astype(dtype)


def normal(rng: np.random.Generator, shape: tuple[int, ...], std: float, dtype: DTypeLike) -> Array:
    """Draw N(0, std²)."""
    if not drawing():
        return np.zeros(shape, _checks.float_dtype("dtype", dtype))
    return (rng.standard_normal(shape) * std).astype(_checks.float_dtype("dtype", dtype))
