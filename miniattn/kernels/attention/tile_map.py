"""Tile maps: what a mask that is no bounds hides, for each tile of 64 queries and 64 keys.

A tile is 64 words, one for each key, whose bit i says whether query i of the tile sees it; bits
past the last query, and words past the last key, are 0. Rules fill words, `masks` combines them by
``&``, ``|`` and ``~``, and `classify` makes of each tile its *entry*:

    entry = index << 16 | groups

``groups`` has a bit for each 16 x 16 pairs, ``4 * (key // 16) + query // 16``, set where a kernel
has to look: it is 0 where the tile is hidden. ``index`` counts from 1 in the table of words; it is
0 where no words are needed, because the tile is hidden or full.

Kernels compute runs of groups, from the first to the last of a row or column. So groups between two
that are set are set as well: then each reads exactly what the others wrote.

One piece of work owns a row of tiles of one batch row and head.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import types

from miniattn.kernels.compile.queue import take
from miniattn.kernels.compile.settings import inner, task
from miniattn.kernels.registers import (
    Pointer,
    address,
    bits_of,
    fetch_and_add,
    gather,
    lanes,
    load_first,
    views,
)

TILE = 64
FULL_ENTRY = 0xFFFF

# What all tasks are told: sizes, and the operands up to LEAF, from where on a rule has its own.
ACROSS, T, S, FIRST_ROW, ROWS, DOWN, HEADS = range(7)
WORDS, BOUNDS, BOUNDS_STEP, PER_ROW, DONE, LEAF = range(6)
# Of `fill_intervals`: addresses, each with the step to the next batch row.
FIRST, FIRST_STEP, END, END_STEP, CODE, CODE_STEP, SPANS, SPANS_STEP, CODES, CODES_STEP, BY_KEY = (
    range(LEAF, LEAF + 11)
)
DENSE, DENSE_STEPS = LEAF, LEAF + 1  # of `fill_from_array`: the address, and steps of four axes
# Of functions: the first head, query and step between queries, key and step between keys.
HEAD, QUERY, QUERY_STEP, KEY, KEY_STEP, TABLES = range(LEAF, LEAF + 6)
ENTRIES, HASHES = range(LEAF, LEAF + 2)  # of `classify`


class Row(NamedTuple):
    """A row of tiles: queries ``i0 <= i < i0 + n`` of one batch row and head."""

    b: int
    h: int
    i0: int
    n: int
    S: int
    across: int
    words: Any


@inner
def row_of(sizes, operands, piece):
    """Return the `Row` of a piece of work."""
    number = sizes[FIRST_ROW] + piece
    i0 = number % sizes[DOWN] * TILE
    head = number // sizes[DOWN]
    words = address(operands[WORDS], np.uint64) + piece * sizes[ACROSS] * TILE
    n = min(TILE, sizes[T] - i0)
    return Row(head // sizes[HEADS], head % sizes[HEADS], i0, n, sizes[S], sizes[ACROSS], words)


@inner
def clear(words, start):
    """Set the words of a tile from ``start`` on to 0."""
    for r in range(start, TILE):
        words[r] = np.uint64(0)


@inner
def ones(n):
    """Return a word whose first ``n`` bits are set."""
    return ~np.uint64(0) >> np.uint64(TILE - n)


@inner
def turn(words):
    """Transpose a tile in place: bit i of word j becomes bit j of word i."""
    step, kept = 32, np.uint64(0xFFFFFFFF)
    while step:
        shift = np.uint64(step)
        for k in range(0, TILE, 2 * step):
            for r in range(k, k + step):
                a, b = words[r], words[r + step]
                moved = ((a >> shift) ^ b) & kept
                words[r] = a ^ (moved << shift)
                words[r + step] = b ^ moved
        step //= 2
        kept = kept ^ (kept << np.uint64(step))


# --- Rules ---------------------------------------------------------------------------------------


@task
def fill_intervals(sizes, factors, operands, queue, scratch):
    """Fill the words of "the code of one lies in the interval of the other".

    Queries have intervals and keys have codes, or (BY_KEY) the other way round. SPANS are the least
    and largest first, and the least and largest end, of each block of 64 intervals; CODES the least
    and largest of each block of codes. Nearly all tiles are known by these.
    """
    piece = take(queue)
    while piece < sizes[ROWS]:
        row = row_of(sizes, operands, piece)
        first = address(operands[FIRST] + row.b * operands[FIRST_STEP], np.int64)
        end = address(operands[END] + row.b * operands[END_STEP], np.int64)
        code = address(operands[CODE] + row.b * operands[CODE_STEP], np.int64)
        spans = address(operands[SPANS] + row.b * operands[SPANS_STEP], np.int64)
        codes = address(operands[CODES] + row.b * operands[CODES_STEP], np.int64)
        by_key = operands[BY_KEY] != 0
        for tile in range(row.across):
            words, j0 = row.words + tile * TILE, tile * TILE
            m = min(TILE, row.S - j0)
            x, y = (tile, row.i0 // TILE) if by_key else (row.i0 // TILE, tile)
            span, seen = spans + 4 * x, codes + 2 * y
            if seen[1] < span[0] or seen[0] >= span[3]:
                clear(words, 0)
            elif span[1] <= seen[0] and seen[1] < span[2]:
                for r in range(m):
                    words[r] = ones(row.n)
                clear(words, m)
            else:
                for r in range(m):
                    if by_key:
                        words[r] = _inside(code + row.i0, first[j0 + r], end[j0 + r], row.n)
                    else:
                        words[r] = _around(first + row.i0, end + row.i0, code[j0 + r], row.n)
                clear(words, m)
        piece = take(queue)


@inner
def _inside(code, first, end, n):
    """Return which of ``n`` codes lie in an interval."""
    word, w = np.uint64(0), lanes(code)
    for i in range(0, n, w):
        codes = load_first(code + i, n - i)
        word |= bits_of((codes >= first) & (codes < end)) << np.uint64(i)
    return word & ones(n)


@inner
def _around(first, end, code, n):
    """Return which of ``n`` intervals a code lies in."""
    word, w = np.uint64(0), lanes(first)
    for i in range(0, n, w):
        least, past = load_first(first + i, n - i), load_first(end + i, n - i)
        word |= bits_of((least <= code) & (past > code)) << np.uint64(i)
    return word & ones(n)


@task
def fill_from_array(sizes, factors, operands, queue, scratch):
    """Fill words from a bool array that broadcasts to (B, H, T, S)."""
    like = address(operands[DENSE], np.uint8)
    w = lanes(like)
    steps = operands + DENSE_STEPS
    piece = take(queue)
    while piece < sizes[ROWS]:
        row = row_of(sizes, operands, piece)
        start = like + (row.b * steps[0] + row.h * steps[1] + row.i0 * steps[2])
        for tile in range(row.across):
            words, j0 = row.words + tile * TILE, tile * TILE
            m = min(TILE, row.S - j0)
            for i in range(row.n):
                line = start + (i * steps[2] + j0 * steps[3])
                word = np.uint64(0)
                for j in range(0, m, w):
                    place = line + j * steps[3]
                    if steps[3] == 1:
                        entries = gather(place, 1, m - j, like)
                    else:
                        entries = gather(place, steps[3], m - j, like)
                    word |= bits_of(entries != 0) << np.uint64(j)
                words[i] = word
            clear(words, row.n)
            turn(words)
        piece = take(queue)


def arguments() -> tuple[Any, ...]:
    """Return the types of a task's arguments, which is what `function_loop` makes."""
    pointers = [Pointer(types.int64), Pointer(types.float64), Pointer(types.int64)]
    return (*pointers, Pointer(types.int64), Pointer(types.uint64))


