"""The part of a mask between the queries that one rank holds and the keys of another.

A mask is said by global positions. Query i of a stretch is at a + p·i, key j of another at b + p·j;
what is said of j - i becomes, with the same step p, what is said of the local ones::

    (b + p j) - (a + p i) <= hi    where    j - i <= floor((hi + a - b) / p)

and so for the lower bound, sinks and lengths. Bounds stay bounds: no T x S array is made.
"""

from __future__ import annotations

import numpy as np

from miniattn import masks
from miniattn._typing import Array
from miniattn.distributed._layout import Stretch
from miniattn.masks import UNBOUNDED, Lowered, Mask


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

    @property
    def is_fixed(self) -> bool:
        """Whether it stays what it is."""
        return self.mask.is_fixed

    def __repr__(self) -> str:
        return f"{self.mask!r} of {self.queries} x {self.keys}"

    # Parts of one mask are equal: what was worked out for one serves for all.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Part) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        heads = self.heads.start, self.heads.stop
        return id(self.mask), self.sizes, self.queries, self.keys, heads

    def _lower(self, B: int, H: int, T: int, S: int) -> Lowered:
        form = masks.lower(self.mask, B, *self.sizes)
        q, k = self.queries, self.keys
        apart = q.start - k.start
        step = k.step
        hi = np.where(form.hi >= UNBOUNDED // 2, UNBOUNDED, (form.hi + apart) // step)
        lo = np.where(form.lo <= -UNBOUNDED // 2, -UNBOUNDED, -(-(form.lo + apart) // step))
        return Lowered(
            lo,
            hi,
            _among(form.sinks, k),
            _among(form.lengths, k),
            _ids(form.q_ids, q),
            _ids(form.k_ids, k),
            self._dense(form.dense),
        )

    def _dense(self, dense: Array) -> Array:
        if dense.shape == (0, 0, 0, 0):
            return dense
        for axis, part in ((1, self.heads), (2, self.queries.places), (3, self.keys.places)):
            if dense.shape[axis] > 1:
                dense = dense[(slice(None),) * axis + (part,)]
        return np.ascontiguousarray(dense)

    def _why_hidden(self, b: int, h: int, i: int, j: int, end_offset: int | None) -> str:
        q, k = self.queries, self.keys
        whole = self.sizes[2] - self.sizes[1]
        at = h + (self.heads.start or 0), q.start + q.step * i, k.start + k.step * j
        return self.mask._why_hidden(b, *at, whole)


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


def _ids(ids: Array, part: Stretch) -> Array:
    return ids if ids.shape == (0, 0) else np.ascontiguousarray(ids[:, part.places])
