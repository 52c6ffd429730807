"""Which cells of a map hold any visible key, found without the T x S mask."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from miniattn._typing import Array
from miniattn.masks import Lowered

_AT_ONCE = 64  # rows of a mask that exist at a time


class Spans(NamedTuple):
    """The visible keys of some queries, (n,) each: first..last, and first_sink..last_sink."""

    first: Array
    last: Array
    first_sink: Array
    last_sink: Array


def visible_cells(form: Lowered, b: int, h: int, rows: Array, cols: Array) -> Array:
    """Return whether any query of row bin r sees any key of column bin c.

    ``rows`` and ``cols`` are the edges of the bins. A few rows of the mask exist at a time, and
    not even those where the visible keys of a query are an interval.
    """
    seen = np.zeros((len(rows) - 1, len(cols) - 1), np.bool_)
    if not seen.size:
        return seen
    T, S = int(rows[-1]), int(cols[-1])
    if seen.shape == (T, S):  # a cell each: nothing to join
        for top in range(0, T, _AT_ONCE):
            i = np.arange(top, min(top + _AT_ONCE, T))
            seen[i] = _evaluate(form, b, h, i, S)
        return seen
    documents = _document_spans(form, b, T, S)
    for r, (top, bottom) in enumerate(pairwise(rows)):
        i = np.arange(top, bottom)
        if form.dense.shape == (0, 0, 0, 0) and documents is not None:
            seen[r] = _touched(_spans(form, b, i, documents), cols).any(axis=0)
        else:
            visible = _evaluate(form, b, h, i, cols[-1]).any(axis=0)
            seen[r] = np.logical_or.reduceat(visible, cols[:-1])
    return seen


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


def _document_spans(form: Lowered, b: int, T: int, S: int) -> tuple[Array, Array] | None:
    """Return the first and last key (T,) of each query's document; None if one has a gap."""
    if form.q_ids.shape == (0, 0):
        return np.zeros(T, np.int64), np.full(T, S - 1)
    known, first, counts = np.unique(form.k_ids[b], return_index=True, return_counts=True)
    if np.count_nonzero(np.diff(form.k_ids[b])) + 1 != len(known):
        return None
    at = np.searchsorted(known, form.q_ids[b]).clip(max=len(known) - 1)
    there = known[at] == form.q_ids[b]
    return np.where(there, first[at], 1), np.where(there, first[at] + counts[at] - 1, 0)


def _evaluate(form: Lowered, b: int, h: int, i: Array, S: int) -> Array:
    """Return (n, S): the mask's rows of the queries i."""
    i, j = i[:, None], np.arange(S)
    visible: Array = (j - i >= form.lo[b]) | (j < form.sinks[b])
    visible &= (j - i <= form.hi[b]) & (j < form.lengths[b])
    if form.q_ids.shape != (0, 0):
        visible &= form.q_ids[b][i] == form.k_ids[b]
    if form.dense.shape != (0, 0, 0, 0):
        dense = form.dense[min(b, len(form.dense) - 1), min(h, form.dense.shape[1] - 1)]
        visible &= dense[i[:, 0]] if len(dense) > 1 else dense
    return visible
