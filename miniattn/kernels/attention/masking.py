"""Masks in the attention kernels: which tiles to skip, and what to hide in the others.

A kernel takes a mask in its canonical form (``lo``, ``hi``, ``sinks``, ``lengths``, ``q_ids``,
``k_ids``, ``dense``; see ``miniattn.masks.Lowered``) among its operands. For one batch row and head
it becomes a `Rule` of plain numbers and pointers. A tile of queries and keys is then

- HIDDEN: no query sees any key, and nothing of it is computed;
- FULL: every query sees every key, and nothing has to be hidden;
- PARTIAL: the scores of hidden keys become -inf.
"""

from typing import Any, NamedTuple

import numpy as np

from miniattn.kernels.attention.problem import BOUNDS, DENSE, K_IDS, Q_IDS, given, grid_of, part_of
from miniattn.kernels.compile.settings import inner
from miniattn.kernels.dense.places import Grid, entry
from miniattn.kernels.registers import (
    LANES,
    any_true,
    first,
    gather,
    iota,
    lanes,
    load,
    registers,
    select,
    splat,
    store,
    transpose,
)

HIDDEN, PARTIAL, FULL = 0, 1, 2

GROUP = 16  # queries or keys of a tile of which a rule's bounds decide at once

_OPEN = 2**40  # no bound: further than any key
_FAR = 2**30  # stands for infinity in 32 bits, with room for a tile's own coordinates


class Rule(NamedTuple):
    """The mask of one batch row and head."""

    lo: int
    hi: int
    sinks: int
    length: int
    q_ids: Any
    k_ids: Any
    by_document: bool
    dense: Grid
    is_dense: bool


class Tile(NamedTuple):
    """A tile of scores: queries ``i0 <= i < i0 + n``, keys ``j0 <= j < j0 + m`` of one head.

    Scores are kept in rows of ``width`` numbers. Either a row belongs to a key and the lanes of
    its vectors to queries (``keys_in_rows``), or the other way round.
    """

    b: int
    h: int
    i0: int
    n: int
    j0: int
    m: int
    width: int
    keys_in_rows: bool
    kind: int
    """HIDDEN, PARTIAL or FULL."""


@inner
def tile_of(rule, run, j0, m, width, keys_in_rows):
    """Return the tile of a run of queries and keys ``j0 <= j < j0 + m``."""
    kind = classify(rule, run.i0, run.i0 + run.n, j0, j0 + m)
    return Tile(run.b, run.h, run.i0, run.n, j0, m, width, keys_in_rows, kind)


@inner
def rows_and_columns(tile):
    """Return how many rows and columns of the tile's scratch are in use."""
    return (tile.m, tile.n) if tile.keys_in_rows else (tile.n, tile.m)


@inner
def rule_of(operands, S, b, h):
    """Return the `Rule` of batch row ``b`` and head ``h``."""
    return Rule(
        _bound(operands, 0, b, -_OPEN),
        _bound(operands, 1, b, _OPEN),
        _bound(operands, 2, b, 0),
        _bound(operands, 3, b, S),
        part_of(operands, Q_IDS, b, 0, np.int64),
        part_of(operands, K_IDS, b, 0, np.int64),
        given(operands, Q_IDS),
        grid_of(operands, DENSE, b, h, np.uint8),
        given(operands, DENSE),
    )


@inner
def _bound(operands, which, b, default):
    """Return one of the four numbers of a batch row, ``default`` where there is no mask."""
    return part_of(operands, BOUNDS, which, b, np.int64)[0] if given(operands, BOUNDS) else default


@inner
def end_of_keys(rule, i_end):
    """Return a key index past all that queries ``i < i_end`` can see."""
    return max(0, min(rule.length, i_end + rule.hi))


@inner
def first_key(rule, i0, step):
    """Return a multiple of ``step`` before all keys that queries ``i >= i0`` can see."""
    return 0 if rule.sinks > 0 else max(0, i0 + rule.lo) // step * step


@inner
def visible(rule, i, j):
    """Return whether query ``i`` may attend to key ``j``."""
    seen = (j - i >= rule.lo or j < rule.sinks) and j - i <= rule.hi and j < rule.length
    if seen and rule.by_document:
        seen = rule.q_ids[i] == rule.k_ids[j]
    if seen and rule.is_dense:
        seen = entry(rule.dense, i, j)[0] != 0
    return seen


