"""Arguments of masks: checked, copied, and put into words."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from miniattn import _checks
from miniattn._typing import Array

PerRow: TypeAlias = int | Sequence[int] | NDArray[np.integer[Any]]
"""An int, or one for each batch row."""

UNBOUNDED = 2**40
"""Stands for infinity in `Lowered.lo` (negative) and `Lowered.hi`."""

LARGEST = UNBOUNDED // 4  # of a given number: sums of two or three stay short of UNBOUNDED


def checked_offset(offset: object) -> int | Array | None:
    """Return an offset as an int, as (B,) int64, or as None."""
    if offset is None or isinstance(offset, int | np.integer):
        return None if offset is None else small("offset", _checks.integer("offset", offset))
    array = _checks.int_array("offset", offset)
    _checks.shape("offset", array, "B")
    for extreme in (array.min(), array.max()) if array.size else ():
        small("offset", int(extreme))
    return frozen(array)


def bound(name: str, value: int | None) -> int | None:
    """Return a bound >= 0, or None."""
    if value is None:
        return None
    number = _checks.integer(name, value)
    if number < 0:
        raise ValueError(f"{name}: expected an int >= 0, or None for no bound, got {number}")
    return small(name, number)


def small(name: str, number: int) -> int:
    """Return a number if it is far from UNBOUNDED."""
    if abs(number) > LARGEST:
        raise ValueError(f"{name}: expected at most {LARGEST} in size, got {number}")
    return number


def checked_lengths(lengths: object) -> Array:
    """Return lengths as (B,) ints >= 0."""
    array = _checks.int_array("lengths", lengths)
    _checks.shape("lengths", array, "B")
    if array.size and array.min() < 0:
        row = int(array.argmin())
        raise ValueError(f"lengths: expected ints >= 0, got {array[row]} in row {row}")
    return frozen(array)


def fit_lengths(lengths: Array, B: int, S: int) -> None:
    """Raise ValueError unless there is one length for each batch row, of at most S."""
    _checks.shape("lengths", lengths, "B", {"B": B})
    if B and lengths.max() > S:
        row = int(lengths.argmax())
        raise ValueError(f"lengths: expected at most S = {S}, got {lengths[row]} in row {row}")


def fit_offset(offset: int | Array | None, B: int) -> None:
    """Raise ValueError unless an offset is one for all batch rows, or for each."""
    if isinstance(offset, np.ndarray):
        _checks.shape("offset", offset, "B", {"B": B})


def offsets(offset: int | Array | None, T: int, S: int) -> Array:
    """Return the offsets (1,) or (B,); None means S - T."""
    return np.atleast_1d(S - T if offset is None else offset).astype(np.int64)


def offset_of(offset: int | Array | None, b: Array, T: int, S: int) -> Array | int:
    """Return the offset of each of the batch rows ``b``."""
    if isinstance(offset, np.ndarray):
        return offset[b]
    return S - T if offset is None else offset


def offset_at(
    offset: int | Array | None, b: int, i: int, end_offset: int | None
) -> tuple[int, str, str]:
    """Return where a query stands among the keys, in words too, and a remark on the offset."""
    remark = ""
    if isinstance(offset, np.ndarray):
        number = int(offset[index("b", b, len(offset))])
    elif offset is not None:
        number = offset
    else:
        number = end_offset or 0
        remark = " (taking T = S)" if end_offset is None else ""
    return i + number, f"query {i}" + (f" + offset {number}" if number else ""), remark


def rows_of(offset: int | Array | None) -> int | None:
    """Return B where an offset has one for each row."""
    return len(offset) if isinstance(offset, np.ndarray) else None


def index(name: str, value: int, size: int | None) -> int:
    """Return an index in [0, size)."""
    number = _checks.integer(name, value, least=0)
    if size is not None and number >= size:
        raise ValueError(f"{name}: expected an index in [0, {size}), got {number}")
    return number


def frozen(array: Array) -> Array:
    """Return a read-only copy: a mask does not change when the caller's array does."""
    copy = np.array(array, order="C")
    copy.flags.writeable = False
    return copy


def brief(value: int | Array) -> str:
    """Return a short array in full, and a long one as its kind and shape."""
    if isinstance(value, int) or value.size <= 8:
        return str(value if isinstance(value, int) else value.tolist())
    return f"int{list(value.shape)}"


def with_offset(arguments: str, offset: int | Array | None) -> str:
    """Return the arguments of a repr, with the offset where one was given."""
    if offset is None:
        return arguments
    return ", ".join(filter(None, (arguments, f"offset={brief(offset)}")))


def total(terms: str, number: int) -> str:
    """Return ``terms = number``, or the terms alone where there is but one."""
    return f"{terms} = {number}" if " + " in terms or " - " in terms else terms
