"""Argument errors: every message names the argument, what was expected and what came.

Wrong kinds (dtype, type) are a TypeError, wrong shapes and ranges a ValueError. The functions
return the checked value in the form that the rest of the package works with.
"""

import contextlib
import functools
import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from miniattn import _checking
from miniattn._typing import Array

_WORD = 2**63
FLOATS = (np.dtype(np.float32), np.dtype(np.float64))

T = TypeVar("T")


def any_array(name: str, x: object, expected: str) -> Array:
    """Return ``x`` as an ndarray of any dtype; what cannot be one without loss is a TypeError."""
    if type(x) is np.ndarray:
        return x
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: expected {expected} without a mask of its own, which would be lost, "
            f"got a masked array {x.shape}; fill it with {name}.filled(...)"
        )
    if _has_fields(x):  # a context, whose arrays NumPy would stack
        raise TypeError(f"{name}: expected {expected}, got a {type(x).__name__}")
    try:
        return np.asarray(x)
    except ValueError as error:  # ragged nested lists
        raise TypeError(f"{name}: expected {expected}, got a ragged {type(x).__name__}") from error


def float_array(name: str, x: object) -> Array:
    """Return ``x`` as an ndarray of native float32 or float64, or raise TypeError."""
    array = any_array(name, x, "a float32 or float64 array")
    if array.dtype not in FLOATS or not array.dtype.isnative:
        raise TypeError(f"{name}: expected a float32 or float64 array, got {_dtype(array)}")
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
        raise TypeError(f"{name}: expected an integer array, got {_dtype(array)}")
    if array.dtype.kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise ValueError(f"{name}: expected values that fit int64, got {int(array.max())}")
    return array.astype(np.int64, copy=False)


def bool_array(name: str, x: object) -> Array:
    """Return ``x`` as a bool ndarray, or raise TypeError; integer masks are refused."""
    array = any_array(name, x, "a bool array (True = may attend)")
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


def needs(value: object, of: tuple[str, ...]) -> tuple[bool, ...]:
    """Return for each of the inputs ``of`` whether ``needs=value`` names it.

    Examples
    --------
    >>> from miniattn import _checks
    >>> _checks.needs(("bias", "x"), ("x", "weight", "bias"))
    (True, False, True)
    >>> _checks.needs(("wieght",), ("x", "weight", "bias"))
    Traceback (most recent call last):
        ...
    ValueError: needs: expected names of ('x', 'weight', 'bias'), got 'wieght'
    """
    if value is of:
        return (True,) * len(of)  # nearly always, at a quarter of the time of the checks below
    if isinstance(value, str | Mapping) or not isinstance(value, Collection):
        raise TypeError(f"needs: expected a tuple of names of {of}, got {shown(value)}")
    for name in value:
        if not isinstance(name, str):
            raise TypeError(f"needs: expected names of {of}, got {shown(name)}")
        if name not in of:
            raise ValueError(f"needs: expected names of {of}, got {brief(name)}")
    return tuple([name in value for name in of])


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


