"""Schedules of the learning rate: factors, by the number of the step."""

import math
from collections.abc import Callable
from typing import TypeAlias

from miniattn import _checks

Schedule: TypeAlias = Callable[[int], float]


def constant(warmup: int = 0) -> Schedule:
    """Return a schedule that rises over ``warmup`` steps and then stays at 1.

    Parameters
    ----------
    warmup : int >= 0
        Step t < warmup has the factor (t + 1) / (warmup + 1).

    Returns
    -------
    callable int -> float
        From the step, counted from 0, to the factor on the learning rate.

    Examples
    --------
    >>> from miniattn import optim
    >>> schedule = optim.constant(warmup=3)
    >>> [schedule(step) for step in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    warmup = _checks.integer("warmup", warmup, least=0)
    return lambda step: min(1.0, (step + 1) / (warmup + 1))


def linear(warmup: int, total: int, *, floor: float = 0.0) -> Schedule:
    """Return a schedule that rises over ``warmup`` steps and falls in a line to ``floor``.

    Parameters
    ----------
    warmup, total : int
        0 <= warmup < total: where the fall begins and where it ends.
    floor : float in [0, 1]
        The factor from step ``total`` on.

    Returns
    -------
    callable int -> float
        From the step, counted from 0, to the factor on the learning rate.

    Examples
    --------
    >>> from miniattn import optim
    >>> schedule = optim.linear(warmup=1, total=5)
    >>> [schedule(step) for step in range(7)]
    [0.5, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """
    return _falling(warmup, total, floor, lambda progress: 1.0 - progress)


def cosine(warmup: int, total: int, *, floor: float = 0.0) -> Schedule:
    """Return a schedule that rises over ``warmup`` steps and falls in half a cosine to ``floor``.

    Parameters
    ----------
    warmup, total, floor
        As in `linear`.

    Returns
    -------
    callable int -> float
        The same of a step.

    References
    ----------
    Loshchilov, Hutter. "SGDR: Stochastic Gradient Descent with Warm Restarts" (2017), section 3.

    Examples
    --------
    >>> from miniattn import optim
    >>> schedule = optim.cosine(warmup=1, total=5, floor=0.1)
    >>> [round(schedule(step), 3) for step in range(7)]
    [0.5, 1.0, 0.868, 0.55, 0.232, 0.1, 0.1]
    """
    return _falling(warmup, total, floor, lambda x: 0.5 * (1.0 + math.cos(math.pi * x)))


def _falling(warmup: int, total: int, floor: float, shape: Callable[[float], float]) -> Schedule:
    rise = constant(warmup)
    total = _checks.integer("total", total, least=warmup + 1)
    if not 0 <= _checks.number("floor", floor) <= 1:
        raise ValueError(f"floor: expected a number in [0, 1], got {floor}")

    def schedule(step: int) -> float:
        if step < warmup:
            return rise(step)
        progress = min(1.0, (step - warmup) / (total - warmup))
        return floor + (1.0 - floor) * shape(progress)

    return schedule
