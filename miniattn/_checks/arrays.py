"""Arrays: dtypes, shapes, gradients."""

import contextlib
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from miniattn._checks.words import brief, dtype_of, has_fields
from miniattn._typing import Array

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def any_array(name: str, x: object, expected: str) -> Array:
    """Return ``x`` as an ndarray of any dtype; what cannot be one without loss is a TypeError."""
    if type(x) is np.ndarray:
        return x
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: expected {expected} without a mask of its own, which would be lost, "
            f"got a masked array {x.shape}; fill it with {name}.filled(...)"
        )
    if has_fields(x):  # a context, whose arrays NumPy would stack
        raise TypeError(f"{name}: expected {expected}, got a {type(x).__name__}")
    try:
        return np.asarray(x)
    except ValueError as error:  # ragged nested lists
        raise TypeError(f"{name}: expected {expected}, got a ragged {type(x).__name__}") from error


def float_array(name: str, x: object) -> Array:
    """Return ``x`` as an ndarray of native float32 or float64, or raise TypeError."""
    if type(x) is np.ndarray and x.dtype in FLOATS and x.dtype.isnative:  # nearly always
        return x
    array = any_array(name, x, "a float32 or float64 array")
    if array.dtype not in FLOATS or not array.dtype.isnative:
        raise TypeError(f"{name}: expected a float32 or float64 array, got {dtype_of(array)}")
    return array


def float_dtype(name: str, value: object) -> np.dtype[Any]:
    """Return ``value`` as the dtype float32 or float64, or raise TypeError."""
    with contextlib.suppress(TypeError, ValueError):
        dtype = np.dtype(value)  # type: ignore[call-overload]
        if value is not None and dtype in FLOATS and dtype.isnative:
            return dtype  # type: ignore[no-any-return]
    raise TypeError(f"{name}: expected float32 or float64, got {brief(value)}")


def int_array(name: str, x: object) -> Array:
    """Return ``x`` as an int64 ndarray, or raise TypeError; bool and float are refused."""
    array = any_array(name, x, "an integer array")
    if array.size == 0 and not isinstance(x, np.ndarray):
        array = array.astype(np.int64)  # `[]` has no type of its own
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected an integer array, got {dtype_of(array)}")
    if array.dtype.kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise ValueError(f"{name}: expected values that fit int64, got {int(array.max())}")
    return array.astype(np.int64, copy=False)


def bool_array(name: str, x: object) -> Array:
    """Return ``x`` as a bool ndarray, or raise TypeError; integer masks are refused."""
    array = any_array(name, x, "a bool array (True = may attend)")
    if array.dtype != np.bool_:
        raise TypeError(f"{name}: expected a bool array (True = may attend), got {dtype_of(array)}")
    return array


def same_dtype(**arrays: Array | None) -> np.dtype[Any]:
    """Raise TypeError unless all the given arrays share one dtype; return it."""
    given = [a.dtype for a in arrays.values() if a is not None]
    if given.count(given[0]) == len(given):
        return given[0]
    first_name, first = next((name, a) for name, a in arrays.items() if a is not None)
    for name, a in arrays.items():
        if a is not None:
            like(name, a, first.dtype, first_name)
    return first.dtype


def layer_input(name: str, x: object, width: int, dtype: np.dtype[Any]) -> Array:
    """Return ``x`` as an array (..., E) of the width and the dtype of a layer's parameters.

    Said of the input, where the width is known: an operation would say it of the weight, of which
    the caller of a layer knows nothing.
    """
    if type(x) is np.ndarray and x.dtype == dtype and x.shape[-1:] == (width,):
        return x  # what is nearly always given, at a third of the time of the checks below
    array = float_array(name, x)
    like(name, array, dtype, "the layer's parameters")
    if array.shape[-1:] != (width,):
        shape(name, array, "..., E", {"E": width})
    return array


def like(name: str, x: Array, dtype: np.dtype[Any], what: str) -> None:
    """Raise TypeError unless ``x`` has the dtype of ``what``."""
    if x.dtype != dtype:
        raise TypeError(f"{name}: expected dtype {dtype} like {what}, got {x.dtype}")


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


def gradient(name: str, value: object, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return ``value`` as an array with exactly the shape and dtype of the output it belongs to."""
    array = float_array(name, value)
    like(name, array, dtype, "the output")
    if array.shape != shape:
        raise ValueError(f"{name}: expected the shape of the output, {shape}, got {array.shape}")
    return array


def _spell(names: list[str], sizes: Mapping[str, int]) -> str:
    letters = f"({', '.join(names)})"
    known = [f"{letter} = {sizes[letter]}" for letter in dict.fromkeys(names) if letter in sizes]
    return f"{letters} with {', '.join(known)}" if known else letters
