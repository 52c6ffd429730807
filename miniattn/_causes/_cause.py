"""A cause, and what it takes to tell one: whether arrays agree, and by which factor they do not."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from miniattn._typing import Array

# Arrays that agree to this share of their largest entry agree.
AGREES = 1e-6


class Cause(NamedTuple):
    """What probably went wrong: its kind in a word, and in words what was found."""

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.text} ({self.kind})"


def near(a: Array, b: Array, agrees: float) -> bool:
    """Return whether two arrays of one shape agree."""
    size = max(float(np.abs(b).max(initial=0.0)), float(np.abs(a).max(initial=0.0)))
    return bool((np.abs(a - b) <= agrees * size).all())


def ratio(got: Array, right: Array) -> float:
    """Return the factor by which ``got`` is nearest to ``right``; NaN where there is none."""
    square = float((right * right).sum())
    return float((got * right).sum()) / square if square else math.nan


def fits(value: Any, shape: tuple[int, ...]) -> bool:
    """Return whether a value is an array of numbers that broadcasts to a shape."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fb" or not value.size:
        return False
    try:
        return np.broadcast_shapes(value.shape, shape) == shape and bool(np.isfinite(value).all())
    except ValueError:
        return False
