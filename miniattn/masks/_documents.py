"""Packed documents: queries see the keys of their own."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miniattn import _checks
from miniattn._typing import Array
from miniattn.masks._arguments import brief, frozen, index
from miniattn.masks._mask import Mask
from miniattn.masks._places import Pairs, Place, Sizes
from miniattn.masks._program import Interval, Program


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Documents(Mask):
    """Ids of queries and keys that are equal."""

    q_ids: Array
    given_k_ids: Array | None
    token: object = field(default_factory=object)

    @property
    def k_ids(self) -> Array:
        """The ids of the keys."""
        return self.q_ids if self.given_k_ids is None else self.given_k_ids

    @property
    def both(self) -> tuple[Array, Array]:
        """The ids of queries and of keys."""
        return self.q_ids, self.k_ids

    def __repr__(self) -> str:
        keys = "" if self.given_k_ids is None else f", {brief(self.given_k_ids)}"
        return f"documents({brief(self.q_ids)}{keys})"

    def _fit(self, B: int, H: int, T: int, S: int) -> None:
        if self.given_k_ids is None and T != S:
            raise ValueError(f"key_ids: expected ids of the keys, because T = {T} and S = {S}")
        for name, ids, letter, size in (
            ("ids", self.q_ids, "T", T),
            ("key_ids", self.k_ids, "S", S),
        ):
            if ids.shape not in ((size,), (B, size)):
                raise ValueError(
                    f"{name}: expected shape ({letter},) or (B, {letter}) "
                    f"with B = {B}, {letter} = {size}, got {ids.shape}"
                )

    def _sizes(self) -> Sizes:
        rows = [len(ids) for ids in (self.q_ids, self.k_ids) if ids.ndim == 2]
        return Sizes(max(rows, default=None), None, self.q_ids.shape[-1], self.k_ids.shape[-1])

    def _key(self) -> Any:
        return self.token

    def _sees(self, at: Pairs) -> Array:
        return np.asarray(_ids_at(self.q_ids, at.b, at.i) == _ids_at(self.k_ids, at.b, at.j))

    def _program(self, B: int, H: int, T: int, S: int) -> Program:
        # Numbered anew: an id may be the largest there is, and has none after it.
        values, codes = np.unique(self.k_ids, return_inverse=True)
        first = np.searchsorted(values, np.atleast_2d(self.q_ids))
        there = values[np.minimum(first, len(values) - 1)] == np.atleast_2d(self.q_ids)
        return Interval(first, first + there, np.atleast_2d(codes.reshape(self.k_ids.shape)))

    def _fact(self, at: Place) -> tuple[bool, str]:
        q_id, k_id = _id_at(self.q_ids, at.b, "i", at.i), _id_at(self.k_ids, at.b, "j", at.j)
        if q_id == k_id:
            return True, f"query {at.i} and key {at.j} are in document {q_id}"
        return False, f"query {at.i} is in document {q_id}, key {at.j} in document {k_id}"


def _ids_at(ids: Array, b: Array, at: Array) -> Array:
    return np.asarray(ids[at] if ids.ndim == 1 else ids[b, at])


def _id_at(ids: Array, b: int, name: str, at: int) -> int:
    row = ids if ids.ndim == 1 else ids[index("b", b, len(ids))]
    return int(row[index(name, at, len(row))])


def documents(
    ids: Sequence[Any] | NDArray[np.integer[Any]],
    key_ids: Sequence[Any] | NDArray[np.integer[Any]] | None = None,
) -> Mask:
    """Keep packed documents apart: visible iff ids[b, i] == key_ids[b, j].

    Parameters
    ----------
    ids : (T,) or (B, T) ints
        The document of each query. Any ints; (T,) holds for every batch row.
    key_ids : (S,) or (B, S) ints, optional
        The document of each key; ``ids`` by default, which needs T = S.

    Returns
    -------
    Mask

    Raises
    ------
    TypeError, ValueError
        If the ids are not ints of one or two axes.

    Examples
    --------
    >>> from miniattn import masks
    >>> mask = masks.documents([0, 0, 1]) & masks.causal()
    >>> mask.to_array(B=1, H=1, T=3, S=3)[0, 0].astype(int)
    array([[1, 0, 0],
           [1, 1, 0],
           [0, 0, 1]])
    """
    q_ids = _given("ids", ids, "T")
    return Documents(q_ids, None if key_ids is None else _given("key_ids", key_ids, "S"))


def _given(name: str, ids: object, letter: str) -> Array:
    array = _checks.int_array(name, ids)
    if array.ndim not in (1, 2):
        raise ValueError(f"{name}: expected shape ({letter},) or (B, {letter}), got {array.shape}")
    return frozen(array)
