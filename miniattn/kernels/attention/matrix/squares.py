"""Tiles for the matrix unit: operands packed into its blocks, products of them, results written.

See `matrix_unit` for what a block is. A product of tiles takes both operands packed, and writes
rows of scratch memory as wide as the tile.
"""

from typing import NamedTuple

import numpy as np

from miniattn.kernels.attention.problem import Lines
from miniattn.kernels.compile.settings import inner
from miniattn.kernels.dense.panels import round_up, write_rows
from miniattn.kernels.registers import (
    as_integer,
    horizontal_max,
    load,
    load_first,
    maximum,
    registers,
    splat,
    store,
    transpose,
)
from miniattn.kernels.registers.matrix_unit import (
    BLOCK,
    CHUNK,
    PARTS,
    STEPS,
    store_parts,
    tile_add,
    tile_store,
    tile_zero,
)

# What may be split in three: the largest number of a tile is within these bounds, or 0. Products of
# two such numbers, and their last parts, keep clear of both ends of float32.
_LEAST = int(np.float32(2.0**-50).view(np.uint32))
_MOST = int(np.float32(2.0**40).view(np.uint32))
_FOUR = 4 * BLOCK  # vectors in four blocks of C


@inner
def blocks_of(n):
    """Return how many blocks hold ``n`` rows or columns."""
    return (n + BLOCK - 1) // BLOCK


@inner
def chunks_of(n):
    """Return how many blocks hold ``n`` terms of a sum."""
    return (n + CHUNK - 1) // CHUNK


@inner
def packed_size(n, terms):
    """Return the words of a packed operand of ``n`` rows or columns and ``terms`` of the sum."""
    return 2 * chunks_of(n) * chunks_of(terms) * PARTS


@inner
def pack(target, source, row, n, columns, along, turned):
    """Pack ``n`` rows of ``columns`` numbers; return whether the unit can multiply them.

    Parameters
    ----------
    along
        The terms of the sum are the columns, else the rows. The rest of the last block is 0.
    turned
        Pack the transpose: with ``along`` as B rather than A, else as A rather than B.
    """
    terms, others = (columns, n) if along else (n, columns)
    across, down = (row, 1) if along else (1, row)  # steps to the next of others and of terms
    largest = as_integer(splat(0.0, target))
    lows, highs = registers(BLOCK, target), registers(BLOCK, target)
    place = target
    # Keys and queries are taken in squares of whole chunks: there is nothing else to be read there.
    for i in range(0, round_up(others, CHUNK) if along else others, BLOCK):
        for t in range(0, terms, CHUNK):
            first = source + (i * across + t * down)
            left, right = (n - i, columns - t) if along else (n - t, columns - i)
            low, low_row = _square(lows, first, row, left, right, turned)
            second = first + BLOCK * down
            if along:
                right -= BLOCK
            else:
                left -= BLOCK
            high, high_row = _square(highs, second, row, left, right, turned)
            for r in range(BLOCK):
                x, y = load(low + r * low_row), load(high + r * high_row)
                largest = maximum(largest, as_integer(x) & 0x7FFFFFFF)
                largest = maximum(largest, as_integer(y) & 0x7FFFFFFF)
                store_parts(place + r * BLOCK, x, y)
            place = place + PARTS
    top = horizontal_max(largest)
    return top == 0 or _LEAST <= top < _MOST


@inner
def _square(square, source, row, n, columns, turned):
    """Return where a square of the source, or its transpose, can be read, and its rows' distance.

    It is in place, or copied to ``square``: of what the source has not, zeros.
    """
    if n < BLOCK or columns < BLOCK:
        for r in range(BLOCK):
            # Nothing is read where no columns are left.
            value = load_first(source + r * row, columns) if r < n else splat(0.0, source)
            store(square + r * BLOCK, value)
        source, row = square, BLOCK
    if turned:
        transpose(square, BLOCK, source, row, BLOCK)
        source, row = square, BLOCK
    return source, row


class Extent(NamedTuple):
    """How many blocks of rows and of columns C has, and how many each sum is over."""

    rows: int
    columns: int
    chunks: int


