"""Masks that are bounds: a few integers for each batch row, by which kernels skip tiles."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miniattn import _checks
from miniattn._typing import Array
from miniattn.masks._arguments import (
    PerRow,
    bound,
    brief,
    checked_lengths,
    checked_offset,
    fit_lengths,
    fit_offset,
    index,
    offset_at,
    offset_of,
    offsets,
    rows_of,
    small,
    total,
    with_offset,
)
from miniattn.masks._mask import Mask
from miniattn.masks._places import Pairs, Place, Sizes
from miniattn.masks._program import All, Interval, Program, Some


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Band(Mask):
    """Diagonal bounds: `causal` and `window`."""

    left: int | None
    right: int | None
    offset: int | Array | None
    sinks: int

    def __repr__(self) -> str:
        is_causal = self.left is None and self.right == 0 and self.sinks == 0
        arguments = with_offset("" if is_causal else f"{self.left}, {self.right}", self.offset)
        sinks = f", sinks={self.sinks}" if self.sinks else ""
        return f"{'causal' if is_causal else 'window'}({arguments}{sinks})"

    def _fit(self, B: int, H: int, T: int, S: int) -> None:
        fit_offset(self.offset, B)

    def _sizes(self) -> Sizes:
        return Sizes(rows_of(self.offset), None, None, None)

    def _key(self) -> Any:
        offset = self.offset
        return self.left, self.right, getattr(offset, "tobytes", lambda: offset)(), self.sinks

    def _sees(self, at: Pairs) -> Array:
        distance = at.j - at.i - offset_of(self.offset, at.b, at.T, at.S)
        seen = np.ones_like(distance, np.bool_)
        if self.left is not None:
            seen = (distance >= -self.left) | (at.j < self.sinks)
        return seen if self.right is None else seen & (distance <= self.right)

    def _program(self, B: int, H: int, T: int, S: int) -> Program:
        centre = np.arange(T) + offsets(self.offset, T, S)[:, None]
        keys = np.arange(S)[None]
        first = np.zeros_like(centre) if self.left is None else centre - self.left
        end = np.full_like(centre, S) if self.right is None else centre + self.right + 1
        if not self.sinks or self.left is None:
            return Interval(first, end, keys)
        sinks = Interval(np.zeros_like(centre), np.full_like(centre, self.sinks), keys)
        near = Some((Interval(first, np.full_like(end, S), keys), sinks))
        return All((near, Interval(np.zeros_like(first), end, keys)))

    def _fact(self, at: Place) -> tuple[bool, str]:
        key, facts = at.j, []
        place, centre, remark = offset_at(self.offset, at.b, at.i, at.end_offset)
        if self.right is not None:
            last = place + self.right
            terms = total(centre + (f" + right {self.right}" if self.right else ""), last)
            if key > last:
                return False, f"key {key} is after {terms}{remark}"
            facts.append(f"key {key} is not after {terms}")
        if self.left is not None:
            first = place - self.left
            terms = total(centre + (f" - left {self.left}" if self.left else ""), first)
            if key < first and key >= self.sinks:
                sinks = f", and not among the first {self.sinks} keys" if self.sinks else ""
                return False, f"key {key} is before {terms}{sinks}{remark}"
            among = f"key {key} is among the first {self.sinks} keys"
            facts.append(among if key < first else f"key {key} is not before {terms}")
        return True, (" and ".join(facts) or "there is no bound") + remark


def _band(left: int | None, right: int | None, offset: int | Array | None, sinks: int) -> Mask:
    """Return a band; for the same numbers the same one, so that it is lowered once."""
    if isinstance(offset, np.ndarray):
        return Band(left, right, offset, sinks)
    return _same_band(left, right, offset, sinks)


_same_band = lru_cache(Band)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Padding(Mask):
    """The first keys of each batch row."""

    lengths: Array

    def __repr__(self) -> str:
        return f"padding({brief(self.lengths)})"

    def _fit(self, B: int, H: int, T: int, S: int) -> None:
        fit_lengths(self.lengths, B, S)

    def _sizes(self) -> Sizes:
        return Sizes(len(self.lengths), None, None, None)

    def _key(self) -> Any:
        return "padding", self.lengths.tobytes()

    def _sees(self, at: Pairs) -> Array:
        return np.asarray(at.j < self.lengths[at.b])

    def _program(self, B: int, H: int, T: int, S: int) -> Program:
        end = np.repeat(self.lengths[:, None], T, axis=1)
        return Interval(np.zeros_like(end), end, np.arange(S)[None])

    def _fact(self, at: Place) -> tuple[bool, str]:
        length = int(self.lengths[index("b", at.b, len(self.lengths))])
        seen = at.j < length
        among = "is among" if seen else "is not among"
        return seen, f"key {at.j} {among} the first {length} keys of row {at.b}"


def causal(offset: PerRow | None = None) -> Mask:
    """Hide the future: key j is visible to query i iff j <= i + offset.

    Parameters
    ----------
    offset : int or (B,) ints, optional
        None means S - T: the last query is aligned with the last key, so that a single query
        that decodes with a cache sees everything. 0 is PyTorch's ``is_causal``.

    Returns
    -------
    Mask

    Raises
    ------
    TypeError, ValueError
        If ``offset`` is not an int or one int for each batch row.

    See Also
    --------
    window : Bounds on both sides.

    Examples
    --------
    >>> from miniattn import masks
    >>> masks.causal().to_array(B=1, H=1, T=2, S=4)[0, 0].astype(int)
    array([[1, 1, 1, 0],
           [1, 1, 1, 1]])
    >>> masks.causal(offset=0).to_array(B=1, H=1, T=2, S=4)[0, 0].astype(int)
    array([[1, 0, 0, 0],
           [1, 1, 0, 0]])
    """
    return _band(None, 0, checked_offset(offset), 0)


def window(
    left: int | None, right: int | None, offset: PerRow | None = None, *, sinks: int = 0
) -> Mask:
    """Hide what is far: i + offset - left <= j <= i + offset + right.

    Parameters
    ----------
    left, right : int >= 0 or None
        How many keys are visible before and after the query's own; None = open on that side.
    offset : int or (B,) ints, optional
        As in `causal`: None means S - T.
    sinks : int, default 0
        The first ``sinks`` keys are not hidden by ``left``; the right bound still hides them.

    Returns
    -------
    Mask

    Raises
    ------
    TypeError, ValueError
        If a bound is not an int >= 0 or None (-1 does not mean open), or the offset is not
        an int or one int for each batch row.

    Notes
    -----
    With sinks, the rule is (j >= i + offset - left or j < sinks) and j <= i + offset + right.

    References
    ----------
    Beltagy, Peters, Cohan. "Longformer: The Long-Document Transformer" (2020), section 3.1.
    Xiao et al. "Efficient Streaming Language Models with Attention Sinks" (2024), section 3.2.

    Examples
    --------
    >>> from miniattn import masks
    >>> masks.window(1, 0, sinks=1).to_array(B=1, H=1, T=4, S=4)[0, 0].astype(int)
    array([[1, 0, 0, 0],
           [1, 1, 0, 0],
           [1, 1, 1, 0],
           [1, 0, 1, 1]])
    """
    checked_left, checked_right = bound("left", left), bound("right", right)
    checked_sinks = small("sinks", _checks.integer("sinks", sinks, least=0))
    return _band(checked_left, checked_right, checked_offset(offset), checked_sinks)


def padding(lengths: Sequence[int] | NDArray[np.integer[Any]]) -> Mask:
    """Hide padding: key j of batch row b is visible iff j < lengths[b].

    Parameters
    ----------
    lengths : (B,) ints >= 0
        The number of real keys in each row. 0 hides the whole row, whose output is then 0.

    Returns
    -------
    Mask

    Raises
    ------
    TypeError, ValueError
        If ``lengths`` is not one int >= 0 for each batch row. A length that is greater than S
        is a ValueError when the mask is used.

    Examples
    --------
    >>> from miniattn import masks
    >>> masks.padding([1, 3]).to_array(B=2, H=1, T=1, S=3)[:, 0, 0].astype(int)
    array([[1, 0, 0],
           [1, 1, 1]])
    """
    return Padding(checked_lengths(lengths))
