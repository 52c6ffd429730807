"""What a wrong array has to do with the right one: hypotheses that are tried on the numbers.

Where no formula is at hand, two arrays and what was known when the wrong one was made say a lot: a
factor, a transpose, a term that is the same along a row. Each hypothesis makes one array of
another; two are tried one after the other, and a factor is solved for with each.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from miniattn._causes._cause import AGREES, Cause, fits, near, ratio
from miniattn._causes._sums import by_parts, parts_of
from miniattn._typing import Array

__all__ = ["AGREES", "Cause", "by_parts", "likely", "near", "ratio"]

# More entries than this are not looked at in pairs of hypotheses.
LARGE = 20_000


class _Known(NamedTuple):
    """What may explain an array: arrays of its shape, numbers, and how near it has to come."""

    arrays: Mapping[str, Array]
    numbers: Mapping[str, float]
    agrees: float


class _Change(NamedTuple):
    kind: str
    text: str
    make: Callable[[Array], Array]


def likely(
    got: Array, right: Array, known: Mapping[str, Any], *, agrees: float = AGREES
) -> Cause | None:
    """Return what most simply makes ``got`` of ``right``, or None.

    Parameters
    ----------
    got, right : ndarray
        The wrong array and the right one.
    known : mapping of str to array or number
        What may be missing or too much: scales, masks, values of the forward.
    agrees : float
        How near an array has to come to ``got``, as a share of its largest entry.
    """
    got, right = np.asarray(got, float), np.asarray(right, float)
    if got.shape != right.shape:
        return _misshapen(got, right, agrees)
    if not got.size or not np.isfinite(right).all():
        return None
    if not np.isfinite(got).all():
        return Cause("not finite", "NaN or infinity where the right value is a number")
    numbers = dict(_numbers(right, known))
    arrays = {name: a for name, a in known.items() if fits(a, right.shape)}
    tried = _Known(arrays, numbers, agrees)
    found = (
        _by_factor(got, right, numbers, agrees)
        or _by_place(got, right, agrees)
        or _by_change(got, right, tried)
        or by_parts(got, right, parts_of(known, right.shape), agrees=agrees)
        or _by_term(got, right, tried)
    )
    if found is None and got.size <= LARGE:
        found = _by_two_changes(got, right, tried)
    return found


# A factor.


def _by_factor(
    got: Array, right: Array, numbers: Mapping[str, float], agrees: float
) -> Cause | None:
    if not got.any() and right.any():
        return Cause("zero", "it is 0 everywhere: never worked out, or never added")
    factor = ratio(got, right)
    if not math.isfinite(factor) or not near(got, factor * right, agrees):
        return None
    return _factor(factor, numbers, agrees)


def _factor(factor: float, numbers: Mapping[str, float], agrees: float) -> Cause:
    """Return what a factor probably is, by the numbers that are at hand."""
    if abs(factor + 1) <= agrees:
        return Cause("sign", "the sign is the other one")
    sign = "the sign is the other one, and " if factor < 0 else ""
    for power, words in (
        (1, "is there once too often"),
        (-1, "is missing"),
        (2, "is there twice too often"),
        (-2, "is missing twice"),
        (0.5, "is there with its root too much"),
        (-0.5, "is missing with its root"),
    ):
        for name, number in numbers.items():
            if number > 0 and abs(abs(factor) / number**power - 1) <= 10 * agrees:
                counts = name.startswith("the number ")
                if counts and power in (1, -1):
                    text = f"a mean stands for a sum, or a sum for a mean: {name} {words}"
                    return Cause("mean", sign + text)
                return Cause("factor", f"{sign}the factor {name} {words}")
    return Cause("factor", f"{sign}every entry is off by the one factor {abs(factor):.6g}")


def _numbers(right: Array, known: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the numbers that may be a factor, by what they are called."""
    sizes = {n for a in (right, *known.values()) if isinstance(a, np.ndarray) for n in a.shape}
    for name, value in known.items():
        if isinstance(value, int | float | np.number) and not isinstance(value, bool):
            yield f"`{name}`", abs(float(value))
            if 0 < value < 1:
                yield f"1 - `{name}`", 1.0 - float(value)
    yield "2", 2.0
    for n in sorted(sizes - {0, 1}):
        yield f"the number {n}, the length of an axis,", float(n)
    products = {a * b for a, b in itertools.combinations_with_replacement(sorted(sizes), 2)}
    for n in sorted(products - sizes - {0, 1}):
        yield f"the number {n}, of two axes,", float(n)


# Places.


def _by_place(got: Array, right: Array, agrees: float) -> Cause | None:
    """Return what it says that only some entries are wrong, if they are wrong in one way."""
    size = max(float(np.abs(right).max()), float(np.abs(got).max()))
    wrong = np.abs(got - right) > agrees * size
    if wrong.all() or not wrong.any():
        return None
    if not right[wrong].any():
        return Cause(
            "mask", "entries that are to be 0 are not: a mask is ignored, or comes too late"
        )
    if not got[wrong].any():
        return Cause("mask", "some entries are 0 that are not to be: hidden, or never added to")
    if near(got[wrong], -right[wrong], agrees):
        return Cause("sign", "some entries have the other sign")
    return None


