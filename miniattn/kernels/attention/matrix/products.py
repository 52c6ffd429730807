"""The products of one tile of scores on the matrix unit: what `vector.products` is to registers.

Operands are packed. Where the bounds of a mask cut a tile, groups of 32 queries are taken one by
one, and only the keys that something in the group sees.
"""

from typing import Any, NamedTuple

import numpy as np

from miniattn.kernels.attention.masking import (
    ALL_GROUPS,
    FULL,
    GROUP,
    PARTIAL,
    Tile,
    classify,
    keys_seen,
)
from miniattn.kernels.attention.matrix.packed import KEYS
from miniattn.kernels.attention.matrix.squares import (
    Squares,
    chunks_of,
    idle,
    multiply,
    squares_of,
)
from miniattn.kernels.compile.settings import inner
from miniattn.kernels.dense.panels import round_up
from miniattn.kernels.dense.places import Lines
from miniattn.kernels.registers import splat, store
from miniattn.kernels.registers.matrix_unit import CHUNK, PARTS, SIDE

QUARTER = 0x33  # the groups of a square of 32 x 32 pairs, of those of a tile


@inner
def multiply_keys(s, keys, packed, depth, rule, tile):
    """Set ``s[j, i] = sum_d keys[j, d] packed[d, i]`` for the pairs that bounds leave of a tile."""
    step = chunks_of(depth) * PARTS
    for c in range(0, tile.width, CHUNK):
        start, stop = keys_seen(rule, tile, c, CHUNK)
        squares = min(CHUNK, tile.width - c) // SIDE
        multiply(
            Lines(s + (start * tile.width + c), tile.width),
            Lines(keys + start // SIDE * step, step),
            Lines(packed + c // SIDE * step, step),
            Squares(rows=squares_of(stop - start), columns=squares, chunks=chunks_of(depth)),
            False,
            idle,
            0,
            0,
        )


class QuerySums(NamedTuple):
    """Sums for queries: so many rows, as wide as a tile, and whether they hold something yet."""

    start: Any
    rows: int
    begun: bool


@inner
def multiply_queries(sums, columns, packed, rule, tile, work, job, portion):
    """Set ``sums[e, i] = sum_j columns[e, j] packed[j, i]``, or add that, for the pairs left.

    For the output, ``v^T P``, and for dq, ``k^T dS``. With other work meanwhile: see `multiply`.
    """
    own = chunks_of(tile.m) * PARTS
    for c in range(0, tile.width, CHUNK):
        start, stop = chunk_rows(rule, tile, c)
        first, chunks = start // CHUNK, (stop - start) // CHUNK
        squares = min(CHUNK, tile.width - c) // SIDE
        if chunks > 0:
            portion = multiply(
                Lines(sums.start + c, tile.width),
                Lines(columns.start + first * PARTS, columns.step),
                Lines(packed + (c // SIDE * own + first * PARTS), own),
                Squares(rows=sums.rows // SIDE, columns=squares, chunks=chunks),
                sums.begun,
                work,
                job,
                portion,
            )
        elif not sums.begun:
            for e in range(sums.rows):
                for x in range(c, c + squares * SIDE, SIDE):
                    store(sums.start + (e * tile.width + x), splat(0.0, sums.start))
    return portion


@inner
def key_step(problem, tile):
    """Return how far apart the squares of a packed operand lie whose terms are a tile's keys."""
    return chunks_of(min(KEYS, problem.S - tile.j0)) * PARTS


@inner
def chunk_rows(rule, tile, c):
    """Return the rows of a tile that are computed for column ``c``: whole chunks of keys.

    The same for two vectors of queries side by side, for which products are computed together.
    """
    start, stop = keys_seen(rule, tile, c // CHUNK * CHUNK, CHUNK)
    return (start // CHUNK * CHUNK, round_up(stop, CHUNK)) if start < stop else (0, 0)


@inner
def hide_rest(s, rule, tile):
    """Hide what the bounds of a mask leave out of the scores of a tile, and what is past its end.

    Up to a whole chunk of rows these become -inf, whose weight is 0.
    """
    hidden, end = splat(-np.inf, s), round_up(tile.m, CHUNK)
    for c in range(0, tile.width, SIDE):
        start, stop = keys_seen(rule, tile, c, SIDE) if c < tile.n else (0, 0)
        for r in range(min(start, end)):
            store(s + (r * tile.width + c), hidden)
        for r in range(max(start, stop), end):
            store(s + (r * tile.width + c), hidden)


@inner
def add_to_keys(sums, packed, source, rule, tile):
    """Add ``sum_i packed[j, i] source[i, e]`` to ``sums[j, e]``, for the pairs that are left.

    For dv, ``P^T dout``, and for dk, ``dS^T q``. The rows of ``sums`` are whole squares.
    """
    step, row = chunks_of(tile.width) * PARTS, sums.step
    at_once = CHUNK if tile.kind == PARTIAL else tile.width
    for c in range(0, tile.width, at_once):
        start, stop = chunk_rows(rule, tile, c)
        for r in range(start, stop, CHUNK):
            squares = squares_of(min(CHUNK, tile.m - r))
            multiply(
                Lines(sums.start + r * row, row),
                Lines(packed + (r // SIDE * step + c // CHUNK * PARTS), step),
                Lines(source + c // CHUNK * PARTS, step),
                Squares(rows=squares, columns=row // SIDE, chunks=chunks_of(at_once)),
                True,
                idle,
                0,
                0,
            )


@inner
def small_tile(tile, rule, r, c):
    """Return the part of a tile that is at row ``r`` and column ``c``, of `CHUNK` of each.

    It is PARTIAL also where it is hidden.
    """
    i0, n, j0, m = tile.i0 + c, min(CHUNK, tile.n - c), tile.j0 + r, min(CHUNK, tile.m - r)
    kind = FULL if tile.kind == FULL else max(PARTIAL, classify(rule, i0, i0 + n, j0, j0 + m))
    groups = tile.groups
    if groups != ALL_GROUPS:
        groups = groups >> (r // GROUP * 4 + c // GROUP) & QUARTER
    return Tile(tile.b, tile.h, i0, n, j0, m, CHUNK, True, kind, groups)
