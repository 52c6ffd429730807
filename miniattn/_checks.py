"""Argument errors: every message names the argument, what was expected and what came.

Wrong kinds (dtype, type) are a TypeError, wrong shapes and ranges a ValueError. The functions
return the checked value in the form that the rest of the package works with.
"""

import contextlib
import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))

Array = NDArray[Any]


def float_array(name: str, x: object) -> Array:
    """Return ``x`` as an ndarray of native float32 or float64, or raise TypeError."""
    array = _as_array(name, x, "a float32 or float64 array")
    if array.dtype not in FLOATS or not array.dtype.isnative:
        raise TypeError(f"{name}: expected a float32 or float64 array, got {_dtype(array)}")
    return array


def float_dtype(name: str, value: object) -> np.dtype[Any]:
    """Return ``value`` as the dtype float32 or float64, or raise TypeError."""
    with contextlib.suppress(TypeError):
        dtype = np.dtype(value)  # type: ignore[call-overload]
        if value is not None and dtype in FLOATS and dtype.isnative:
            return dtype  # type: ignore[no-any-return]
    raise TypeError(f"{name}: expected float32 or float64, got {value!r}")


def int_array(name: str, x: object) -> Array:
    """Return ``x`` as an int64 ndarray, or raise TypeError; bool and float are refused."""
    array = _as_array(name, x, "an integer array")
    if array.size == 0 and not isinstance(x, np.ndarray):
        array = array.astype(np.int64)  # `[]` has no type of its own
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected an integer array, got {_dtype(array)}")
    if array.dtype.kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise ValueError(f"{name}: expected values that fit int64, got {int(array.max())}")
    return array.astype(np.int64, copy=False)


def bool_array(name: str, x: object) -> Array:
    """Return ``x`` as a bool ndarray, or raise TypeError; integer masks are refused."""
    array = _as_array(name, x, "a bool array (True = may attend)")
    if array.dtype != np.bool_:
        raise TypeError(f"{name}: expected a bool array (True = may attend), got {_dtype(array)}")
    return array


def same_dtype(**arrays: Array | None) -> np.dtype[Any]:
    """Raise TypeError unless all the given arrays share one dtype; return it."""
    given = [a.dtype for a in arrays.values() if a is not None]
    if given.count(given[0]) == len(given):
        return given[0]
    first_name, first = next((name, a) for name, a in arrays.items() if a is not None)
    for name, a in arrays.items():
        if a is not None and a.dtype != first.dtype:
            raise TypeError(
                f"{name}: expected dtype {first.dtype} like {first_name}, got {a.dtype}"
            )
    return first.dtype


def shape(name: str, x: Array, letters: str, sizes: Mapping[str, int] | None = None) -> None:
    """Raise ValueError unless ``x.shape`` fits ``letters``, e.g. ``"B, H, T, D"``.

    ``sizes`` fixes some of the letters. A leading ``...`` stands for any number of axes.
    """
    fits(name, x.shape, letters, sizes)


def fits(
    name: str, full: tuple[int, ...], letters: str, sizes: Mapping[str, int] | None = None
) -> None:
    """Raise ValueError unless the shape ``full`` fits ``letters``, as `shape` does."""
    tail, open_ended = _tail(letters)
    known = sizes or {}
    got = full[-len(tail) :] if open_ended else full
    if len(got) == len(tail):
        for letter, n in zip(tail, got, strict=True):
            if known.get(letter, n) != n:
                break
        else:
            return
    names = ["...", *tail] if open_ended else list(tail)
    raise ValueError(f"{name}: expected shape {_spell(names, known)}, got {full}")


@functools.cache
def _tail(letters: str) -> tuple[tuple[str, ...], bool]:
    """Return the letters without a leading ``...``, and whether there was one."""
    names = tuple(letter.strip() for letter in letters.split(","))
    return (names[1:], True) if names[0] == "..." else (names, False)


def broadcastable(name: str, x: Array, letters: str, full: tuple[int, ...]) -> None:
    """Raise ValueError unless ``x`` broadcasts to exactly the shape ``full``."""
    try:
        fits = np.broadcast_shapes(x.shape, full) == tuple(full)
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name}: expected a shape that broadcasts to ({letters}) = {tuple(full)}, "
            f"got {x.shape}"
        )


def axis(name: str, value: object, ndim: int) -> int:
    """Return ``value`` as an axis in [0, ndim)."""
    number = integer(name, value)
    if not -ndim <= number < ndim:
        raise ValueError(f"{name}: expected an axis in [{-ndim}, {ndim}), got {number}")
    return number % ndim


def integer(name: str, value: object, *, least: int | None = None) -> int:
    """Return ``value`` as an int, at least ``least``; bool and float are refused."""
    if type(value) is int and least is None:
        return value  # what is nearly always given, at a fifth of the time of the checks below
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}: expected an int, got {_kind(value)}")
    if least is not None and value < least:
        raise ValueError(f"{name}: expected an int >= {least}, got {int(value)}")
    return int(value)


def number(name: str, value: object) -> float:
    """Return ``value`` as a finite float."""
    if type(value) is float and math.isfinite(value):
        return value
    if isinstance(value, bool | np.bool_) or not isinstance(
        value, int | float | np.integer | np.floating
    ):
        raise TypeError(f"{name}: expected a number, got {_kind(value)}")
    if not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value}")
    return float(value)


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


def choice(name: str, value: object, options: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``options``."""
    allowed = tuple(options)
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected one of {allowed}, got {_kind(value)}")
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {allowed}, got {value!r}")
    return value


def generator(name: str, value: object) -> np.random.Generator:
    """Return ``value`` if it is a numpy Generator; seeds and the legacy RandomState are refused."""
    if not isinstance(value, np.random.Generator):
        raise TypeError(
            f"{name}: expected a numpy.random.Generator (np.random.default_rng(seed)), "
            f"got {_kind(value)}"
        )
    return value


def gradient(name: str, value: object, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return ``value`` as an array with exactly the shape and dtype of the output it belongs to."""
    array = float_array(name, value)
    if array.dtype != dtype:
        raise TypeError(f"{name}: expected dtype {dtype} like the output, got {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name}: expected the shape of the output, {shape}, got {array.shape}")
    return array


def _as_array(name: str, x: object, expected: str) -> Array:
    try:
        return np.asarray(x)
    except ValueError as error:  # ragged nested lists
        raise TypeError(f"{name}: expected {expected}, got a ragged {type(x).__name__}") from error


def _dtype(array: Array) -> str:
    order = "" if array.dtype.isnative else "byte-swapped "
    return f"{order}{array.dtype.name}"


def _kind(value: object) -> str:
    return f"{value!r} ({type(value).__name__})"


def _spell(names: list[str], sizes: Mapping[str, int]) -> str:
    letters = f"({', '.join(names)})"
    known = [f"{letter} = {sizes[letter]}" for letter in dict.fromkeys(names) if letter in sizes]
    return f"{letters} with {', '.join(known)}" if known else letters