@inner
def classify(rule, i0, i1, j0, j1):
    """Return HIDDEN, PARTIAL or FULL for queries ``i0 <= i < i1`` and keys ``j0 <= j < j1``.

    PARTIAL is always a safe answer; the other two are exact.
    """
    kind = _classify_by_bounds(rule, i0, i1, j0, j1)
    if kind == HIDDEN:
        return HIDDEN
    full = kind == FULL
    if rule.by_document:
        q_least, q_most = _extent(rule.q_ids, i0, i1)
        k_least, k_most = _extent(rule.k_ids, j0, j1)
        if q_most < k_least or k_most < q_least:
            return HIDDEN
        full = full and q_least == q_most and k_least == k_most
    if rule.is_dense:
        some, every = _some_and_every(rule, i0, i1, j0, j1)
        if not some:
            return HIDDEN
        full = full and every
    return FULL if full else PARTIAL


@inner
def _classify_by_bounds(rule, i0, i1, j0, j1):
    """Return the same for the bounds alone."""
    least, most = j0 - (i1 - 1), (j1 - 1) - i0  # of j - i
    if j0 >= rule.length or least > rule.hi or (most < rule.lo and j0 >= rule.sinks):
        return HIDDEN
    full = j1 <= rule.length and most <= rule.hi and (least >= rule.lo or j1 <= rule.sinks)
    return FULL if full else PARTIAL


@inner
def keys_seen(rule, tile, c, step):
    """Return the range of a tile's keys that the bounds leave to its queries ``c <= i < c + step``.

    Rounded to whole groups, as `queries_that_see` is, so that both mean the same pairs of groups.
    What lies outside is neither computed nor read: 6 of 16 pairs on a causal mask's diagonal.
    """
    if tile.kind == FULL:
        return 0, tile.m
    first, last = tile.i0 + c, tile.i0 + min(c + step, tile.n) - 1
    start = first + rule.lo - tile.j0 if tile.j0 >= rule.sinks else 0
    return _whole_groups(start, last + rule.hi + 1 - tile.j0, tile.m)


@inner
def queries_that_see(rule, tile, r, step):
    """Return the range of a tile's queries to which bounds leave a key ``r <= j < r + step``."""
    if tile.kind == FULL:
        return 0, tile.n
    first, last = tile.j0 + r, tile.j0 + min(r + step, tile.m) - 1
    stop = last - rule.lo + 1 - tile.i0 if first >= rule.sinks else tile.n
    return _whole_groups(first - rule.hi - tile.i0, stop, tile.n)


