"""Which cells of a map hold any visible key, found without the T x S mask."""

from itertools import pairwise
from typing import NamedTuple, TypeAlias

import numpy as np

from miniattn._typing import Array
from miniattn.masks import Lowered, Mask
from miniattn.masks._documents import Documents
from miniattn.masks._lowered import lower, rows_of_form, split
from miniattn.masks._places import pairs_of_queries

_AT_ONCE = 64  # rows of a mask that exist at a time

Sizes: TypeAlias = tuple[int, int, int, int]
"""B, H, T and S."""


class Spans(NamedTuple):
    """The visible keys of some queries, (n,) each: first..last, and first_sink..last_sink."""

    first: Array
    last: Array
    first_sink: Array
    last_sink: Array


def visible_cells(
    mask: Mask | None, sizes: Sizes, b: int, h: int, rows: Array, cols: Array
) -> Array:
    """Return whether any query of row bin r sees any key of column bin c.

    ``rows`` and ``cols`` are the edges of the bins. A few rows of the mask exist at a time, and
    not even those where the visible keys of a query are an interval.
    """
    seen = np.zeros((len(rows) - 1, len(cols) - 1), np.bool_)
    if mask is None or not seen.size:
        return ~seen
    reader = _Reader(mask, sizes, b, h)
    T, S = sizes[2:]
    if seen.shape == (T, S):  # a cell each: nothing to join
        for top in range(0, T, _AT_ONCE):
            i = np.arange(top, min(top + _AT_ONCE, T))
            seen[i] = reader.rows(i)
        return seen
    documents = reader.documents()
    for r, (top, bottom) in enumerate(pairwise(rows)):
        i = np.arange(top, bottom)
        if documents is not None:
            seen[r] = _touched(_spans(reader.bounds, b, i, documents), cols).any(axis=0)
        else:
            seen[r] = np.logical_or.reduceat(reader.rows(i).any(axis=0), cols[:-1])
    return seen


class _Reader:
    """Reads rows of a mask: from its definition, or off its tile map if there are functions."""

    def __init__(self, mask: Mask, sizes: Sizes, b: int, h: int) -> None:
        B, _, T, S = self.sizes = sizes
        self.mask, self.b, self.h = mask, b, h
        mask._fit(*sizes)
        self.bounds, self.rest = split(mask, B, T, S)
        self.form = lower(mask, *sizes) if mask._has_function() else None

    def rows(self, i: Array) -> Array:
        """Return (n, S): the mask's rows of the queries i."""
        T, S = self.sizes[2:]
        if self.form is not None:
            return rows_of_form(self.form, self.b, self.h, i, S)
        seen = self.mask._sees(pairs_of_queries(self.b, self.h, i, T, S))
        return np.broadcast_to(seen, (len(i), S))

    def documents(self) -> tuple[Array, Array] | None:
        """Return the first and last key (T,) of each query's document.

        None if the mask is not made of bounds and documents, or a document has a gap.
        """
        T, S = self.sizes[2:]
        match self.rest:
            case ():
                return np.zeros(T, np.int64), np.full(T, S - 1)
            case (Documents() as rule,):
                q_ids, k_ids = (ids[self.b] if ids.ndim == 2 else ids for ids in rule.both)
                return _document_spans(q_ids, k_ids)
        return None


def _touched(spans: Spans, cols: Array) -> Array:
    """Return (n, bins): whether an interval of the query reaches into the bin."""
    left, right = cols[:-1], cols[1:] - 1
    first, last, first_sink, last_sink = (edge[:, None] for edge in spans)
    near: Array = np.maximum(first, left) <= np.minimum(last, right)
    near |= np.maximum(first_sink, left) <= np.minimum(last_sink, right)
    return near


def _spans(form: Lowered, b: int, i: Array, documents: tuple[Array, Array]) -> Spans:
    first, end = (edge[i] for edge in documents)
    last = np.minimum(np.minimum(i + form.hi[b], form.lengths[b] - 1), end)
    near = np.maximum(first, i + form.lo[b])
    return Spans(near, last, first, np.minimum(last, form.sinks[b] - 1))


def _document_spans(q_ids: Array, k_ids: Array) -> tuple[Array, Array] | None:
    """Return the first and last key (T,) of each query's document; None if one has a gap."""
    known, first, counts = np.unique(k_ids, return_index=True, return_counts=True)
    if np.count_nonzero(np.diff(k_ids)) + 1 != len(known):
        return None
    at = np.searchsorted(known, q_ids).clip(max=len(known) - 1)
    there = known[at] == q_ids
    return np.where(there, first[at], 1), np.where(there, first[at] + counts[at] - 1, 0)
