"""Masks in the attention kernels: which tiles to skip, and what to hide in the others.

A kernel is told of a mask bounds, and for all that is none a tile map, and nothing else (see
``miniattn.masks.Lowered``, and `tile_map` for what a tile map is). For one batch row and head they
become a `Rule` of plain numbers and pointers. A tile of queries and keys is then

- HIDDEN: no query sees any key, and nothing of it is computed;
- FULL: every query sees every key, and nothing has to be hidden;
- PARTIAL: the scores of hidden keys become -inf.

Within a partial tile, what is computed are runs of groups of 16 keys for each 16 queries: of those
that the bounds leave, those that the tile map does.
"""

from typing import Any, NamedTuple

import numpy as np

from miniattn.kernels.attention.operands import BOUNDS, TILES, WORDS, given, part_of, step_of
from miniattn.kernels.compile.settings import inner
from miniattn.kernels.dense.places import entry
from miniattn.kernels.registers import (
    LANES,
    address,
    gather,
    iota,
    lanes,
    load,
    mask_of_bits,
    registers,
    select,
    splat,
    store,
    transpose,
)

HIDDEN, PARTIAL, FULL = 0, 1, 2

GROUP = 16  # queries or keys of a tile of which a rule decides at once

SIDE = 64  # queries and keys of a tile of a tile map
ALL_GROUPS = 0xFFFF  # all 4 x 4 groups of such a tile: bit ``4 * key group + query group``

_OPEN = 2**40  # no bound: further than any key
_FAR = 2**30  # stands for infinity in 32 bits, with room for a tile's own coordinates


class Rule(NamedTuple):
    """The mask of one batch row and head."""

    lo: int
    hi: int
    sinks: int
    length: int
    tiles: Any
    across: int
    """From a row of tiles to the next."""
    words: Any
    is_mapped: bool


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
    groups: int
    """Those that a tile map leaves, as bits."""


@inner
def tile_of(rule, run, j0, m, width, keys_in_rows):
    """Return the tile of a run of queries and keys ``j0 <= j < j0 + m``."""
    b, h, i0, n = run.b, run.h, run.i0, run.n
    kind, groups = classify(rule, i0, i0 + n, j0, j0 + m), ALL_GROUPS
    if rule.is_mapped and i0 % SIDE == 0 and j0 % SIDE == 0 and max(n, m) <= SIDE:
        groups = _entry(rule, i0, j0) & ALL_GROUPS
    return Tile(b, h, i0, n, j0, m, width, keys_in_rows, kind, groups)


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
        part_of(operands, TILES, b, h, np.int64),
        step_of(operands, TILES, 2),
        address(operands[WORDS], np.uint64),
        given(operands, TILES),
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
    if seen and rule.is_mapped:
        seen = (_word(rule, i, j) >> np.uint64(i % SIDE)) & np.uint64(1) != 0
    return seen


