"""A user's function of scores on its way into the kernels: compiled, with the door laid out."""

import struct
from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numba
import numpy as np
from numpy.typing import NDArray

from miniattn._typing import Array
from miniattn.kernels.attention.functions import (
    FAILED,
    FEW,
    TABLES,
    backward_by_distance,
    backward_loop,
    forward_by_distance,
    forward_loop,
)
from miniattn.kernels.compile.tables import address_of
from miniattn.kernels.compile.user import Code, Frozen, compiled, frozen, table_type
from miniattn.kernels.registers import WORDS, Pointer
from miniattn.scores import Score, ScoreFunction
from miniattn.scores._function import Table

_OPTIONS = {"boundscheck": True}  # an index out of range is an error, and never somebody's memory
_SUMS = _OPTIONS | {"fastmath": {"reassoc", "contract", "nsz"}}  # gradients of tables, in any order
_SUM = np.dtype(np.float64)  # of the gradients of tables, which add up over all pairs


_known: WeakKeyDictionary[ScoreFunction, dict[Any, list[Code]]] = WeakKeyDictionary()
"""What has been compiled of functions."""


def backward_half(score: Score) -> Callable[..., Any]:
    """Return the backward half of a score's function, which need not have one."""
    function = score.function
    if function.backward_half is None:
        raise TypeError(
            f"score: expected a function with a backward half, got {function.name} without; "
            f"write one under @{function.name}.backward"
        )
    return function.backward_half


def learned(score: Score) -> list[Array]:
    """Return those tables that have a gradient."""
    return [x for x in score.tables if isinstance(x, np.ndarray) and x.dtype.kind == "f"]


class Door(NamedTuple):
    """What kernels are told of a score, and what has to live as long as they run."""

    words: NDArray[np.int64]
    sums: int
    """How many numbers the gradients of its tables have."""
    alive: tuple[Any, ...]


def door(score: Score, dtype: np.dtype[Any], B: int, backward: bool) -> Door:
    """Return the door to a score for queries of ``dtype``."""
    tables = [_as_operand(table, dtype) for table in score.tables]
    sizes = [x.size for x in learned(score)]
    codes = _codes(score, dtype, tables, backward)
    shift = None
    if score.shift is not None:
        shift = np.ascontiguousarray(np.broadcast_to(score.shift, B))
    words = [code.address for code in codes] + [0] * (2 - len(codes))
    words += [0 if shift is None else address_of(shift), sum(sizes), 0]
    for table in tables:
        words += _described(table)
    start = 0
    for table in learned(score):
        words += [start * _SUM.itemsize, *_padded(table.shape)]
        start += table.size
    assert TABLES == FAILED + 1
    return Door(np.array(words, np.int64), sum(sizes), (tables, codes, shift))


def raise_failure(door: Door, score: Score) -> None:
    """Raise IndexError if the function raised anything, as machine code does it: in silence."""
    if door.words[FAILED]:
        raise IndexError(
            f"score: {score.function.name} raised an error for some pair of query and key; "
            "expected indices within its tables"
        )


def gradients(score: Score, sums: Array, dtype: np.dtype[Any]) -> tuple[Array | None, ...]:
    """Return the gradient of each table from the parts (pieces, numbers), added in their order."""
    with np.errstate(over="ignore"):
        whole = sums.sum(axis=0).astype(dtype)
    found: list[Array | None] = []
    start = 0
    for table in score.tables:
        if isinstance(table, np.ndarray) and table.dtype.kind == "f":
            found.append(whole[start : start + table.size].reshape(table.shape).copy())
            start += table.size
        else:
            found.append(None)
    return tuple(found)


def _as_operand(table: Table, dtype: np.dtype[Any]) -> Any:
    """Return a table as the function sees it: C-contiguous, and floats of the queries' dtype."""
    if not isinstance(table, np.ndarray):
        return table
    if table.size == 0:  # what is looked up there is the entry that an array has at least
        return np.zeros(table.shape, table.dtype)
    if table.dtype.kind == "f":
        return np.ascontiguousarray(table, dtype)
    return np.ascontiguousarray(table, table.dtype.newbyteorder("="))


def _described(table: Any) -> list[int]:
    """Return the words of a table, or of a number."""
    if isinstance(table, np.ndarray):
        return [address_of(table), *_padded(table.shape)]
    if isinstance(table, float):
        return [struct.unpack("q", struct.pack("d", table))[0]] + [0] * (WORDS - 1)
    return [int(table)] + [0] * (WORDS - 1)


def _padded(shape: tuple[int, ...]) -> list[int]:
    return [*shape, *[0] * (WORDS - 1 - len(shape))]


def _codes(score: Score, dtype: np.dtype[Any], tables: list[Any], backward: bool) -> list[Code]:
    """Return the compiled loops, forward and, if asked for, backward."""
    function = score.function
    halves = [function.forward] if function.bias is None else [function.forward, function.bias]
    if backward:
        halves.append(backward_half(score))
        halves += [] if function.bias_backward is None else [function.bias_backward]
    now = tuple(frozen(half, "score") for half in halves)
    kinds = tuple((x.dtype.char, x.ndim) if isinstance(x, np.ndarray) else type(x) for x in tables)
    few = sum(x.size for x in learned(score)) <= FEW
    key = dtype, few, kinds, tuple(f.fingerprint for f in now)
    known = _known.setdefault(function, {})
    codes = known.get(key)
    if codes is None:
        given = [_kind(x, dtype) for x in tables]
        each = 1 if function.bias is None else 2
        codes = known[key] = _compile(now, given, dtype, few, each)
    return codes


def _compile(
    now: tuple[Frozen, ...], given: list[Any], dtype: np.dtype[Any], few: bool, each: int
) -> list[Code]:
    """Compile the halves, of which ``each`` consists of so many functions."""
    kinds = tuple(given)
    words, numbers = Pointer(numba.int64), Pointer(numba.from_dtype(dtype))
    arguments = (words, words, numbers, numbers, Pointer(numba.float64))
    forward, backward = (
        (forward_loop, backward_loop) if each == 1 else (forward_by_distance, backward_by_distance)
    )
    codes = [compiled(forward, now[:each], arguments, "score", (kinds,), **_OPTIONS)]
    if len(now) > each:
        sums = tuple(
            numba.types.Array(numba.float64, kind.ndim, "C")
            for kind in kinds
            if isinstance(kind, numba.types.Array) and isinstance(kind.dtype, numba.types.Float)
        )
        codes.append(
            compiled(backward, now[each:], arguments, "score", (kinds, sums, few), **_SUMS)
        )
    return codes


def _kind(table: Any, dtype: np.dtype[Any]) -> Any:
    """Return the type of a table, or of a number."""
    if isinstance(table, np.ndarray):
        return table_type(table)
    return numba.from_dtype(dtype) if isinstance(table, float) else numba.int64