@inner
def _whole_groups(start, stop, n):
    """Widen a range within ``0 <= x < n`` to whole groups; it is empty where ``start >= stop``."""
    start = max(0, start) // GROUP * GROUP if start < n else n
    return start, min(n, (max(0, stop) + GROUP - 1) // GROUP * GROUP)


@inner
def _extent(ids, start, stop):
    """Return the least and the greatest of ``ids[start:stop]``."""
    least = most = ids[start]
    for n in range(start + 1, stop):
        least = min(least, ids[n])
        most = max(most, ids[n])
    return least, most


@inner
def _some_and_every(rule, i0, i1, j0, j1):
    """Return whether a bool array shows any of these pairs, and whether it shows all."""
    bytes_, down, across = rule.dense
    rows = i1 - i0 if down != 0 else 1
    columns = j1 - j0 if across != 0 else 1
    shown = hidden = first(0, bytes_)
    for i in range(i0, i0 + rows):
        for j in range(0, columns, lanes(bytes_)):
            entries = read_run(entry(rule.dense, i, j0 + j), across, columns - j, bytes_)
            shown = shown | (entries != 0)
            hidden = hidden | ((entries == 0) & first(columns - j, bytes_))
    return any_true(shown), not any_true(hidden)


@inner
def read_run(p, step, n, like):
    """Return ``gather(p, step, n, like)``, by a load where that is the same."""
    return gather(p, 1, n, like) if step == 1 else gather(p, step, n, like)


@inner
def _near(x):
    """Clip a bound to what 32-bit lanes hold; a tile's own coordinates are far smaller."""
    return max(-_FAR, min(_FAR, x))


@inner
def hide(scores, rule, tile):
    """Set the scores of hidden keys to -inf, where `keys_seen` has not left them out."""
    w = lanes(scores)
    rows, columns = rows_and_columns(tile)
    for c in range(0, columns, w):
        start, stop = 0, rows
        if tile.keys_in_rows:
            start, stop = keys_seen(rule, tile, c // GROUP * GROUP, GROUP)
        for r in range(start, stop, GROUP):
            end = min(r + GROUP, stop)
            if rule.by_document or not _is_full(rule, tile, r, end, c, min(c + w, columns)):
                _hide_rows(scores, rule, tile, r, end, c)
            if rule.is_dense:
                _hide_by_array(scores, rule, tile, r, end, c)


@inner
def _is_full(rule, tile, r0, r1, c0, c1):
    """Return whether the bounds hide nothing in these rows and columns of a tile's scratch."""
    if not tile.keys_in_rows:
        r0, r1, c0, c1 = c0, c1, r0, r1
    i, j = tile.i0, tile.j0
    return _classify_by_bounds(rule, i + c0, i + c1, j + r0, j + r1) == FULL


@inner
def _hide_rows(scores, rule, tile, r0, r1, c):
    """Do so in one vector of each of the rows ``r0 <= r < r1``."""
    lane = iota(scores, np.int32)
    _, columns = rows_and_columns(tile)
    lo, hi = _near(rule.lo - tile.j0 + tile.i0), _near(rule.hi - tile.j0 + tile.i0)
    sinks, length = _near(rule.sinks - tile.j0), _near(rule.length - tile.j0)
    q_ids, k_ids = rule.q_ids + tile.i0, rule.k_ids + tile.j0
    row_ids, lane_ids = (k_ids, q_ids) if tile.keys_in_rows else (q_ids, k_ids)
    ids = gather(lane_ids + c, 1, columns - c if rule.by_document else 0, scores)
    for r in range(r0, r1):
        if tile.keys_in_rows:
            i, j = lane + c, splat(r, lane)
        else:
            i, j = splat(r, lane), lane + c
        seen = ((j - i >= lo) | (j < sinks)) & (j - i <= hi) & (j < length)
        if rule.by_document:
            seen = seen & (ids == row_ids[r])
        p = scores + (r * tile.width + c)
        store(p, select(seen, load(p), -np.inf))


@inner
def _hide_by_array(scores, rule, tile, r0, r1, c):
    """Hide what the user's bool array hides, in the same vectors."""
    w, vectors = lanes(scores), registers(LANES, scores)
    for r in range(r0, r1, w):
        n = min(w, r1 - r)
        read_vectors(vectors, rule.dense, tile, r, n, c, _hidden_as_infinity)
        for row in range(n):
            p = scores + ((r + row) * tile.width + c)
            store(p, select(load(vectors + row * w) == 0.0, load(p), -np.inf))


@inner
def _hidden_as_infinity(entries, like):
    return select(entries != 0, splat(0.0, like), -np.inf)


@inner
def read_vectors(vectors, source, tile, r, n, c, convert):
    """Read what a user's array, queries by keys, says of ``n`` vectors of a tile of scores.

    These are the vectors at ``c`` of the rows from ``r`` on; ``source`` is the `Grid` of the head.
    Entries are read in lines of keys, go through ``convert``, and are turned in the registers where
    the tile's rows belong to keys.
    """
    w, step = lanes(vectors), source.across
    _, columns = rows_and_columns(tile)
    if tile.keys_in_rows:
        lines = registers(LANES, vectors)
        for lane in range(w):
            place = entry(source, tile.i0 + min(c + lane, columns - 1), tile.j0 + r)
            store(lines + lane * w, convert(read_run(place, step, n, vectors), vectors))
        transpose(vectors, w, lines, w, w)
    else:
        for row in range(n):
            place = entry(source, tile.i0 + r + row, tile.j0 + c)
            store(vectors + row * w, convert(read_run(place, step, columns - c, vectors), vectors))