def function_loop(visible: Any, kinds: Any) -> Any:
    """Return the loop that fills words by a user's function of (b, h, i, j, *tables).

    ``kinds`` are the types of the tables. What the bounds beside it hide anyway it isn't asked for.
    """
    tables = views(*kinds)

    def fill_by_function(sizes: Any, factors: Any, operands: Any, queue: Any, scratch: Any) -> None:
        given = tables(operands + TABLES)
        step, key_step = operands[QUERY_STEP], operands[KEY_STEP]
        piece = take(queue)
        while piece < sizes[ROWS]:
            row = row_of(sizes, operands, piece)
            for tile in range(row.across):
                words, j0 = row.words + tile * TILE, tile * TILE
                m = min(TILE, row.S - j0)
                if _is_hidden(operands, row, j0, m):
                    clear(words, 0)
                else:
                    h, key = operands[HEAD] + row.h, operands[KEY] + j0 * key_step
                    for r in range(row.n):
                        word, i = np.uint64(0), operands[QUERY] + (row.i0 + r) * step
                        for j in range(m):
                            seen = 1 if visible(row.b, h, i, key + j * key_step, *given) else 0
                            word |= np.uint64(seen) << np.uint64(j)
                        words[r] = word
                    clear(words, row.n)
                    turn(words)
            fetch_and_add(operands + DONE, 1)
            piece = take(queue)

    return fill_by_function


