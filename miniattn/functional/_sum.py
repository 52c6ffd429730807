"""The sum of two arrays by all threads, each the rows that it has at hand."""

import numpy as np

from miniattn._memory import empty
from miniattn.functional._arrays import Array, kernel_input
from miniattn.kernels import activation


def add(x: Array, y: Array) -> Array:
    """Return x + y for arrays of one shape and dtype."""
    x, y = kernel_input(np.asarray(x)), kernel_input(y)
    total = empty(y.shape, y.dtype)
    activation.add(x.reshape(-1), y.reshape(-1), total.reshape(-1))
    return total
