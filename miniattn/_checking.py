"""Checking mode, `MINIATTN_CHECK=1`: what kernels and callers must not do is noticed and named.

Kernels work on addresses, and compiled code looks at no bounds. In this mode each launch is checked
from outside: that what its addresses say lies within the arrays they belong to, and that the bytes
before and after its results and its scratch memory are left alone. And a backward is told if an
array of its context was written to since the forward. What is wrong is a RuntimeError.

Off, which is the default, nothing of this runs; the mode is chosen when the package is imported.
"""

import functools
import os
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from miniattn._typing import Array, Shape

Class = TypeVar("Class", bound=type)

ON = os.environ.get("MINIATTN_CHECK", "0") == "1"

# --- Memory with canaries ------------------------------------------------------------------------

MARGIN = 256  # bytes of canaries before and after: some vectors
LINE = 64
_CANARIES = b"\xb5" * (MARGIN + LINE)  # neither 0, an infinity nor a NaN, which kernels do write


class Fenced(np.ndarray[Any, Any]):
    """Bytes for several pieces of memory, with canaries before and after each."""

    pieces = 0
    inside = 0  # bytes of a piece
    step = 0  # from one piece to the next

    def damaged(self) -> bool:
        """Return whether a canary is no more what it was."""
        memory = self.data
        for start in range(0, self.pieces * self.step, self.step):
            first, stop = start + MARGIN, start + self.step
            last = first + self.inside
            if memory[start:first] != _CANARIES[:MARGIN]:
                return True
            if memory[last:stop] != _CANARIES[: stop - last]:
                return True
        return False