def choice(name: str, value: object, options: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``options``."""
    allowed = tuple(options)
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected one of {allowed}, got {shown(value)}")
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {allowed}, got {brief(value)}")
    return value


def generator(name: str, value: object) -> np.random.Generator:
    """Return ``value`` if it is a numpy Generator; seeds and the legacy RandomState are refused."""
    if not isinstance(value, np.random.Generator):
        raise TypeError(
            f"{name}: expected a numpy.random.Generator (np.random.default_rng(seed)), "
            f"got {shown(value)}"
        )
    return value


def instance(name: str, value: object, kind: type[T], *, optional: bool = False) -> T:
    """Return ``value`` if it is of the class ``kind``; None too if that is ``optional``."""
    if isinstance(value, kind) or (optional and value is None):
        return value  # type: ignore[return-value]
    expected = f"a {kind.__name__}" + (" or None" if optional else "")
    raise TypeError(f"{name}: expected {expected}, got {shown(value)}")


def sequence(name: str, value: object, of: str) -> Sequence[Any]:
    """Return ``value`` if it can be walked through by index; a string is not meant."""
    if isinstance(value, Sequence) and not (isinstance(value, str | bytes) or _has_fields(value)):
        return value
    if isinstance(value, np.ndarray) and value.ndim and not isinstance(value, np.ma.MaskedArray):
        return value  # type: ignore[return-value]
    raise TypeError(f"{name}: expected a sequence of {of}, got {shown(value)}")


def function(name: str, value: T) -> T:
    """Return ``value`` if it can be called."""
    if callable(value) and not isinstance(value, type):
        return value
    raise TypeError(f"{name}: expected a function, got {shown(value)}")


def having(name: str, value: T, *methods: str) -> T:
    """Return ``value`` if it has these methods, whatever its class is."""
    has_all = all(callable(getattr(value, method, None)) for method in methods)
    if has_all and not isinstance(value, type):
        return value
    raise TypeError(f"{name}: expected an object with {' and '.join(methods)}, got {shown(value)}")


def path(name: str, value: object) -> Path:
    """Return ``value`` as a path."""
    if isinstance(value, str | os.PathLike):
        return Path(value)
    raise TypeError(f"{name}: expected a path, got {shown(value)}")


def context(value: object, kind: type[T]) -> T:
    """Return the ``ctx`` of a backward if it comes from the forward that belongs to it.

    Pairs have contexts of like shape: taken in silence, that of another gives wrong gradients.
    """
    if type(value) is kind:
        if _checking.ON:
            _checking.unchanged(value)
        return value
    came = type(value).__name__ if _has_fields(value) else shown(value)
    raise TypeError(f"ctx: expected the {kind.__name__} of the forward to undo, got {came}")


def contexts(values: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    """Return the contexts of a stack of layers, if there are as many as layers."""
    if len(values) != count:
        raise ValueError(f"ctx: expected the contexts of {count} layers, got {len(values)}")
    return values


def gradient(name: str, value: object, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return ``value`` as an array with exactly the shape and dtype of the output it belongs to."""
    array = float_array(name, value)
    like(name, array, dtype, "the output")
    if array.shape != shape:
        raise ValueError(f"{name}: expected the shape of the output, {shape}, got {array.shape}")
    return array


class renamed:
    """Within it, an error of the argument ``old`` is one of the argument ``new=...`` names.

    For a caller that hands an argument on under another name: the width of a feed-forward is the
    ``out_features`` of a linear layer. It has no state: one made once can be used many times.

    Examples
    --------
    >>> from miniattn import _checks
    >>> with _checks.renamed(n="count"):
    ...     _checks.integer("n", 0, least=1)
    Traceback (most recent call last):
        ...
    ValueError: count: expected an int >= 1, got 0
    """

    def __init__(self, **names: str) -> None:
        self.names = names

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or type(error) not in (TypeError, ValueError) or not error.args:
            return
        name, colon, rest = str(error.args[0]).partition(": expected ")
        if colon and name in self.names:
            error.args = (f"{self.names[name]}{colon}{rest}",)


def _has_fields(value: object) -> bool:
    """Return whether a value is a NamedTuple, as contexts are."""
    return hasattr(value, "_fields")


def _dtype(array: Array) -> str:
    order = "" if array.dtype.isnative else "byte-swapped "
    return f"{order}{array.dtype.name}"


def shown(value: object) -> str:
    """Return what has come, for a message: the value and its kind, of arrays dtype and shape."""
    if isinstance(value, np.ndarray) and value.ndim:
        what = "a masked array" if isinstance(value, np.ma.MaskedArray) else "an array"
        return f"{what}, {_dtype(value)} {value.shape}"
    return f"{brief(value)} ({type(value).__name__})"


def brief(value: object) -> str:
    """Return the repr of a value, on one line and not longer than one."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python refuses to write out an int of thousands of digits
        return f"a number of {value.bit_length()} bits"  # type: ignore[attr-defined]
    return text if len(text) <= 80 else f"{text[:77]}..."


def _spell(names: list[str], sizes: Mapping[str, int]) -> str:
    letters = f"({', '.join(names)})"
    known = [f"{letter} = {sizes[letter]}" for letter in dict.fromkeys(names) if letter in sizes]
    return f"{letters} with {', '.join(known)}" if known else letters
