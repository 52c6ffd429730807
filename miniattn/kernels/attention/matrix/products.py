"""The products of one tile of scores on the matrix unit: what `vector.products` is to registers.

Operands are packed. Where the bounds of a mask cut a tile, groups of 32 queries are taken one by
one, and only the keys that something in the group sees.
"""

from typing import Any, NamedTuple

import numpy as np

from miniattn.kernels.attention.masking import FULL, PARTIAL, Tile, classify, keys_seen
from miniattn.kernels.attention.matrix.packed import KEYS
from miniattn.kernels.attention.matrix.squares import (
    Extent,
    blocks_of,
    chunks_of,
    idle,
    multiply,
)
from miniattn.kernels.attention.problem import Lines
from miniattn.kernels.compile.settings import inner
from miniattn.kernels.dense.panels import round_up
from miniattn.kernels.registers import splat, store
from miniattn.kernels.registers.matrix_unit import BLOCK, CHUNK, PARTS


@inner
def multiply_keys(s, keys, packed, depth, rule, tile):
    """Set ``s[j, i] = sum_d keys[j, d] packed[d, i]`` for the pairs that bounds leave of a tile."""
    step = chunks_of(depth) * PARTS
    for c in range(0, tile.width, CHUNK):
        start, stop = keys_seen(rule, tile, c, CHUNK)
        blocks = min(CHUNK, tile.width - c) // BLOCK
        multiply(
            Lines(s + (start * tile.width + c), tile.width),
            Lines(keys + start // BLOCK * step, step),
            Lines(packed + c // BLOCK * step, step),
            Extent(rows=blocks_of(stop - start), columns=blocks, chunks=chunks_of(depth)),
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
def multiply_queries(sums, columns, packed, rule, tile, work, job, unit):
    """Set ``sums[e, i] = sum_j columns[e, j] packed[j, i]``, or add that, for the pairs left.

    For the output, ``v^T P``, and for dq, ``k^T dS``. With other work meanwhile: see `multiply`.
    """
    own = chunks_of(tile.m) * PARTS
    for c in range(0, tile.width, CHUNK):
        start, stop = chunk_rows(rule, tile, c)
        first, chunks = start // CHUNK, (stop - start) // CHUNK
        blocks = min(CHUNK, tile.width - c) // BLOCK
        if chunks > 0:
            unit = multiply(
                Lines(sums.start + c, tile.width),
                Lines(columns.start + first * PARTS, columns.step),
                Lines(packed + (c // BLOCK * own + first * PARTS), own),
                Extent(rows=sums.rows // BLOCK, columns=blocks, chunks=chunks),
                sums.begun,
                work,
                job,
                unit,
            )
        elif not sums.begun:
            for e in range(sums.rows):
                for x in range(c, c + blocks * BLOCK, BLOCK):
                    store(sums.start + (e * tile.width + x), splat(0.0, sums.start))
    return unit


@inner
def key_step(problem, tile):
    """Return how far apart the blocks of a packed operand lie whose terms are a tile's keys."""
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
    for c in range(0, tile.width, BLOCK):
        start, stop = keys_seen(rule, tile, c, BLOCK) if c < tile.n else (0, 0)
        for r in range(min(start, end)):
            store(s + (r * tile.width + c), hidden)
        for r in range(max(start, stop), end):
            store(s + (r * tile.width + c), hidden)


@inner
def add_to_keys(sums, packed, source, rule, tile):
    """Add ``sum_i packed[j, i] source[i, e]`` to ``sums[j, e]``, for the pairs that are left.

    For dv, ``P^T dout``, and for dk, ``dS^T q``. The rows of ``sums`` are whole blocks.
    """
    step, row = chunks_of(tile.width) * PARTS, sums.step
    at_once = CHUNK if tile.kind == PARTIAL else tile.width
    for c in range(0, tile.width, at_once):
        start, stop = chunk_rows(rule, tile, c)
        for r in range(start, stop, CHUNK):
            blocks = blocks_of(min(CHUNK, tile.m - r))
            multiply(
                Lines(sums.start + r * row, row),
                Lines(packed + (r // BLOCK * step + c // CHUNK * PARTS), step),
                Lines(source + c // CHUNK * PARTS, step),
                Extent(rows=blocks, columns=row // BLOCK, chunks=chunks_of(at_once)),
                True,
                idle,
                0,
                0,
            )


@inner
def square_of(tile, rule, r, c):
    """Return the square of a tile at row ``r`` and column ``c``; what is hidden is PARTIAL too."""
    i0, n, j0, m = tile.i0 + c, min(CHUNK, tile.n - c), tile.j0 + r, min(CHUNK, tile.m - r)
    kind = FULL if tile.kind == FULL else max(PARTIAL, classify(rule, i0, i0 + n, j0, j0 + m))
    return Tile(tile.b, tile.h, i0, n, j0, m, CHUNK, True, kind)
