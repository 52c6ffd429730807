"""Numbers, and what is counted: axes, sizes, probabilities, flags."""

import math

import numpy as np

from miniattn._checks.words import brief, shown

_WORD = 2**63


def axis(name: str, value: object, ndim: int) -> int:
    """Return ``value`` as an axis in [0, ndim)."""
    number = integer(name, value)
    if not -ndim <= number < ndim:
        raise ValueError(f"{name}: expected an axis in [{-ndim}, {ndim}), got {number}")
    return number % ndim


def integer(name: str, value: object, *, least: int | None = None) -> int:
    """Return ``value`` as an int of 64 bits, at least ``least``; bool and float are refused."""
    if type(value) is int and least is None and -_WORD <= value < _WORD:
        return value  # what is nearly always given, at a fifth of the time of the checks below
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}: expected an int, got {shown(value)}")
    if least is not None and value < least:
        raise ValueError(f"{name}: expected an int >= {least}, got {brief(int(value))}")
    if not -_WORD <= value < _WORD:  # what kernels and index arrays can hold
        raise ValueError(f"{name}: expected an int that fits int64, got {brief(int(value))}")
    return int(value)


def sizes(**values: object) -> None:
    """Raise unless each of the values, given by its name, is an int of at least 1."""
    for name, value in values.items():
        integer(name, value, least=1)


def number(name: str, value: object) -> float:
    """Return ``value`` as a finite float."""
    if type(value) is float and math.isfinite(value):
        return value
    if isinstance(value, bool | np.bool_) or not isinstance(
        value, int | float | np.integer | np.floating
    ):
        raise TypeError(f"{name}: expected a number, got {shown(value)}")
    try:
        converted = float(value)
    except OverflowError:  # an int beyond the largest float
        converted = math.inf
    if not math.isfinite(converted):
        raise ValueError(f"{name}: expected a finite number, got {brief(value)}")
    return converted


def flag(name: str, value: object) -> bool:
    """Return ``value`` as a bool; what is merely true or false, as "no" and 0 are, is refused."""
    if value is True or value is False:
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    raise TypeError(f"{name}: expected a bool, got {shown(value)}")


def positive(name: str, value: object) -> float:
    """Return ``value`` as a float > 0."""
    checked = number(name, value)
    if checked <= 0:
        raise ValueError(f"{name}: expected a number > 0, got {value}")
    return checked


def probability(name: str, value: object) -> float:
    """Return ``value`` as a float in [0, 1); 1 would divide by zero when rescaling."""
    checked = number(name, value)
    if not 0 <= checked < 1:
        raise ValueError(f"{name}: expected a probability in [0, 1), got {value}")
    return checked


def share(name: str, value: object) -> float:
    """Return ``value`` as a float in [0, 1]."""
    checked = number(name, value)
    if not 0 <= checked <= 1:
        raise ValueError(f"{name}: expected a number in [0, 1], got {value}")
    return checked
