"""Patterns of sparse attention: prefix, global tokens, gaps, neighbours on a grid.

A query stands at position i + offset among the keys, by default i + S - T: as in `causal`, the last
query is aligned with the last key.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miniattn import _checks
from miniattn._typing import Array
from miniattn.masks._arguments import (
    LARGEST,
    PerRow,
    brief,
    checked_lengths,
    checked_offset,
    fit_lengths,
    fit_offset,
    frozen,
    index,
    offset_at,
    offset_of,
    offsets,
    rows_of,
    total,
    with_offset,
)
from miniattn.masks._mask import Mask
from miniattn.masks._places import Pairs, Place, Sizes
from miniattn.masks._program import All, Interval, Program


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Placed(Mask):
    """A mask that knows where among the keys a query stands."""

    offset: int | Array | None
    token: object = field(default_factory=object)

    def _fit(self, B: int, H: int, T: int, S: int) -> None:
        fit_offset(self.offset, B)

    def _sizes(self) -> Sizes:
        return Sizes(rows_of(self.offset), None, None, None)

    def _key(self) -> Any:
        return self.token

    def _positions(self, at: Pairs) -> Array:
        return np.asarray(at.i + offset_of(self.offset, at.b, at.T, at.S))

    def _all_positions(self, T: int, S: int) -> Array:
        """Return the positions of all queries, (1 or B, T)."""
        return np.arange(T) + offsets(self.offset, T, S)[:, None]


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True)
class _Prefix(_Placed):
    lengths: Array

    def __repr__(self) -> str:
        return f"prefix({with_offset(brief(self.lengths), self.offset)})"

    def _fit(self, B: int, H: int, T: int, S: int) -> None:
        fit_lengths(self.lengths, B, S)
        fit_offset(self.offset, B)

    def _sizes(self) -> Sizes:
        return Sizes(len(self.lengths), None, None, None)

    def _sees(self, at: Pairs) -> Array:
        return np.asarray((at.j <= self._positions(at)) | (at.j < self.lengths[at.b]))

    def _program(self, B: int, H: int, T: int, S: int) -> Program:
        end = np.maximum(self._all_positions(T, S) + 1, self.lengths[:, None])
        return Interval(np.zeros_like(end), end, np.arange(S)[None])

    def _fact(self, at: Place) -> tuple[bool, str]:
        length = int(self.lengths[index("b", at.b, len(self.lengths))])
        place, words, remark = offset_at(self.offset, at.b, at.i, at.end_offset)
        if at.j < length:
            return True, f"key {at.j} is among the first {length} keys of row {at.b}"
        words = total(words, place)
        if at.j <= place:
            return True, f"key {at.j} is not after {words}{remark}"
        prefix = f"not among the first {length} keys of row {at.b}"
        return False, f"key {at.j} is after {words}, and {prefix}{remark}"


def prefix(lengths: Sequence[int] | NDArray[np.integer[Any]], offset: PerRow | None = None) -> Mask:
    """Let all see a prefix, and the rest be causal: j < lengths[b] or j <= i + offset.

    Parameters
    ----------
    lengths : (B,) ints >= 0
        How many keys of each batch row are its prefix.
    offset : int or (B,) ints, optional
        As in `causal`: None means S - T.

    Returns
    -------
    Mask

    Raises
    ------
    TypeError, ValueError
        If ``lengths`` is not one int >= 0 for each batch row. A length that is greater than S
        is a ValueError when the mask is used.

    References
    ----------
    Raffel et al. "Exploring the Limits of Transfer Learning" (T5, 2020), section 3.2.1.

    Examples
    --------
    >>> from miniattn import masks
    >>> masks.prefix([2]).to_array(B=1, H=1, T=4, S=4)[0, 0].astype(int)
    array([[1, 1, 0, 0],
           [1, 1, 0, 0],
           [1, 1, 1, 0],
           [1, 1, 1, 1]])
    """
    return _Prefix(checked_offset(offset), lengths=checked_lengths(lengths))


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True)
class _Globals(_Placed):
    tokens: Array

    def __repr__(self) -> str:
        return f"globals({with_offset(brief(self.tokens), self.offset)})"

    def _sees(self, at: Pairs) -> Array:
        return np.asarray(np.isin(self._positions(at), self.tokens) | np.isin(at.j, self.tokens))

    def _program(self, B: int, H: int, T: int, S: int) -> Program:
        looks = np.isin(self._all_positions(T, S), self.tokens)
        first = np.where(looks, 0, 1)
        codes = np.isin(np.arange(S), self.tokens).astype(np.int64)
        return Interval(first, np.full_like(first, 2), codes[None])

    def _fact(self, at: Place) -> tuple[bool, str]:
        place, words, remark = offset_at(self.offset, at.b, at.i, at.end_offset)
        if at.j in self.tokens:
            return True, f"key {at.j} is a global token"
        if place in self.tokens:
            return True, f"{total(words, place)} is a global token{remark}"
        return False, f"neither {total(words, place)} nor key {at.j} is a global token{remark}"


def globals(tokens: Sequence[int] | NDArray[np.integer[Any]], offset: PerRow | None = None) -> Mask:
    """Let some tokens see all, and all see them: key or query is one of ``tokens``.

    Parameters
    ----------
    tokens : (n,) ints >= 0
        Positions of the global tokens, in every batch row.
    offset : int or (B,) ints, optional
        Query i stands at position i + offset; None means S - T, as in `causal`.

    Returns
    -------
    Mask

    Raises
    ------
    TypeError, ValueError
        If ``tokens`` are not ints >= 0.

    See Also
    --------
    window : ``masks.window(w, w) | masks.globals(tokens)`` is the Longformer's.

    References
    ----------
    Beltagy, Peters, Cohan. "Longformer: The Long-Document Transformer" (2020), section 3.1.

    Examples
    --------
    >>> from miniattn import masks
    >>> mask = masks.window(0, 0) | masks.globals([1])
    >>> mask.to_array(B=1, H=1, T=4, S=4)[0, 0].astype(int)
    array([[1, 1, 0, 0],
           [1, 1, 1, 1],
           [0, 1, 1, 0],
           [0, 1, 0, 1]])
    """
    array = _checks.int_array("tokens", tokens)
    _checks.shape("tokens", array, "n")
    if array.size and array.min() < 0:
        raise ValueError(f"tokens: expected ints >= 0, got {array.min()}")
    return _Globals(checked_offset(offset), tokens=frozen(array))


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True)
class _Dilated(_Placed):
    step: int

    def __repr__(self) -> str:
        return f"dilated({with_offset(str(self.step), self.offset)})"

    def _key(self) -> Any:
        offset = self.offset
        return "dilated", self.step, getattr(offset, "tobytes", lambda: offset)()

    def _sees(self, at: Pairs) -> Array:
        return np.asarray((at.j - self._positions(at)) % self.step == 0)

    def _program(self, B: int, H: int, T: int, S: int) -> Program:
        first = self._all_positions(T, S) % self.step
        return Interval(first, first + 1, (np.arange(S) % self.step)[None])

    def _fact(self, at: Place) -> tuple[bool, str]:
        place, words, remark = offset_at(self.offset, at.b, at.i, at.end_offset)
        seen = (at.j - place) % self.step == 0
        words = f"{total(words, place)} and key {at.j} are {abs(at.j - place)} apart"
        return seen, f"{words}, {'a' if seen else 'no'} multiple of {self.step}{remark}"


def dilated(step: int, offset: PerRow | None = None) -> Mask:
    """Leave gaps: key j is visible iff j and i + offset are a multiple of ``step`` apart.

    Parameters
    ----------
    step : int >= 1
        Every how many keys one is visible.
    offset : int or (B,) ints, optional
        Where query 0 is, as in `causal`.

    Returns
    -------
    Mask

    Raises
    ------
    TypeError, ValueError
        If ``step`` is not an int >= 1.

    References
    ----------
    Child et al. "Generating Long Sequences with Sparse Transformers" (2019), section 4.2.

    Examples
    --------
    >>> from miniattn import masks
    >>> (masks.dilated(2) & masks.causal()).to_array(B=1, H=1, T=4, S=4)[0, 0].astype(int)
    array([[1, 0, 0, 0],
           [0, 1, 0, 0],
           [1, 0, 1, 0],
           [0, 1, 0, 1]])
    """
    number = _checks.integer("step", step, least=1)
    if number > LARGEST:
        raise ValueError(f"step: expected at most {LARGEST}, got {number}")
    return _Dilated(checked_offset(offset), step=number)


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True)
class _Neighbourhood(_Placed):
    shape: tuple[int, ...]
    radius: tuple[int, ...]

    def __repr__(self) -> str:
        radius = self.radius[0] if len(set(self.radius)) == 1 else self.radius
        return f"neighbourhood({with_offset(f'{self.shape}, {radius}', self.offset)})"

    def _fit(self, B: int, H: int, T: int, S: int) -> None:
        fit_offset(self.offset, B)
        if math.prod(self.shape) < S:
            raise ValueError(f"shape: expected room for S = {S} keys, got {self.shape}")

    def _key(self) -> Any:
        offset = self.offset
        own = getattr(offset, "tobytes", lambda: offset)()
        return "neighbourhood", self.shape, self.radius, own

    def _coordinates(self, positions: Array) -> tuple[Array, tuple[Array, ...]]:
        """Return which positions are on the grid, and the coordinates of all."""
        inside = (positions >= 0) & (positions < math.prod(self.shape))
        return inside, np.unravel_index(np.where(inside, positions, 0), self.shape)

    def _sees(self, at: Pairs) -> Array:
        seen, queries = self._coordinates(self._positions(at))
        _, keys = self._coordinates(at.j)
        for q, k, radius in zip(queries, keys, self.radius, strict=True):
            seen = seen & (abs(q - k) <= radius)
        return np.asarray(seen)

    def _program(self, B: int, H: int, T: int, S: int) -> Program:
        inside, queries = self._coordinates(self._all_positions(T, S))
        _, keys = self._coordinates(np.arange(S)[None])
        return All(
            tuple(
                Interval(q - radius, np.where(inside, q + radius + 1, q - radius), k)
                for q, k, radius in zip(queries, keys, self.radius, strict=True)
            )
        )

    def _fact(self, at: Place) -> tuple[bool, str]:
        place, words, remark = offset_at(self.offset, at.b, at.i, at.end_offset)
        words = total(words, place)
        if not 0 <= place < math.prod(self.shape):
            return False, f"{words} is not on the grid{remark}"
        q, k = (
            tuple(map(int, np.unravel_index(index(name, x, math.prod(self.shape)), self.shape)))
            for name, x in (("i", place), ("j", at.j))
        )
        far = [abs(a - b) <= r for a, b, r in zip(q, k, self.radius, strict=True)]
        beyond = ", ".join(f"axis {axis}" for axis, near in enumerate(far) if not near)
        where = f"{words} is at {q}, key {at.j} at {k}"
        return all(far), f"{where}: {f'too far along {beyond}' if beyond else 'near'}{remark}"


def neighbourhood(
    shape: Sequence[int], radius: int | Sequence[int], offset: PerRow | None = None
) -> Mask:
    """Show what is near on a grid: along every axis at most ``radius`` away.

    Parameters
    ----------
    shape : ints >= 1
        Of the grid, (rows, columns) for patches of a picture. Tokens are its places in C order.
    radius : int >= 0, or one for each axis
        At the edge a neighbourhood is smaller: nothing is moved inwards.
    offset : int or (B,) ints, optional
        As in `causal`: None means S - T.

    Returns
    -------
    Mask

    Raises
    ------
    TypeError, ValueError
        If shape and radius are not such ints. More keys than places are a ValueError when the mask
        is used.

    References
    ----------
    Hassani et al. "Neighborhood Attention Transformer" (2023), section 3.1.

    Examples
    --------
    >>> from miniattn import masks
    >>> mask = masks.neighbourhood((3, 4), 1)
    >>> mask.to_array(B=1, H=1, T=12, S=12)[0, 0, 5].reshape(3, 4).astype(int)
    array([[1, 1, 1, 0],
           [1, 1, 1, 0],
           [1, 1, 1, 0]])
    """
    sizes = tuple(
        _checks.integer("shape", n, least=1) for n in _checks.sequence("shape", shape, "ints")
    )
    if not sizes or math.prod(sizes) > LARGEST:
        raise ValueError(f"shape: expected 1 to {LARGEST} places, got {sizes}")
    each = [radius] * len(sizes) if isinstance(radius, int | np.integer) else radius
    far = tuple(
        _checks.integer("radius", n, least=0) for n in _checks.sequence("radius", each, "ints")
    )
    if len(far) != len(sizes):
        raise ValueError(f"radius: expected one for each of {len(sizes)} axes, got {far}")
    near = tuple(min(n, LARGEST) for n in far)
    return _Neighbourhood(checked_offset(offset), shape=sizes, radius=near)