@inner
def _is_hidden(operands, row, j0, m):
    """Return whether bounds, where there are any, hide all pairs of a row's queries and keys."""
    if operands[BOUNDS] == 0:
        return False
    step = operands[BOUNDS_STEP]
    bounds = address(operands[BOUNDS], np.int64) + row.b * operands[PER_ROW]
    lo, hi, sinks, length = bounds[0], bounds[step], bounds[2 * step], bounds[3 * step]
    least, most = j0 - (row.i0 + row.n - 1), j0 + m - 1 - row.i0  # of j - i
    return j0 >= length or least > hi or (most < lo and j0 >= sinks)


# --- Entries -------------------------------------------------------------------------------------


@task
def classify(sizes, factors, operands, queue, scratch):
    """Write the entry of each tile, numbered from 1 on, and a hash of its words."""
    piece = take(queue)
    while piece < sizes[ROWS]:
        row = row_of(sizes, operands, piece)
        number = piece * row.across
        entries = address(operands[ENTRIES], np.int64) + number
        hashes = address(operands[HASHES], np.uint64) + number
        for tile in range(row.across):
            words, m = row.words + tile * TILE, min(TILE, row.S - tile * TILE)
            groups = _groups(words, row.n, m)
            index = number + tile + 1
            hashes[tile] = np.uint64(0)
            if groups < 0:
                entries[tile] = FULL_ENTRY
            elif groups == 0:
                entries[tile] = 0
            else:
                entries[tile] = index << 16 | groups
                hashes[tile] = _hash(words)
        piece = take(queue)


@inner
def _groups(words, n, m):
    """Return the groups of a tile, 0 where it is hidden and -1 where it is full."""
    groups, every = 0, ones(TILE)
    for start in range(0, m, 16):
        some = np.uint64(0)
        for r in range(start, min(start + 16, m)):
            some |= words[r]
            every &= words[r]
        for c in range(4):
            if some >> np.uint64(16 * c) & np.uint64(0xFFFF):
                groups |= 1 << (start // 4 + c)
    if groups != 0 and every == ones(n):
        return -1
    before = -1
    while groups != before:
        before = groups
        groups = _between(groups, 1, 0xEEEE, 0xCCCC, 0x8888, 0x7777, 0x3333, 0x1111)
        groups = _between(groups, 4, 0xFFF0, 0xFF00, 0xF000, 0x0FFF, 0x00FF, 0x000F)
    return groups


@inner
def _between(x, step, up1, up2, up3, down1, down2, down3):
    """Set the bits between two that are set, of rows of groups (in steps of 1) or columns (4)."""
    up = x << step & up1 | x << 2 * step & up2 | x << 3 * step & up3
    down = x >> step & down1 | x >> 2 * step & down2 | x >> 3 * step & down3
    return x | up & down


@inner
def _hash(words):
    h = np.uint64(0x9E3779B97F4A7C15)
    for r in range(TILE):
        h = (h ^ words[r]) * np.uint64(0xD6E8FEB86659FD93)
        h ^= h >> np.uint64(32)
    return h
