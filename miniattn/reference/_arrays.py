"""What all of them begin with: arrays in float64, and NaN that is a value."""

# mypy: warn-return-any=False

import numpy as np
from numpy.typing import ArrayLike, NDArray

from miniattn import masks

Array = NDArray[np.float64]


Mask = masks.Mask | NDArray[np.bool_] | None


quiet = np.errstate(invalid="ignore", over="ignore", divide="ignore")  # NaN and inf are values here


# Tests put another in its place, to see what plain NumPy does in it.
PRECISION: type[np.floating] = np.float64


def f64(x: ArrayLike) -> Array:
    """Return an array, in float64."""
    return np.asarray(x, dtype=PRECISION)
