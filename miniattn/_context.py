"""Contexts: what a forward leaves for its backward, shown as a short tree of names and shapes."""

import itertools
from collections.abc import Iterator, Sequence
from typing import TypeGuard, TypeVar

import numpy as np

from miniattn import _checking

Class = TypeVar("Class", bound=type)

LINE = 100  # columns up to which a context stands on one line
WORD = 60  # characters of a value that is neither array nor context


def context(cls: Class) -> Class:
    """Give the NamedTuple that a forward returns a repr without the numbers of its arrays.

    A model's context holds every intermediate of a call: written out, that of a toy takes hundreds
    of thousands of characters. Layers that look the same are written once.

    Examples
    --------
    >>> import numpy as np
    >>> import miniattn.functional as F
    >>> F.softmax_forward(np.zeros((2, 3)))[1]
    SoftmaxContext(y=float64 (2, 3), axis=1, temperature=1.0)
    """
    cls.__repr__ = _text  # type: ignore[method-assign, assignment]
    return _checking.sealing(cls) if _checking.ON else cls


def _text(ctx: object) -> str:
    return "\n".join(_lines(ctx))


def _lines(value: object) -> list[str]:
    """Return what is shown of a value; what belongs to it is indented below its first line."""
    if isinstance(value, np.ndarray):
        return [f"{value.dtype.name} {value.shape}"]
    if isinstance(value, np.dtype):
        return [value.name]
    if not _has_parts(value):
        return [_shortened(repr(value))]
    name = type(value).__name__
    parts = list(_parts(value))
    if all(len(lines) == 1 for _, lines in parts):
        line = f"{name}({', '.join(f'{label}={lines[0]}' for label, lines in parts)})"
        if len(line) <= LINE:
            return [line]
    below = []
    for nothing, some in itertools.groupby(parts, key=lambda part: part[1] == ["None"]):
        if nothing:  # neighbours that are None share a line
            below.append(f"  {', '.join(label for label, _ in some)}: None")
        else:
            below += [
                f"  {text}"
                for label, (first, *more) in some
                for text in (f"{label}: {first}", *more)
            ]
    return [name, *below]


def _parts(value: Sequence[object]) -> Iterator[tuple[str, list[str]]]:
    """Yield the label and the lines of each part, ``layers.0-3`` for parts that look the same."""
    names = getattr(value, "_fields", None)
    if names is None:
        yield from _alike("", value)
        return
    for name, part in zip(names, value, strict=True):
        if _has_parts(part) and not hasattr(part, "_fields"):
            yield from _alike(f"{name}.", part)
        else:
            yield name, _lines(part)


def _alike(prefix: str, parts: Sequence[object]) -> Iterator[tuple[str, list[str]]]:
    start = 0
    for lines, same in itertools.groupby(map(_lines, parts)):
        end = start + len(list(same)) - 1
        yield f"{prefix}{start}" if start == end else f"{prefix}{start}-{end}", lines
        start = end + 1


def _has_parts(value: object) -> TypeGuard[Sequence[object]]:
    """Return whether to look into a value: contexts, and sequences of such or of arrays."""
    if not isinstance(value, tuple | list):
        return False
    return hasattr(value, "_fields") or any(
        isinstance(part, np.ndarray) or _has_parts(part) for part in value
    )


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= WORD else f"{line[: WORD - 3]}..."