@inner
def multiply_square(c, a, b, step, work, job, unit):
    """Compute a square ``C = A B`` of `CHUNK` rows and columns, of packed operands.

    The blocks of the second row of A, and of the second column of B, begin ``step`` words after
    the first's, with which they end.

    While the matrix unit multiplies, the vector registers are free for other work: they do
    ``work(job, unit)`` for one ``unit`` after the other. Returned is the first that is not done.
    """
    to, a_lines, b_lines = Lines(c, CHUNK), Lines(a, step), Lines(b, step)
    return _four_tiles(to, a_lines, b_lines, step // PARTS, work, job, unit)


@inner
def multiply(c, a, b, extent, accumulate, work, job, unit):
    """Compute ``C = A B``, or ``C += A B``, of packed operands, with other work meanwhile.

    C has ``rows * BLOCK`` rows and ``columns * BLOCK`` columns of scratch memory; the `Lines` of a
    packed operand are its blocks of one row of C, or of one column.
    """
    square = registers(_FOUR, c.start)
    rows, columns, chunks = extent
    for m in range(0, rows, 2):
        for n in range(0, columns, 2):
            corner = c.start + (m * BLOCK * c.step + n * BLOCK)
            height, width = min(2, rows - m), min(2, columns - n)
            # What C held is added last: it rounds once, not with each instruction.
            to = Lines(square, 2 * BLOCK) if accumulate else Lines(corner, c.step)
            a_m, b_n = Lines(a.start + m * a.step, a.step), Lines(b.start + n * b.step, b.step)
            if height == 2 and width == 2:
                unit = _four_tiles(to, a_m, b_n, chunks, work, job, unit)
            else:
                _fewer_tiles(to, a_m, b_n, height, width, chunks)
            if accumulate:
                for r in range(height * BLOCK):
                    for x in range(0, width * BLOCK, BLOCK):
                        p = corner + (r * c.step + x)
                        store(p, load(p) + load(square + (r * 2 * BLOCK + x)))
    return unit


@inner(forceinline=True)
def _four_tiles(c, a, b, chunks, work, job, unit):
    """Compute 2 x 2 tiles of C, with work in between.

    In small portions: the processor looks some 500 instructions ahead, and the next of the unit's
    has to be among them.
    """
    tile_zero(2, 2)
    for k in range(chunks):
        a_k, b_k = a.start + k * PARTS, b.start + k * PARTS
        tile_add(2, 2, 0, 1, a_k, a.step, b_k, b.step)
        work(job, unit)
        tile_add(2, 2, 1, 2, a_k, a.step, b_k, b.step)
        work(job, unit + 1)
        tile_add(2, 2, 2, 3, a_k, a.step, b_k, b.step)
        work(job, unit + 2)
        work(job, unit + 3)
        tile_add(2, 2, 3, 4, a_k, a.step, b_k, b.step)
        work(job, unit + 4)
        tile_add(2, 2, 4, 5, a_k, a.step, b_k, b.step)
        work(job, unit + 5)
        tile_add(2, 2, 5, STEPS, a_k, a.step, b_k, b.step)
        work(job, unit + 6)
        work(job, unit + 7)
        unit += 8
    tile_store(2, 2, c.start, c.step)
    return unit


@inner
def _fewer_tiles(c, a, b, height, width, chunks):
    """Compute the tiles at the lower or right edge of C."""
    if height == 2:
        tile_zero(2, 1)
        for k in range(chunks):
            tile_add(2, 1, 0, STEPS, a.start + k * PARTS, a.step, b.start + k * PARTS, b.step)
        tile_store(2, 1, c.start, c.step)
    elif width == 2:
        tile_zero(1, 2)
        for k in range(chunks):
            tile_add(1, 2, 0, STEPS, a.start + k * PARTS, a.step, b.start + k * PARTS, b.step)
        tile_store(1, 2, c.start, c.step)
    else:
        tile_zero(1, 1)
        for k in range(chunks):
            tile_add(1, 1, 0, STEPS, a.start + k * PARTS, a.step, b.start + k * PARTS, b.step)
        tile_store(1, 1, c.start, c.step)


@inner
def idle(job, unit):
    """No work."""


@inner
def finish(work, job, unit, units):
    """Do the work that is left."""
    for u in range(unit, units):
        work(job, u)


@inner
def write_turned(target, source, n, columns, factors):
    """Write ``target[i, e] = factors[i] * source[e, i]`` for ``n`` rows of the user's memory.

    Returns whether all of it is finite.
    """
    square = registers(BLOCK, source.start)
    finite = True
    for i in range(0, n, BLOCK):
        factor = load(factors + i)
        for e in range(0, columns, BLOCK):
            for r in range(BLOCK):
                store(square + r * BLOCK, load(source.start + ((e + r) * source.step + i)) * factor)
            transpose(square, BLOCK, square, BLOCK, BLOCK)
            p, rows = target.start + (i * target.step + e), min(BLOCK, n - i)
            if not write_rows(p, target.step, square, BLOCK, rows, min(BLOCK, columns - e), 1.0):
                finite = False
    return finite
