"""Everything else: choices, contexts, sequences, functions, paths."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from miniattn import _checking
from miniattn._checks.words import brief, has_fields, shown

T = TypeVar("T")


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
    if type(value) is tuple or type(value) is list:  # nearly always, and known in no time
        return value
    if isinstance(value, Sequence) and not (isinstance(value, str | bytes) or has_fields(value)):
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
    came = type(value).__name__ if has_fields(value) else shown(value)
    raise TypeError(f"ctx: expected the {kind.__name__} of the forward to undo, got {came}")


def contexts(values: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    """Return the contexts of a stack of layers, if there are as many as layers."""
    if len(values) != count:
        raise ValueError(f"ctx: expected the contexts of {count} layers, got {len(values)}")
    return values


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
