"""Masks that are bool arrays."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from miniattn import _checks
from miniattn._typing import Array, Shape
from miniattn.masks._arguments import frozen, index
from miniattn.masks._mask import Mask
from miniattn.masks._places import Pairs, Place, Sizes
from miniattn.masks._program import Entries, Program

_SMALL = 2**14  # bytes up to which an array is known by what it says


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Dense(Mask):
    """A bool array: a copy of it, or for the time of a call the caller's own."""

    array: Array
    borrowed: bool = False
    token: object = field(default_factory=object)

    def __repr__(self) -> str:
        return f"bool{list(self.array.shape)}"

    def _fit(self, B: int, H: int, T: int, S: int) -> None:
        full = (B, H, T, S)
        try:
            _checks.broadcastable("mask", self.array, "B, H, T, S", full)
        except ValueError as error:
            raise ValueError(f"{error}{_shape_hint(self.array.shape, full)}") from None

    def _sizes(self) -> Sizes:
        return Sizes(*(n if n > 1 else None for n in _four_axes(self.array).shape))

    def _key(self) -> Any:
        if self.array.nbytes > _SMALL:
            return self.token
        return self.array.shape, self.array.tobytes()

    def _is_borrowed(self) -> bool:
        return self.borrowed

    def _sees(self, at: Pairs) -> Array:
        array = _four_axes(self.array)
        indices = (at.b, at.h, at.i, at.j)
        entry = tuple(0 if n == 1 else x for n, x in zip(array.shape, indices, strict=True))
        return np.asarray(array[entry])

    def _program(self, B: int, H: int, T: int, S: int) -> Program:
        return Entries(_unstretched(_four_axes(self.array)))

    def _fact(self, at: Place) -> tuple[bool, str]:
        given = list(zip("bhij", at[:4], strict=True))[4 - self.array.ndim :]
        entry = tuple(
            0 if size == 1 else index(name, value, size)
            for (name, value), size in zip(given, self.array.shape, strict=True)
        )
        seen = bool(self.array[entry])
        return seen, f"its entry {list(entry)} is {seen}"


def _unstretched(array: Array) -> Array:
    """Return an array without the repetitions of np.broadcast_to: axes of stride 0."""
    again = [n > 1 and step == 0 for n, step in zip(array.shape, array.strides, strict=True)]
    return array[tuple(slice(1) if each else slice(None) for each in again)]


def _four_axes(array: Array) -> Array:
    return array.reshape((1,) * (4 - array.ndim) + array.shape)


def as_mask(mask: object) -> Mask | None:
    """Return a mask from a `Mask`, a bool array (True = may attend) or None (nothing hidden).

    A bool array broadcasts to (B, H, T, S) from the right as in NumPy. The mask keeps a copy.

    Raises
    ------
    TypeError
        If ``mask`` is something else; an integer array is refused, because frameworks disagree
        on what its 0 and 1 mean.
    ValueError
        If the array has more than four axes.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import masks
    >>> masks.as_mask(np.ones((5, 7), dtype=bool)) & masks.causal()
    bool[5, 7] & causal()
    """
    if mask is None or isinstance(mask, Mask):
        return mask
    if callable(mask) or isinstance(mask, str | bool | int | float):
        raise TypeError(
            f"mask: expected a Mask such as masks.causal(), a bool array (True = may attend) "
            f"or None, got {mask!r}"
        )
    array = _bool_array(mask)
    # A copy of what np.broadcast_to has repeated would be as large as it looks.
    return Dense(np.broadcast_to(frozen(_unstretched(array)), array.shape))


def borrowed(mask: object) -> Mask | None:
    """Return the same without a copy of a large array, for a mask that a call uses at once.

    A backward sees what the array was in the forward, because its tile map is kept with the mask.
    """
    if isinstance(mask, np.ndarray) and mask.nbytes > _SMALL:
        return Dense(_bool_array(mask), True)
    return as_mask(mask)


def _bool_array(mask: object) -> Array:
    array = _checks.bool_array("mask", mask)
    if array.ndim > 4:
        raise ValueError(
            f"mask: expected a shape that broadcasts to (B, H, T, S), got {array.shape}"
        )
    return array


def _shape_hint(shape: Shape, full: Shape) -> str:
    B, _, T, S = full
    if shape == (B, S):
        return (
            "; for a (B, S) mask of real keys use masks.padding(lengths) or mask[:, None, None, :]"
        )
    if shape == (B, T, S):
        return "; for a (B, T, S) mask use mask[:, None]"
    return ""