# Changes.


def _by_change(got: Array, right: Array, known: _Known) -> Cause | None:
    for change in _changes(right.shape, known.arrays):
        made = change.make(right)
        factor = ratio(got, made)
        if not math.isfinite(factor) or not near(got, factor * made, known.agrees):
            continue
        if abs(factor - 1) <= 10 * known.agrees:
            return Cause(change.kind, change.text)
        also = _factor(factor, known.numbers, known.agrees)
        return Cause(change.kind, f"{change.text}; and {also.text}")
    return None


def _by_two_changes(got: Array, right: Array, known: _Known) -> Cause | None:
    for first in _changes(right.shape, known.arrays):
        made = first.make(right)
        if not (np.isfinite(made).all() and made.any()):  # of nothing all can be made
            continue
        found = _by_change(got, made, known) or _by_term(got, made, known)
        if found is not None:
            return Cause(first.kind, f"{first.text}; and {found.text}")
    return None


def _changes(shape: tuple[int, ...], arrays: Mapping[str, Array]) -> Iterator[_Change]:
    """Yield what can be done to an array of this shape."""
    axes = range(len(shape))
    for one, two in itertools.combinations(axes, 2):
        if shape[one] == shape[two] > 1:
            text = f"axes {one} and {two} are swapped"
            yield _Change("transposed", text, partial(np.swapaxes, axis1=one, axis2=two))
    for axis in axes:
        if shape[axis] > 1:
            yield from _along(axis, shape[axis])
    for name, array in arrays.items():
        full = np.broadcast_to(array, shape)
        if array.dtype == bool:
            yield _Change("mask", f"`{name}` hides it", partial(_kept, full))
            yield _Change("mask", f"`{name}` reversed hides it", partial(_kept, ~full))
        else:
            text = f"the factor `{name}` is there once too often"
            yield _Change("factor", text, partial(np.multiply, full))
            if (full != 0).all():
                missing = f"the factor `{name}` is missing"
                yield _Change("factor", missing, partial(np.multiply, 1.0 / full))


def _kept(where: Array, x: Array) -> Array:
    return np.where(where, x, 0.0)


def _along(axis: int, n: int) -> Iterator[_Change]:
    """Yield orders of the entries of an axis."""
    yield _Change("order", f"axis {axis} is reversed", partial(np.flip, axis=axis))
    for step in (1, -1):
        text = f"axis {axis} is off by one"
        yield _Change("offset", text, partial(np.roll, shift=step, axis=axis))
    for group in range(2, n):
        if n % group == 0:
            order = np.arange(n).reshape(-1, group).T.ravel()
            text = f"axis {axis} is in the order of {group} groups, not of their members"
            yield _Change("heads", text, partial(np.take, indices=order, axis=axis))


# Terms.


def _by_term(got: Array, right: Array, known: _Known) -> Cause | None:
    """Return the term by which two arrays differ, where it can be told."""
    arrays, agrees = known.arrays, known.agrees
    rest = got - right
    size = max(float(np.abs(right).max()), float(np.abs(got).max()))
    for name, a in arrays.items():
        if a.dtype == bool:
            continue
        full = np.broadcast_to(a, right.shape)
        factor = ratio(rest, full)
        if math.isfinite(factor) and near(rest, factor * full, agrees):
            times = "" if abs(abs(factor) - 1) <= 10 * agrees else f"{abs(factor):.6g} times "
            sign = "-" if factor < 0 else "+"
            text = f"it differs by {sign}{times}`{name}`: a term that is missing or too much"
            return Cause("term", text)
    for axis in range(right.ndim):
        if right.shape[axis] < 2:
            continue
        if (np.ptp(rest, axis=axis) <= agrees * size).all():
            return Cause(
                "term",
                f"along axis {axis} it is off by one number for each row: a sum or mean over the "
                "row is missing, or over the wrong axis",
            )
        for name, a in arrays.items():
            full = np.broadcast_to(a, right.shape)
            if a.dtype == bool or not (np.abs(full) > 0).all():
                continue
            share = rest / full
            if (np.ptp(share, axis=axis) * np.abs(full).max() <= agrees * size).all():
                return Cause(
                    "term",
                    f"along axis {axis} it is off by `{name}` times one number for each row: a "
                    "row-sum term is missing, or over the wrong axis",
                )
    return None


# Shapes.


def _misshapen(got: Array, right: Array, agrees: float) -> Cause | None:
    if got.T.shape == right.shape and near(got.T, right, agrees):
        return Cause("transposed", "it is the transpose")
    if got.size == right.size and near(got.reshape(right.shape), right, agrees):
        return Cause("shape", "the numbers are right, the shape is not")
    for count in range(1, got.ndim + 1):
        for axes in itertools.combinations(range(got.ndim), count):
            for word, made in (("sum", got.sum(axes)), ("mean", got.mean(axes))):
                if made.size == right.size and near(made.reshape(right.shape), right, agrees):
                    which = ", ".join(map(str, axes))
                    return Cause("broadcast", f"the {word} over axes {which} is missing")
    return None
