"""The part of a mask between the queries that one rank holds and the keys of another.

A mask is said by global positions. Query i of a stretch is at a + p·i, key j of another at b + p·j;
what is said of j - i becomes, with the same step p, what is said of the local ones::

    (b + p j) - (a + p i) <= hi    where    j - i <= floor((hi + a - b) / p)

and so for the lower bound, sinks and lengths. Bounds stay bounds: no T x S array is made.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from miniattn._typing import Array
from miniattn.distributed._layout import Stretch
from miniattn.masks import UNBOUNDED, Lowered, Mask
from miniattn.masks._lowered import split, with_tiles
from miniattn.masks._places import Pairs, Place
from miniattn.masks._program import Program, part_of


class Part(Mask):
    """What a mask over T x S says of some of the queries and keys, and of some of the heads."""

    __slots__ = ("heads", "keys", "mask", "queries", "sizes")

    def __init__(
        self,
        mask: Mask,
        sizes: tuple[int, int, int],
        queries: Stretch,
        keys: Stretch,
        heads: slice = slice(None),
    ) -> None:
        self.mask, self.sizes = mask, sizes  # heads, queries and keys of the whole
        self.queries, self.keys, self.heads = queries, keys, heads

    def __repr__(self) -> str:
        return f"{self.mask!r} of {self.queries} x {self.keys}"

    # Parts of one mask are equal: what was worked out for one serves for all.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Part) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        heads = self.heads.start, self.heads.stop
        return "part", self.mask._key(), self.sizes, self.queries, self.keys, heads

    def _has_function(self) -> bool:
        return self.mask._has_function()

    def _is_borrowed(self) -> bool:
        return self.mask._is_borrowed()

    def _fit(self, B: int, H: int, T: int, S: int) -> None:
        self.mask._fit(B, *self.sizes)

    def _lower(self, B: int, H: int, T: int, S: int) -> Lowered:
        form, rest = split(self.mask, B, *self.sizes[1:])
        q, k = self.queries, self.keys
        apart = q.start - k.start
        step = k.step
        hi = np.where(form.hi >= UNBOUNDED // 2, UNBOUNDED, (form.hi + apart) // step)
        lo = np.where(form.lo <= -UNBOUNDED // 2, -UNBOUNDED, -(-(form.lo + apart) // step))
        form = form._replace(
            lo=lo, hi=hi, sinks=_among(form.sinks, k), lengths=_among(form.lengths, k)
        )
        parts = (Part(rule, self.sizes, q, k, self.heads) for rule in rest)
        return with_tiles(self, tuple(parts), form, B, H, T, S)

    def _program(self, B: int, H: int, T: int, S: int) -> Program:
        whole = self.mask._program(B, *self.sizes)
        return part_of(whole, self.heads, self.queries.places, self.keys.places)

    def _sees(self, at: Pairs) -> Array:
        return self.mask._sees(Pairs(at.b, *self._places(at.h, at.i, at.j), *self.sizes[1:]))

    def _fact(self, at: Place) -> tuple[bool, str]:
        whole = self.sizes[2] - self.sizes[1]
        return self.mask._fact(Place(at.b, *self._places(at.h, at.i, at.j), whole))

    def _places(self, h: Any, i: Any, j: Any) -> tuple[Any, Any, Any]:
        """Return heads, queries and keys as they are numbered in the whole."""
        q, k = self.queries, self.keys
        return h + (self.heads.start or 0), q.start + q.step * i, k.start + k.step * j


def hides_all(mask: Part | None, shape: tuple[int, ...], key_shape: tuple[int, ...]) -> bool:
    """Return whether a block's bounds alone hide all of its keys from all of its queries."""
    B, H, T, _ = shape
    S = key_shape[2]
    if not (B and H and T and S):
        return True
    if mask is None:
        return False
    form = mask._lower(B, H, T, S)
    after, before = form.hi < 1 - T, (form.lo > S - 1) & (form.sinks <= 0)
    return bool((after | before | (form.lengths <= 0)).all())


def _among(first: Array, keys: Stretch) -> Array:
    """Return how many of the keys are among the ``first`` of all."""
    among: Array = np.clip(-(-(first - keys.start) // keys.step), 0, keys.length)
    return among
