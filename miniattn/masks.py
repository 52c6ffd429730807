"""One mask algebra: which keys a query may attend to. True = may attend, everywhere.

A mask is a small frozen object that says a rule; ``&`` intersects rules. A rule stays a rule down
to the attention kernel: `lower` turns any mask into one canonical form, a handful of integers for
each batch row, so that hidden tiles are skipped and no T x S array is built unless one came in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from miniattn import _checks, _lazy
from miniattn._typing import Array, MaskLike

__all__ = [
    "UNBOUNDED",
    "Lowered",
    "Mask",
    "as_mask",
    "causal",
    "documents",
    "lower",
    "padding",
    "window",
]

__dir__ = _lazy.listed(__name__, __all__)

PerRow: TypeAlias = int | Sequence[int] | NDArray[np.integer[Any]]

UNBOUNDED = 2**40
"""Stands for infinity in `Lowered.lo` (negative) and `Lowered.hi`."""

_LARGEST = UNBOUNDED // 4  # of a given number: sums of two or three stay short of UNBOUNDED


class Lowered(NamedTuple):
    """A mask as the attention kernels take it: key j is visible to query i iff all rules hold.

    Every array is C-contiguous, native and writeable (Numba compiles once for each layout).
    """

    lo: Array
    """(B,) int64: visible only if j - i >= lo[b] or j < sinks[b]."""
    hi: Array
    """(B,) int64: visible only if j - i <= hi[b]."""
    sinks: Array
    """(B,) int64: the first keys, which the lower bound does not hide."""
    lengths: Array
    """(B,) int64: visible only if j < lengths[b]; S where there is no padding."""
    q_ids: Array
    """(B, T) int64, or (0, 0) for none: visible only if q_ids[b, i] == k_ids[b, j]."""
    k_ids: Array
    """(B, S) int64, or (0, 0) for none."""
    dense: Array
    """bool, (1 or B, 1 or H, 1 or T, 1 or S), or (0, 0, 0, 0) for none: visible only if True."""


# ---------------------------------------------------------------------------- what users write


class Mask:
    """A rule that says which keys each query may attend to; combine rules with ``&``.

    Made by `causal`, `window`, `padding`, `documents` and `as_mask`, never directly.

    Examples
    --------
    >>> from miniattn import masks
    >>> mask = masks.causal() & masks.padding([2, 3])
    >>> mask
    causal() & padding([2, 3])
    >>> mask.to_array(B=2, H=1, T=3, S=3)[0, 0].astype(int)
    array([[1, 0, 0],
           [1, 1, 0],
           [1, 1, 0]])
    """

    __slots__ = ()
    __array_ufunc__ = None  # so that `bool_array & mask` is left to __rand__

    @property
    def is_fixed(self) -> bool:
        """Whether the rule always stays what it is: only a user's own array can change."""
        return True

    def __and__(self, other: object) -> "Mask":
        right = as_mask(other)
        return self if right is None else _Intersection((*_parts(self), *_parts(right)))

    def __rand__(self, other: object) -> "Mask":
        left = as_mask(other)
        return self if left is None else _Intersection((*_parts(left), *_parts(self)))

    def __bool__(self) -> bool:
        # `causal() and padding(n)` would silently drop a rule.
        raise TypeError("mask: a mask has no truth value; combine masks with `&`, test `is None`")

    def to_array(self, B: int, H: int, T: int, S: int) -> Array:
        """Return the mask as a new bool array of shape (B, H, T, S), True = may attend.

        Parameters
        ----------
        B, H, T, S : int
            Batch, heads, query length, key length.

        Raises
        ------
        ValueError
            If the mask does not fit these sizes.

        Examples
        --------
        >>> from miniattn import masks
        >>> masks.window(1, 0).to_array(B=1, H=1, T=3, S=3)[0, 0].astype(int)
        array([[1, 0, 0],
               [1, 1, 0],
               [0, 1, 1]])
        """
        sizes = {"B": B, "H": H, "T": T, "S": S}
        B, H, T, S = (_checks.integer(name, n, least=0) for name, n in sizes.items())
        return _evaluate(self._lower(B, H, T, S), H, T, S)

    def explain(
        self, b: int, h: int, i: int, j: int, *, T: int | None = None, S: int | None = None
    ) -> str:
        """Say in words whether query ``i`` may attend to key ``j``, and if not, why.

        Parameters
        ----------
        b, h, i, j : int
            Batch row, head, query and key.
        T, S : int, optional
            Query and key length. Only a rule that is aligned to the end (``offset=None``) needs
            them; without them it takes T = S, and says so.

        Returns
        -------
        str
            ``"visible: ..."``, or ``"hidden by ..."`` with every rule that hides the key.

        Raises
        ------
        ValueError
            If an index is out of the range that the mask or the given sizes allow.

        Examples
        --------
        >>> from miniattn import masks
        >>> mask = masks.causal() & masks.padding([3, 8])
        >>> mask.explain(b=1, h=0, i=3, j=7, T=6, S=8)
        'hidden by causal(): key 7 is after query 3 + offset 2 = 5'
        >>> mask.explain(b=0, h=0, i=1, j=3, T=6, S=8)
        'hidden by padding([3, 8]): key 3 is not among the first 3 keys of row 0'
        >>> mask.explain(b=1, h=0, i=3, j=2, T=6, S=8)
        'visible: query 3 may attend to key 2 under causal() & padding([3, 8])'
        """
        if (T is None) != (S is None):
            raise ValueError("T, S: expected both or neither")
        for name, value, size in (("b", b, None), ("h", h, None), ("i", i, T), ("j", j, S)):
            _index(name, value, size)
        why = self._why_hidden(b, h, i, j, None if T is None or S is None else S - T)
        return why or f"visible: query {i} may attend to key {j} under {self!r}"

    def _lower(self, B: int, H: int, T: int, S: int) -> Lowered:
        raise NotImplementedError

    def _why_hidden(self, b: int, h: int, i: int, j: int, end_offset: int | None) -> str:
        """Say which rule hides the key, or return an empty string."""
        raise NotImplementedError


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
    return _band(None, 0, _offset(offset), 0)


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
    checked_left, checked_right = _bound("left", left), _bound("right", right)
    checked_sinks = _small("sinks", _checks.integer("sinks", sinks, least=0))
    return _band(checked_left, checked_right, _offset(offset), checked_sinks)


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
    array = _checks.int_array("lengths", lengths)
    _checks.shape("lengths", array, "B")
    if array.size and array.min() < 0:
        row = int(array.argmin())
        raise ValueError(f"lengths: expected ints >= 0, got {array[row]} in row {row}")
    return _Padding(_frozen(array))


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
    q_ids = _ids("ids", ids, "T")
    return _Documents(q_ids, None if key_ids is None else _ids("key_ids", key_ids, "S"))