def fenced(allocate: Callable[..., Any], pieces: int, inside: int) -> Fenced:
    """Return memory for pieces of ``inside`` bytes; the first begins after MARGIN bytes.

    ``allocate(shape, dtype, kind)`` returns an array of the class ``kind``.
    """
    step = 2 * MARGIN + -(-inside // LINE) * LINE
    memory: Fenced = allocate(pieces * step, np.uint8, Fenced)
    memory.pieces, memory.inside, memory.step = pieces, inside, step
    rows = memory.view(np.ndarray).reshape(pieces, step)
    rows[:, :MARGIN] = rows[:, MARGIN + inside :] = _CANARIES[0]
    return memory


def fences(launch: str, arrays: Iterable[object]) -> None:
    """Raise RuntimeError if a launch wrote beside one of the arrays that it was given."""
    for number, x in enumerate(arrays):
        owner = _owner(x) if isinstance(x, np.ndarray) else None
        if isinstance(owner, Fenced) and owner.damaged():
            raise RuntimeError(
                f"{launch}: expected to write to its memory alone, "
                f"got other bytes beside array {number}"
            )


def watched(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return the call of a kernel, which looks at the canaries of its arrays afterwards."""

    @functools.wraps(call)
    def watch(kernel: Any, *args: Any) -> Any:
        result = call(kernel, *args)
        fences(kernel.py_func.__name__, args)
        return result

    return watch


# --- Addresses -----------------------------------------------------------------------------------


def operand(name: str, x: Array, shape: Sequence[int], steps: Sequence[int]) -> None:
    """Raise RuntimeError unless a kernel that is told this reads elements of ``x`` and no others.

    Parameters
    ----------
    name : str
        What the array is called.
    x : ndarray
    shape : sequence of int
        How many entries the kernel takes there to be along each axis.
    steps : sequence of int
        How many elements it takes to lie between neighbours; 0 along what is broadcast.
    """
    if 0 in shape:
        return
    below, above, expected, came = _reach(
        tuple(shape), tuple(steps), x.shape, x.strides, x.itemsize
    )
    start, (low, high) = _address(x), _bounds(x)
    first, last = start + below, start + above
    if first < low or last > high:
        raise RuntimeError(
            f"{name}: expected addresses within its memory of {high - low} bytes, "
            f"got bytes {first - low} to {last - low} for shape {tuple(shape)}"
        )
    if expected != came:
        raise RuntimeError(f"{name}: expected neighbours {expected} bytes apart, got {came}")


@functools.lru_cache(1024)
def _reach(
    shape: Shape, steps: Shape, own: Shape, strides: Shape, size: int
) -> tuple[int, int, Shape, Shape]:
    """Return the first byte and the one after the last that are read, from the address on.

    And how many bytes lie between neighbours: in the array, and as the kernel takes it.
    """
    spans = [(n - 1) * step * size for n, step in zip(shape, steps, strict=True)]
    below = sum(span for span in spans if span < 0)
    above = sum(span for span in spans if span > 0) + size
    expected = tuple([stride if n > 1 else 0 for n, stride in zip(own, strides, strict=True)])
    came = tuple([step * size if n > 1 else 0 for n, step in zip(shape, steps, strict=True)])
    return below, above, expected, came


def contiguous(name: str, x: Array) -> None:
    """Raise RuntimeError unless a kernel may read ``x`` from its first address to its last."""
    flags = x.flags
    if not (flags.c_contiguous and flags.aligned and x.dtype.isnative):
        raise RuntimeError(
            f"{name}: expected an aligned, C-contiguous array, got strides {x.strides}"
        )
    if x.base is not None:  # else the memory is its own
        operand(name, x.reshape(-1), (x.size,), (1,))


def _owner(x: Array) -> Array:
    """Return the array whose memory ``x`` is a view of."""
    while not isinstance(x, Fenced):
        below: Any = x.base
        while below is not None and not isinstance(below, np.ndarray):
            below = _held_by(below)
        if below is None:
            break
        x = below
    return x


def _held_by(view: object) -> object:
    """Return what a memoryview, or what stands for an array that is seen otherwise, is of."""
    found = (getattr(view, name, None) for name in ("base", "obj", "owner"))
    return next((x for x in found if x is not None), None)


def _address(x: Array) -> int:
    return int(x.__array_interface__["data"][0])


def _bounds(x: Array) -> tuple[int, int]:
    """Return the first address of the memory that ``x`` is a view of, and the one behind it."""
    owner = _owner(x)
    start = _address(owner)
    if isinstance(owner, Fenced):
        return start + MARGIN, start + MARGIN + owner.inside
    if owner.size == 0:
        return start, start
    spans = [(n - 1) * stride for n, stride in zip(owner.shape, owner.strides, strict=True)]
    low = start + sum(span for span in spans if span < 0)
    return low, start + sum(span for span in spans if span > 0) + owner.itemsize


# --- Contexts ------------------------------------------------------------------------------------

REMEMBERED = 10_000  # contexts, of which most are gone
_WHOLE = 2**20  # bytes up to which a checksum is of all numbers, and not of a sample


class _Seal(NamedTuple):
    """What an array of a context held when the context was made."""

    name: str
    array: weakref.ref[Array]
    checksum: int


_seals: OrderedDict[int, list[_Seal]] = OrderedDict()


def sealing(cls: Class) -> Class:
    """Let a context remember what its arrays hold, most of which it shares with the caller."""
    make = cls.__new__

    @functools.wraps(make)
    def new(kind: Any, *args: Any, **named: Any) -> Any:
        ctx = make(kind, *args, **named)
        _seals[id(ctx)] = [
            _Seal(name, weakref.ref(x), _checksum(x))
            for name, x in zip(ctx._fields, ctx, strict=True)
            if isinstance(x, np.ndarray)
        ]
        if len(_seals) > REMEMBERED:
            _seals.popitem(last=False)
        return ctx

    cls.__new__ = new  # type: ignore[method-assign, assignment]
    return cls


def unchanged(ctx: Any) -> None:
    """Raise RuntimeError if an array of a context was written to since the forward."""
    for name, array, checksum in _seals.get(id(ctx), ()):
        x = getattr(ctx, name, None)
        if x is None or array() is not x:
            return  # another context's, which is gone
        if _checksum(x) != checksum:
            raise RuntimeError(
                f"ctx.{name}: expected the numbers that the forward left, got others: "
                "it shares memory with an input or the output, which was written to since. "
                "Write to a copy"
            )


def _checksum(x: Any) -> int:
    if x.nbytes > _WHOLE:
        x = x.reshape(-1)[:: x.nbytes // _WHOLE + 1] if x.flags.c_contiguous else x[..., ::7]
    return zlib.crc32(np.ascontiguousarray(x).data)
