"""What a run of a model is worth: a number, made of its output."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from miniattn import _checks
from miniattn._typing import Array


class Metric(Protocol):
    """What a run is worth: a number, and for attribution its gradient by the output."""

    def __call__(self, y: Any) -> float:
        """Return the number."""
        ...

    def gradient(self, y: Any) -> Any:
        """Return d number / d y, as the model's backward takes it."""
        ...


class LogitDifference:
    """How much a model prefers one token to another: the mean over rows of right − wrong.

    Parameters
    ----------
    right, wrong : ints (B,) or int
        The tokens, for each row.
    position : int
        The place T at which the logits are read; the last by default.

    References
    ----------
    Wang et al., "Interpretability in the Wild", 2022, section 2.1.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import analysis
    >>> logits = np.array([[[0.0, 0.0], [3.0, 1.0]]])               # (B, T, V)
    >>> prefers = analysis.LogitDifference(right=[0], wrong=[1])
    >>> prefers(logits)
    2.0
    >>> prefers.gradient(logits)
    array([[[ 0.,  0.],
            [ 1., -1.]]])
    """

    def __init__(self, right: ArrayLike, wrong: ArrayLike, *, position: int = -1) -> None:
        self.right, self.wrong = (
            _checks.int_array(name, x) for name, x in (("right", right), ("wrong", wrong))
        )
        self.position = _checks.integer("position", position)

    def __call__(self, y: Array) -> float:
        """Return the mean difference of logits (B, T, V)."""
        rows, last = np.arange(len(y)), y[:, self.position]
        return float((last[rows, self.right] - last[rows, self.wrong]).mean(dtype=np.float64))

    def gradient(self, y: Array) -> Array:
        """Return the gradient by the logits: 1/B at right, −1/B at wrong."""
        rows, dy = np.arange(len(y)), np.zeros_like(y)
        share = y.dtype.type(1 / len(y))
        dy[rows, self.position, self.right] += share
        dy[rows, self.position, self.wrong] -= share
        return dy