def as_mask(mask: object) -> Mask | None:
    """Return a mask from a `Mask`, a bool array (True = may attend) or None (nothing hidden).

    A bool array broadcasts to (B, H, T, S) from the right as in NumPy. It is not copied.

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
    array = _checks.bool_array("mask", mask)
    if array.ndim > 4:
        raise ValueError(
            f"mask: expected a shape that broadcasts to (B, H, T, S), got {array.shape}"
        )
    return _Dense(array)


def lower(mask: MaskLike, B: int, H: int, T: int, S: int) -> Lowered:
    """Return the canonical form of a mask (anything `as_mask` takes) for these sizes.

    Raises
    ------
    TypeError, ValueError
        If ``mask`` is not a mask, or does not fit the sizes.

    Examples
    --------
    >>> from miniattn import masks
    >>> form = masks.lower(masks.causal() & masks.padding([2, 4]), B=2, H=1, T=3, S=4)
    >>> form.hi, form.lengths
    (array([1, 1]), array([2, 4]))
    """
    checked = as_mask(mask)
    return _open(B, S) if checked is None else checked._lower(B, H, T, S)


# ---------------------------------------------------------------------------------- the rules


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Band(Mask):
    """Diagonal bounds: `causal` and `window`."""

    left: int | None
    right: int | None
    offset: int | Array | None
    sinks: int

    def __repr__(self) -> str:
        is_causal = self.left is None and self.right == 0 and self.sinks == 0
        arguments = [] if is_causal else [str(self.left), str(self.right)]
        if self.offset is not None:
            arguments.append(f"offset={_brief(self.offset)}")
        if self.sinks:
            arguments.append(f"sinks={self.sinks}")
        return f"{'causal' if is_causal else 'window'}({', '.join(arguments)})"

    def _lower(self, B: int, H: int, T: int, S: int) -> Lowered:
        offset = S - T if self.offset is None else self.offset
        if isinstance(offset, np.ndarray):
            _checks.shape("offset", offset, "B", {"B": B})
        form = _open(B, S)
        if self.left is not None:
            form.lo[:] = offset - self.left
            form.sinks[:] = self.sinks
        if self.right is not None:
            form.hi[:] = offset + self.right
        return form

    def _why_hidden(self, b: int, h: int, i: int, j: int, end_offset: int | None) -> str:
        remark = ""
        if isinstance(self.offset, np.ndarray):
            offset = int(self.offset[_index("b", b, len(self.offset))])
        elif self.offset is not None:
            offset = self.offset
        else:
            offset = end_offset or 0
            remark = " (taking T = S)" if end_offset is None else ""
        centre = f"query {i}" + (f" + offset {offset}" if offset else "")
        if self.right is not None and j > i + offset + self.right:
            total = i + offset + self.right
            bound = centre + (f" + right {self.right}" if self.right else "")
            return f"hidden by {self!r}: key {j} is after {_sum(bound, total)}{remark}"
        if self.left is not None and j < i + offset - self.left and j >= self.sinks:
            total = i + offset - self.left
            bound = centre + (f" - left {self.left}" if self.left else "")
            sinks = f", and not among the first {self.sinks} keys" if self.sinks else ""
            return f"hidden by {self!r}: key {j} is before {_sum(bound, total)}{sinks}{remark}"
        return ""


def _band(left: int | None, right: int | None, offset: int | Array | None, sinks: int) -> Mask:
    """Return a band; for the same numbers the same one, so that it is lowered once."""
    if isinstance(offset, np.ndarray):
        return _Band(left, right, offset, sinks)
    return _same_band(left, right, offset, sinks)


_same_band = lru_cache(_Band)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Padding(Mask):
    lengths: Array

    def __repr__(self) -> str:
        return f"padding({_brief(self.lengths)})"

    def _lower(self, B: int, H: int, T: int, S: int) -> Lowered:
        _checks.shape("lengths", self.lengths, "B", {"B": B})
        if B and self.lengths.max() > S:
            row = int(self.lengths.argmax())
            raise ValueError(
                f"lengths: expected at most S = {S}, got {self.lengths[row]} in row {row}"
            )
        form = _open(B, S)
        form.lengths[:] = self.lengths
        return form

    def _why_hidden(self, b: int, h: int, i: int, j: int, end_offset: int | None) -> str:
        length = int(self.lengths[_index("b", b, len(self.lengths))])
        if j < length:
            return ""
        return f"hidden by {self!r}: key {j} is not among the first {length} keys of row {b}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Documents(Mask):
    q_ids: Array
    given_k_ids: Array | None

    @property
    def k_ids(self) -> Array:
        return self.q_ids if self.given_k_ids is None else self.given_k_ids

    def __repr__(self) -> str:
        keys = "" if self.given_k_ids is None else f", {_brief(self.given_k_ids)}"
        return f"documents({_brief(self.q_ids)}{keys})"

    def _lower(self, B: int, H: int, T: int, S: int) -> Lowered:
        if self.given_k_ids is None and T != S:
            raise ValueError(f"key_ids: expected ids of the keys, because T = {T} and S = {S}")
        q_ids = _rows_of_ids("ids", self.q_ids, B, "T", T)
        k_ids = _rows_of_ids("key_ids", self.k_ids, B, "S", S)
        return _open(B, S)._replace(q_ids=q_ids, k_ids=k_ids)

    def _why_hidden(self, b: int, h: int, i: int, j: int, end_offset: int | None) -> str:
        q_id, k_id = _id_at(self.q_ids, b, "i", i), _id_at(self.k_ids, b, "j", j)
        if q_id == k_id:
            return ""
        return f"hidden by {self!r}: query {i} is in document {q_id}, key {j} in document {k_id}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Dense(Mask):
    """A bool array that the user gave."""

    array: Array

    @property
    def is_fixed(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"bool{list(self.array.shape)}"

    def _lower(self, B: int, H: int, T: int, S: int) -> Lowered:
        full = (B, H, T, S)
        try:
            _checks.broadcastable("mask", self.array, "B, H, T, S", full)
        except ValueError as error:
            raise ValueError(f"{error}{_shape_hint(self.array.shape, full)}") from None
        dense = self.array.reshape((1,) * (4 - self.array.ndim) + self.array.shape)
        # np.broadcast_to made the axes of stride 0; the kernel would rather repeat them itself.
        stretched = [
            n > 1 and stride == 0 for n, stride in zip(dense.shape, dense.strides, strict=True)
        ]
        dense = dense[tuple(slice(1) if again else slice(None) for again in stretched)]
        return _open(B, S)._replace(dense=np.require(dense, requirements=["C", "W"]))

    def _why_hidden(self, b: int, h: int, i: int, j: int, end_offset: int | None) -> str:
        given = list(zip("bhij", (b, h, i, j), strict=True))[4 - self.array.ndim :]
        entry = tuple(
            0 if size == 1 else _index(name, at, size)
            for (name, at), size in zip(given, self.array.shape, strict=True)
        )
        return "" if self.array[entry] else f"hidden by {self!r}: its entry {list(entry)} is False"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Intersection(Mask):
    parts: tuple[Mask, ...]

    @property
    def is_fixed(self) -> bool:
        return all(part.is_fixed for part in self.parts)

    def __repr__(self) -> str:
        return " & ".join(map(repr, self.parts))

    def _lower(self, B: int, H: int, T: int, S: int) -> Lowered:
        return reduce(
            lambda a, b: _intersect(a, b, T, S), (part._lower(B, H, T, S) for part in self.parts)
        )

    def _why_hidden(self, b: int, h: int, i: int, j: int, end_offset: int | None) -> str:
        reasons = [part._why_hidden(b, h, i, j, end_offset) for part in self.parts]
        return "; ".join(filter(None, reasons))


def _parts(mask: Mask) -> tuple[Mask, ...]:
    return mask.parts if isinstance(mask, _Intersection) else (mask,)


# --------------------------------------------------------------------------- the canonical form


def _open(B: int, S: int) -> Lowered:
    """Return the form that hides nothing."""
    lo, hi, sinks, lengths = np.empty((4, B), np.int64)  # one allocation, contiguous rows
    lo[:], hi[:], sinks[:], lengths[:] = -UNBOUNDED, UNBOUNDED, 0, S
    no_ids = np.empty((0, 0), np.int64)
    return Lowered(lo, hi, sinks, lengths, no_ids, no_ids, np.empty((0, 0, 0, 0), np.bool_))


def _intersect(a: Lowered, b: Lowered, T: int, S: int) -> Lowered:
    lo, sinks, dense = _intersect_lower_bounds(a, b, T, S)
    for other in (a.dense, b.dense):
        dense = _both(dense, other)
    q_ids, k_ids = _pair_ids(a, b)
    return Lowered(
        lo,
        np.minimum(a.hi, b.hi),
        sinks,
        np.minimum(a.lengths, b.lengths),
        q_ids,
        k_ids,
        dense,
    )


def _intersect_lower_bounds(a: Lowered, b: Lowered, T: int, S: int) -> tuple[Array, Array, Array]:
    """Intersect "j - i >= lo or j < sinks" of both: (lo, sinks, what needs a dense array)."""
    # A higher bound with no more sinks is the stricter rule, and the intersection. An open bound
    # has no sinks. Only a higher bound with more sinks is no such rule: it takes a dense mask.
    none = np.empty((0, 0, 0, 0), np.bool_)
    if not (a.sinks.any() or b.sinks.any()):
        return np.maximum(a.lo, b.lo), a.sinks, none
    a_stricter = (a.lo >= b.lo) & ((a.sinks <= b.sinks) | (b.lo == -UNBOUNDED))
    b_stricter = (b.lo >= a.lo) & ((b.sinks <= a.sinks) | (a.lo == -UNBOUNDED))
    lo = np.where(b_stricter, b.lo, a.lo)
    sinks = np.where(b_stricter, b.sinks, a.sinks)
    if (a_stricter | b_stricter).all():
        return lo, sinks, none
    return lo, sinks, _above_lower_bound(b, T, S)[:, None]


def _both(a: Array, b: Array) -> Array:
    """Intersect two dense masks, either of which may be absent."""
    if a.shape == (0, 0, 0, 0):
        return b
    return a if b.shape == (0, 0, 0, 0) else np.ascontiguousarray(a & b)


def _pair_ids(a: Lowered, b: Lowered) -> tuple[Array, Array]:
    """Return ids that are equal where both pairs of ids are equal."""
    if a.q_ids.shape == (0, 0):
        return b.q_ids, b.k_ids
    if b.q_ids.shape == (0, 0):
        return a.q_ids, a.k_ids
    T = a.q_ids.shape[1]
    first, second = (np.concatenate([form.q_ids, form.k_ids], axis=1) for form in (a, b))
    _, first_codes = np.unique(first, return_inverse=True)
    values, second_codes = np.unique(second, return_inverse=True)
    codes = (first_codes * values.size + second_codes).reshape(first.shape)
    return np.ascontiguousarray(codes[:, :T]), np.ascontiguousarray(codes[:, T:])


def _above_lower_bound(form: Lowered, T: int, S: int) -> Array:
    """Evaluate "j - i >= lo or j < sinks": (B, T, S)."""
    i, j = np.arange(T)[:, None], np.arange(S)
    return (j - i >= form.lo[:, None, None]) | (j < form.sinks[:, None, None])


def _evaluate(form: Lowered, H: int, T: int, S: int) -> Array:
    """Evaluate every rule: (B, H, T, S)."""
    i, j = np.arange(T)[:, None], np.arange(S)
    visible = _above_lower_bound(form, T, S)
    visible &= j - i <= form.hi[:, None, None]
    visible &= j < form.lengths[:, None, None]
    if form.q_ids.shape != (0, 0):
        visible &= form.q_ids[:, :, None] == form.k_ids[:, None, :]
    visible = np.repeat(visible[:, None], H, axis=1)
    if form.dense.shape != (0, 0, 0, 0):
        visible &= form.dense
    return visible


# -------------------------------------------------------------------------- arguments and words


def _offset(offset: object) -> int | Array | None:
    if offset is None or isinstance(offset, int | np.integer):
        return None if offset is None else _small("offset", _checks.integer("offset", offset))
    array = _checks.int_array("offset", offset)
    _checks.shape("offset", array, "B")
    for extreme in (array.min(), array.max()) if array.size else ():
        _small("offset", int(extreme))
    return _frozen(array)


def _bound(name: str, value: int | None) -> int | None:
    if value is None:
        return None
    number = _checks.integer(name, value)
    if number < 0:
        raise ValueError(f"{name}: expected an int >= 0, or None for no bound, got {number}")
    return _small(name, number)


def _small(name: str, number: int) -> int:
    if abs(number) > _LARGEST:
        raise ValueError(f"{name}: expected at most {_LARGEST} in size, got {number}")
    return number


def _ids(name: str, ids: object, letter: str) -> Array:
    array = _checks.int_array(name, ids)
    if array.ndim not in (1, 2):
        raise ValueError(f"{name}: expected shape ({letter},) or (B, {letter}), got {array.shape}")
    return _frozen(array)


def _rows_of_ids(name: str, ids: Array, B: int, letter: str, size: int) -> Array:
    """Return the ids as a new (B, T) or (B, S) array."""
    if ids.shape not in ((size,), (B, size)):
        raise ValueError(
            f"{name}: expected shape ({letter},) or (B, {letter}) "
            f"with B = {B}, {letter} = {size}, got {ids.shape}"
        )
    return np.broadcast_to(ids, (B, size)).copy()


def _id_at(ids: Array, b: int, name: str, at: int) -> int:
    row = ids if ids.ndim == 1 else ids[_index("b", b, len(ids))]
    return int(row[_index(name, at, len(row))])


def _index(name: str, value: int, size: int | None) -> int:
    number = _checks.integer(name, value, least=0)
    if size is not None and number >= size:
        raise ValueError(f"{name}: expected an index in [0, {size}), got {number}")
    return number


def _frozen(array: Array) -> Array:
    """Return a read-only copy: a mask does not change when the caller's array does."""
    copy = np.array(array, order="C")
    copy.flags.writeable = False
    return copy


def _brief(value: int | Array) -> str:
    if isinstance(value, int) or value.size <= 8:
        return str(value if isinstance(value, int) else value.tolist())
    return f"int{list(value.shape)}"


def _sum(terms: str, total: int) -> str:
    return f"{terms} = {total}" if " + " in terms or " - " in terms else terms


def _shape_hint(shape: tuple[int, ...], full: tuple[int, ...]) -> str:
    B, _, T, S = full
    if shape == (B, S):
        return (
            "; for a (B, S) mask of real keys use masks.padding(lengths) or mask[:, None, None, :]"
        )
    if shape == (B, T, S):
        return "; for a (B, T, S) mask use mask[:, None]"
    return ""
