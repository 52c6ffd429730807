"""Dropout, applied if and only if a generator is given."""

from __future__ import annotations

import numpy as np

import miniattn.functional as F
from miniattn import _checks
from miniattn._typing import Array
from miniattn.nn._module import Module


class Dropout(Module):
    """Inverted dropout: each entry is 0 with probability p, else x / (1 − p).

    There is no train or eval mode: ``forward(x, rng=rng)`` drops, ``forward(x)`` does not.

    Parameters
    ----------
    p : float
        Probability of dropping an entry, in [0, 1).

    References
    ----------
    Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
    JMLR 15 (2014), section 4.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> y, ctx = nn.Dropout(0.5).forward(np.ones(8, np.float32), rng=np.random.default_rng(0))
    >>> sorted(set(y.tolist()))
    [0.0, 2.0]
    """

    _free = ("p",)
    _live = ("p",)

    def __init__(self, p: float) -> None:
        self.p = _checks.probability("p", p)

    def forward(
        self, x: Array, *, rng: np.random.Generator | None = None
    ) -> tuple[Array, F.DropoutContext | None]:
        """Return (y, ctx), both x and y (...)."""
        x = _checks.float_array("x", x)
        y, ctx = self.drop(x, rng)
        return (x.copy(), None) if ctx is None else (y, ctx)

    def backward(self, dy: Array, ctx: F.DropoutContext | None) -> Array:
        """Return dx (...)."""
        # y = x · keep / (1 − p)
        dx = self.undrop(_checks.float_array("dy", dy), ctx)
        return dx.copy() if ctx is None else dx

    def drop(
        self, x: Array, rng: np.random.Generator | None
    ) -> tuple[Array, F.DropoutContext | None]:
        """Do as ``forward``, but return x itself where nothing is dropped.

        For layers that keep the result to themselves, and so need not pay for a copy.
        """
        if rng is None or (self.p == 0.0 and _checks.generator("rng", rng)):
            return x, None
        return F.dropout_forward(x, self.p, rng)

    def undrop(self, dy: Array, ctx: F.DropoutContext | None) -> Array:
        """Do as ``backward``, but return dy itself where nothing was dropped."""
        return dy if ctx is None else F.dropout_backward(dy, ctx)

    def describe(self) -> str:
        """Return e.g. ``"p=0.1"``."""
        return f"p={self.p:g}"
