"""Trees of tokens: each sees its ancestors, as in speculative decoding of several continuations."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miniattn import _checks
from miniattn._typing import Array
from miniattn.masks._arguments import brief, frozen, index, offset_at, total
from miniattn.masks._mask import Mask
from miniattn.masks._places import Pairs, Place, Sizes
from miniattn.masks._program import Interval, Program


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Tree(Mask):
    """Token j is an ancestor of i, or i itself, iff first[j] <= first[i] < end[j]."""

    parents: Array
    first: Array
    """(1 or B, S): the number of each token on a walk that visits whole subtrees."""
    end: Array
    """The number after the last of its subtree."""
    token: object = field(default_factory=object)

    def __repr__(self) -> str:
        return f"tree({brief(self.parents)})"

    def _fit(self, B: int, H: int, T: int, S: int) -> None:
        if self.parents.shape not in ((S,), (B, S)):
            raise ValueError(
                f"parents: expected shape (S,) or (B, S) with B = {B}, S = {S}, "
                f"got {self.parents.shape}"
            )

    def _sizes(self) -> Sizes:
        rows = len(self.parents) if self.parents.ndim == 2 else None
        return Sizes(rows, None, None, self.parents.shape[-1])

    def _key(self) -> Any:
        return self.token

    def _sees(self, at: Pairs) -> Array:
        if not at.S:  # and no number to look up
            return np.zeros(np.broadcast_shapes(*(x.shape for x in at[:4])), np.bool_)
        place = at.i + at.S - at.T
        row = at.b if len(self.first) > 1 else at.b * 0
        own = self.first[row, np.maximum(place, 0)]
        return np.asarray(
            (place >= 0) & (self.first[row, at.j] <= own) & (own < self.end[row, at.j])
        )

    def _program(self, B: int, H: int, T: int, S: int) -> Program:
        place = np.arange(T) + S - T
        codes = np.where(place < 0, -1, self.first[:, np.maximum(place, 0)] if S else -1)
        return Interval(self.first, self.end, np.atleast_2d(codes), by_key=True)

    def _fact(self, at: Place) -> tuple[bool, str]:
        place, words, remark = offset_at(None, at.b, at.i, at.end_offset)
        row = 0 if len(self.first) == 1 else index("b", at.b, len(self.first))
        size = self.first.shape[1]
        key, words = index("j", at.j, size), total(words, place)
        if place < 0:
            return False, f"{words} is no token of the tree{remark}"
        own = self.first[row, index("i", place, size)]
        if key == place:
            return True, f"key {key} is {words} itself{remark}"
        seen = bool(self.first[row, key] <= own < self.end[row, key])
        return seen, f"key {key} is {'an' if seen else 'no'} ancestor of {words}{remark}"


def tree(parents: Sequence[Any] | NDArray[np.integer[Any]]) -> Mask:
    """Let each token of a tree see its ancestors and itself.

    Parameters
    ----------
    parents : (S,) or (B, S) ints
        The parent of each token, by position; -1 for a root. There may be several roots. Queries
        are the last T tokens, as in `causal`.

    Returns
    -------
    Mask

    Raises
    ------
    TypeError, ValueError
        If the parents are not positions or -1, or a token is its own ancestor.

    References
    ----------
    Miao et al. "SpecInfer: Accelerating Generative LLM Serving with Tree-based Speculative
    Inference and Verification" (2024), section 4.2.

    Examples
    --------
    >>> from miniattn import masks
    >>> mask = masks.tree([-1, 0, 0, 1])  # 0 has the children 1 and 2, and 1 has 3
    >>> mask.to_array(B=1, H=1, T=4, S=4)[0, 0].astype(int)
    array([[1, 0, 0, 0],
           [1, 1, 0, 0],
           [1, 0, 1, 0],
           [1, 1, 0, 1]])
    """
    array = _checks.int_array("parents", parents)
    if array.ndim not in (1, 2):
        raise ValueError(f"parents: expected shape (S,) or (B, S), got {array.shape}")
    size = array.shape[-1]
    if array.size and (array.min() < -1 or array.max() >= size):
        wrong = array[(array < -1) | (array >= size)][0]
        raise ValueError(
            f"parents: expected positions in [0, {size}), or -1 for a root, got {wrong}"
        )
    rows = np.atleast_2d(array)
    first, end = np.empty(rows.shape, np.int64), np.empty(rows.shape, np.int64)
    for b, row in enumerate(rows):
        first[b], end[b] = _walk(row)
    return _Tree(frozen(array), frozen(first), frozen(end))


def _walk(parents: Array) -> tuple[Array, Array]:
    """Return the number of each token on a walk, and the number after the last of its subtree."""
    size = len(parents)
    order = np.argsort(parents, kind="stable")
    starts = np.searchsorted(parents[order], np.arange(-1, size + 1))
    children = [order[starts[n] : starts[n + 1]] for n in range(size + 1)]  # of n - 1
    first, end, number = np.full(size, -1), np.zeros(size, np.int64), 0
    todo = list(children[0][::-1])
    while todo:
        token = todo[-1]
        if first[token] < 0:
            first[token], number = number, number + 1
            todo.extend(children[token + 1][::-1])
        else:
            end[token] = number
            todo.pop()
    if number < size:
        token = int(np.flatnonzero(first < 0)[0])
        raise ValueError(f"parents: expected a tree, got token {token} among its own ancestors")
    return first, end