@inner
def _entry(rule, i, j):
    """Return what a tile map says of the tile that a pair is in: 0 if that is hidden."""
    return rule.tiles[i // SIDE * rule.across + j // SIDE]


@inner
def _word(rule, i, j):
    """Return which queries of the tile that ``i`` is in see key ``j``, as bits."""
    entry = _entry(rule, i, j)
    index = entry >> 16
    if index > 0:
        return rule.words[(index - 1) * SIDE + j % SIDE]
    return ~np.uint64(0) if entry != 0 else np.uint64(0)


@inner
def _word_from(rule, i, n, j):
    """Return which queries see key ``j``, as bits, from query ``i`` on: ``n`` up to a SIDE."""
    shift = i % SIDE
    word = _word(rule, i, j) >> np.uint64(shift)
    if shift + n > SIDE:
        word |= _word(rule, i + SIDE, j) << np.uint64(SIDE - shift)
    return word


@inner
def classify(rule, i0, i1, j0, j1):
    """Return HIDDEN, PARTIAL or FULL for queries ``i0 <= i < i1`` and keys ``j0 <= j < j1``.

    PARTIAL is always a safe answer; the other two are exact.
    """
    kind = _classify_by_bounds(rule, i0, i1, j0, j1)
    if kind == HIDDEN:
        return HIDDEN
    if rule.is_mapped:
        some, every = _some_and_every(rule, i0, i1, j0, j1)
        if not some:
            return HIDDEN
        kind = kind if every else PARTIAL
    return kind


@inner(apart=True)
def _some_and_every(rule, i0, i1, j0, j1):
    """Return whether a tile map shows any of the tiles that a range touches, and all of each."""
    some, every = False, True
    for i in range(i0 // SIDE * SIDE, i1, SIDE):
        for j in range(j0 // SIDE * SIDE, j1, SIDE):
            entry = _entry(rule, i, j)
            some = some or entry != 0
            every = every and entry == ALL_GROUPS
    return some, every


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
    """Return the range of a tile's keys that are left to its queries ``c <= i < c + step``.

    Rounded to whole groups, as `queries_that_see` is, so that both mean the same pairs of groups.
    What lies outside is neither computed nor read: 6 of 16 pairs on a causal mask's diagonal.
    """
    if tile.kind == FULL:
        return 0, tile.m
    first, last = tile.i0 + c, tile.i0 + min(c + step, tile.n) - 1
    start = first + rule.lo - tile.j0 if tile.j0 >= rule.sinks else 0
    start, stop = _whole_groups(start, last + rule.hi + 1 - tile.j0, tile.m)
    if tile.groups != ALL_GROUPS:
        columns = (1 << (c + step + GROUP - 1) // GROUP) - (1 << c // GROUP)
        start, stop = _cut(start, stop, _rows_of(tile.groups, columns), tile.m)
    return start, stop


@inner
def queries_that_see(rule, tile, r, step):
    """Return the range of a tile's queries to which a key ``r <= j < r + step`` is left."""
    if tile.kind == FULL:
        return 0, tile.n
    first, last = tile.j0 + r, tile.j0 + min(r + step, tile.m) - 1
    stop = last - rule.lo + 1 - tile.i0 if first >= rule.sinks else tile.n
    start, stop = _whole_groups(first - rule.hi - tile.i0, stop, tile.n)
    if tile.groups != ALL_GROUPS:
        bits = 0
        for row in range(r // GROUP, (r + step + GROUP - 1) // GROUP):
            bits |= tile.groups >> (4 * row) & 0xF
        start, stop = _cut(start, stop, bits, tile.n)
    return start, stop


@inner
def _rows_of(groups, columns):
    """Return which rows of groups, as bits, have one in one of the columns."""
    bits = 0
    for row in range(4):
        if groups >> (4 * row) & columns & 0xF:
            bits |= 1 << row
    return bits


@inner
def _cut(start, stop, bits, n):
    """Cut a range down to the groups from the first to the last of some, within ``x < n``."""
    if bits == 0:
        return n, n
    first, last = 0, 3
    while not bits >> first & 1:
        first += 1
    while not bits >> last & 1:
        last -= 1
    start, stop = max(start, first * GROUP), min(stop, (last + 1) * GROUP)
    return (start, stop) if start < stop else (n, n)


@inner
def _whole_groups(start, stop, n):
    """Widen a range within ``0 <= x < n`` to whole groups; it is empty where ``start >= stop``."""
    start = max(0, start) // GROUP * GROUP if start < n else n
    return start, min(n, (max(0, stop) + GROUP - 1) // GROUP * GROUP)


@inner
def read_run(p, step, n, like):
    """Return ``gather(p, step, n, like)``, by a load where that is the same."""
    return gather(p, 1, n, like) if step == 1 else gather(p, step, n, like)


@inner
def _near(x):
    """Clip a bound to what 32-bit lanes hold; a tile's own coordinates are far smaller."""
    return max(-_FAR, min(_FAR, x))


@inner(apart=True)
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
            if not _is_full(rule, tile, r, end, c, min(c + w, columns)):
                _hide_rows(scores, rule, tile, r, end, c)
    if rule.is_mapped and tile.keys_in_rows:
        _hide_queries(scores, rule, tile)
    elif rule.is_mapped:
        _hide_keys(scores, rule, tile)


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
    lo, hi = _near(rule.lo - tile.j0 + tile.i0), _near(rule.hi - tile.j0 + tile.i0)
    sinks, length = _near(rule.sinks - tile.j0), _near(rule.length - tile.j0)
    for r in range(r0, r1):
        if tile.keys_in_rows:
            i, j = lane + c, splat(r, lane)
        else:
            i, j = splat(r, lane), lane + c
        seen = ((j - i >= lo) | (j < sinks)) & (j - i <= hi) & (j < length)
        p = scores + (r * tile.width + c)
        store(p, select(seen, load(p), -np.inf))


@inner
def _hide_queries(scores, rule, tile):
    """Hide what the tile map hides, where rows belong to keys: a word is a row of a tile."""
    w = lanes(scores)
    for r in range(tile.m):
        word = _word_from(rule, tile.i0, tile.n, tile.j0 + r)
        if word != ~np.uint64(0):
            for c in range(0, tile.n, w):
                p = scores + (r * tile.width + c)
                seen = mask_of_bits(word >> np.uint64(c), scores)
                store(p, select(seen, load(p), -np.inf))


@inner
def _hide_keys(scores, rule, tile):
    """Do so where rows belong to queries: a bit of each of some words is a vector of a tile.

    Such tiles begin at whole tiles of the map, so that a vector lies in one of them.
    """
    w = lanes(scores)
    for r in range(tile.n):
        i = tile.i0 + r
        bit = np.uint64(i % SIDE)
        for c in range(0, tile.m, w):
            entry = _entry(rule, i, tile.j0 + c)
            p = scores + (r * tile.width + c)
            if entry >> 16 > 0:
                words = rule.words + (((entry >> 16) - 1) * SIDE + (tile.j0 + c) % SIDE)
                bits = gather(words, 1, min(w, tile.m - c), scores) >> bit
                store(p, select((bits & np.uint64(1)) != 0, load(p), -np.inf))
            elif entry == 0:
                store(p, splat(-np.inf, scores))


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
