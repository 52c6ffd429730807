"""Slopes by differences, and whether differences tell anything at a point."""

import functools
import itertools
from collections.abc import Callable

import numpy as np

from miniattn._typing import Array

# Of a smooth function half the step leaves a quarter of the error; up to a half counts as less.
SHRINKS = 0.5
# Slopes that agree to this share agree, whatever the differences between them do.
AGREES = 1e-3
# Roundings of L that may separate two slopes.
ROUNDINGS = 1e3
# How much further the backward may be off than the extrapolations are from each other.
MARGIN = 10.0


class Differences:
    """Differences of L(t) = Σ dout · y(t) about a point t.

    Parameters
    ----------
    evaluate : callable float -> ndarray
        y of a number in place of t.
    dout, y : ndarray
        Where ``dout`` is 0 the output is passed over, whatever it holds; y belongs to t.
    t, step : float
        The point, and the longest step h. Half and a quarter of it are used as well.
    """

    def __init__(
        self, evaluate: Callable[[float], Array], dout: Array, y: Array, t: float, step: float
    ) -> None:
        self._evaluate, self._dout, self._y = evaluate, dout, y
        self._t, self._step = t, step
        self._side = functools.cache(self._outputs)

    def extrapolated(self, halvings: int = 0) -> float:
        """The slope at a step of 0, by those at h and h/2 (Richardson)."""
        return (4.0 * self.central(halvings + 1) - self.central(halvings)) / 3.0

    def central(self, halvings: int) -> float:
        """The slope from one side to the other."""
        return self._slope(self._side(-1, halvings), self._side(1, halvings))

    def tell(self, analytic: float) -> bool:
        """Return whether they can contradict a slope: not where they contradict each other.

        They do where slopes at h, h/2 and h/4 do not converge, or not further than to where
        ``analytic`` is (the function is steep); or where those to the left and to the right differ
        by the same for any step and ``analytic`` lies between them (it has a kink, or is flat
        beyond a narrow bend).
        """
        if not np.isfinite(analytic):
            return True
        slopes = [self.central(halvings) for halvings in range(3)]
        first, second = (abs(b - a) for a, b in itertools.pairwise(slopes))
        if not second <= max(SHRINKS * first, AGREES * abs(slopes[2]), self._rounding(2)):
            return False
        near, nearer = self.extrapolated(0), self.extrapolated(1)
        if abs(analytic - near) <= MARGIN * abs(nearer - near):
            return False
        return not self._is_between(analytic)

    def _is_between(self, analytic: float) -> bool:
        """Return whether a slope lies between those of the two sides, which do not approach."""
        here = self._t, self._y
        bends = []
        for halvings in (0, 1):
            left = self._slope(self._side(-1, halvings), here)
            right = self._slope(here, self._side(1, halvings))
            bends.append(abs(right - left))
        if bends[1] <= max(0.75 * bends[0], self._rounding(1)):
            return False
        room = 0.1 * bends[1]
        return min(left, right) - room <= analytic <= max(left, right) + room

    def _outputs(self, side: int, halvings: int) -> tuple[float, Array]:
        """Return a point to the left (−1) or to the right (1), and y there."""
        t = self._t + side * self._step / 2.0**halvings
        return t, self._evaluate(t)

    def _slope(self, left: tuple[float, Array], right: tuple[float, Array]) -> float:
        # Each output is subtracted before the sum, which would round away its last digits; and
        # the distance is the step that was made, where 2 h is the one that was meant.
        dout = self._dout
        rise = np.subtract(right[1], left[1], where=dout != 0, out=np.zeros(dout.shape))
        return float((dout * rise).sum() / (right[0] - left[0]))

    def _rounding(self, halvings: int) -> float:
        """What rounding may do to a central difference."""
        (left, below), (right, above) = self._side(-1, halvings), self._side(1, halvings)
        used = self._dout != 0
        size = (np.abs(self._dout) * np.maximum(np.abs(below), np.abs(above)))[used].sum()
        return float(ROUNDINGS * np.finfo(np.float64).eps * size / (right - left))
