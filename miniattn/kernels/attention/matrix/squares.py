"""Operands packed into squares for the matrix unit, products of them, and results written.

See `matrix_unit` for what a square is. A product takes both operands packed, and writes rows of
scratch memory.
"""

from typing import NamedTuple

import numpy as np

from miniattn.kernels.compile.settings import inner
from miniattn.kernels.dense.panels import round_up, write_rows
from miniattn.kernels.dense.places import Lines, line, lines_from
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
    CHUNK,
    PARTS,
    SIDE,
    STEPS,
    add_squares,
    store_parts,
    store_squares,
    zero_squares,
)

# What may be split in three: the largest number packed is within these bounds, or 0. Products of
# two such numbers, and their last parts, keep clear of both ends of float32.
_LEAST = int(np.float32(2.0**-50).view(np.uint32))
_MOST = int(np.float32(2.0**40).view(np.uint32))
_FOUR = 4 * SIDE  # vectors in four squares of C


@inner
def squares_of(n):
    """Return how many squares hold ``n`` rows or columns."""
    return (n + SIDE - 1) // SIDE


@inner
def chunks_of(n):
    """Return how many squares hold ``n`` terms of a sum."""
    return (n + CHUNK - 1) // CHUNK


@inner
def packed_size(n, terms):
    """Return the words of a packed operand of ``n`` rows or columns and ``terms`` of the sum."""
    return 2 * chunks_of(n) * chunks_of(terms) * PARTS


@inner
def pack(target, source, n, columns, along, turned):
    """Pack ``n`` rows of ``columns`` numbers; return whether the unit can multiply them.

    Parameters
    ----------
    along
        The terms of the sum are the columns, else the rows. The rest of the last square is 0.
    turned
        Pack the transpose: with ``along`` as B rather than A, else as A rather than B.
    """
    terms, others = (columns, n) if along else (n, columns)
    row = source.step
    across, down = (row, 1) if along else (1, row)  # steps to the next of others and of terms
    largest = as_integer(splat(0.0, target))
    lows, highs = registers(SIDE, target), registers(SIDE, target)
    place = target
    # Keys and queries are taken in squares of whole chunks: there is nothing else to be read there.
    for i in range(0, round_up(others, CHUNK) if along else others, SIDE):
        for t in range(0, terms, CHUNK):
            first = source.start + (i * across + t * down)
            left, right = (n - i, columns - t) if along else (n - t, columns - i)
            low, low_row = _square(lows, first, row, left, right, turned)
            second = first + SIDE * down
            if along:
                right -= SIDE
            else:
                left -= SIDE
            high, high_row = _square(highs, second, row, left, right, turned)
            for r in range(SIDE):
                x, y = load(low + r * low_row), load(high + r * high_row)
                largest = maximum(largest, as_integer(x) & 0x7FFFFFFF)
                largest = maximum(largest, as_integer(y) & 0x7FFFFFFF)
                store_parts(place + r * SIDE, x, y)
            place = place + PARTS
    top = horizontal_max(largest)
    return top == 0 or _LEAST <= top < _MOST


@inner
def _square(square, source, row, n, columns, turned):
    """Return where a square of the source, or its transpose, can be read, and its rows' distance.

    It is in place, or copied to ``square``: of what the source has not, zeros.
    """
    if n < SIDE or columns < SIDE:
        for r in range(SIDE):
            # Nothing is read where no columns are left.
            value = load_first(source + r * row, columns) if r < n else splat(0.0, source)
            store(square + r * SIDE, value)
        source, row = square, SIDE
    if turned:
        transpose(square, SIDE, source, row, SIDE)
        source, row = square, SIDE
    return source, row


class Squares(NamedTuple):
    """How many squares of rows and of columns C has, and how many each sum is over."""

    rows: int
    columns: int
    chunks: int


@inner
def multiply_small(c, a, b, step, work, job, portion):
    """Compute ``C = A B`` of `CHUNK` rows and columns, of packed operands.

    The squares of the second row of A, and of the second column of B, begin ``step`` words after
    the first's, with which they end.

    While the matrix unit multiplies, the vector registers are free for other work: they do
    ``work(job, portion)`` for one ``portion`` after the other. Returned is the first that is left.
    """
    to, a_lines, b_lines = Lines(c, CHUNK), Lines(a, step), Lines(b, step)
    return _four_squares(to, a_lines, b_lines, step // PARTS, work, job, portion)


@inner
def multiply(c, a, b, size, accumulate, work, job, portion):
    """Compute ``C = A B``, or ``C += A B``, of packed operands, with other work meanwhile.

    C has ``rows * SIDE`` rows and ``columns * SIDE`` columns of scratch memory; the `Lines` of a
    packed operand are its squares of one row of C, or of one column.
    """
    four = registers(_FOUR, c.start)
    rows, columns, chunks = size
    for m in range(0, rows, 2):
        for n in range(0, columns, 2):
            corner = c.start + (m * SIDE * c.step + n * SIDE)
            height, width = min(2, rows - m), min(2, columns - n)
            # What C held is added last: it rounds once, not with each instruction.
            to = Lines(four, 2 * SIDE) if accumulate else Lines(corner, c.step)
            a_m, b_n = lines_from(a, m), lines_from(b, n)
            if height == 2 and width == 2:
                portion = _four_squares(to, a_m, b_n, chunks, work, job, portion)
            else:
                _fewer_squares(to, a_m, b_n, height, width, chunks)
            if accumulate:
                for r in range(height * SIDE):
                    for x in range(0, width * SIDE, SIDE):
                        p = corner + (r * c.step + x)
                        store(p, load(p) + load(four + (r * 2 * SIDE + x)))
    return portion


@inner(forceinline=True)
def _four_squares(c, a, b, chunks, work, job, portion):
    """Compute 2 x 2 squares of C, with work in between.

    In small portions: the processor looks some 500 instructions ahead, and the next of the unit's
    has to be among them.
    """
    zero_squares(2, 2)
    for k in range(chunks):
        a_k, b_k = _chunk(a, k), _chunk(b, k)
        add_squares(2, 2, 0, 1, a_k, b_k)
        work(job, portion)
        add_squares(2, 2, 1, 2, a_k, b_k)
        work(job, portion + 1)
        add_squares(2, 2, 2, 3, a_k, b_k)
        work(job, portion + 2)
        work(job, portion + 3)
        add_squares(2, 2, 3, 4, a_k, b_k)
        work(job, portion + 4)
        add_squares(2, 2, 4, 5, a_k, b_k)
        work(job, portion + 5)
        add_squares(2, 2, 5, STEPS, a_k, b_k)
        work(job, portion + 6)
        work(job, portion + 7)
        portion += 8
    store_squares(2, 2, c)
    return portion


@inner
def _fewer_squares(c, a, b, height, width, chunks):
    """Compute the squares at the lower or right edge of C."""
    if height == 2:
        zero_squares(2, 1)
        for k in range(chunks):
            add_squares(2, 1, 0, STEPS, _chunk(a, k), _chunk(b, k))
        store_squares(2, 1, c)
    elif width == 2:
        zero_squares(1, 2)
        for k in range(chunks):
            add_squares(1, 2, 0, STEPS, _chunk(a, k), _chunk(b, k))
        store_squares(1, 2, c)
    else:
        zero_squares(1, 1)
        for k in range(chunks):
            add_squares(1, 1, 0, STEPS, _chunk(a, k), _chunk(b, k))
        store_squares(1, 1, c)


@inner
def _chunk(packed, k):
    """Return the squares of the `k`-th chunk of terms of a packed operand."""
    return Lines(packed.start + k * PARTS, packed.step)


@inner
def idle(job, portion):
    """No work."""


@inner
def finish(work, job, portion, portions):
    """Do the work that is left."""
    for p in range(portion, portions):
        work(job, p)


@inner
def write_turned(target, source, n, columns, factors):
    """Write ``target[i, e] = factors[i] * source[e, i]`` for ``n`` rows of the user's memory.

    Returns whether all of it is finite.
    """
    square = registers(SIDE, source.start)
    finite = True
    for i in range(0, n, SIDE):
        factor = load(factors + i)
        for e in range(0, columns, SIDE):
            for r in range(SIDE):
                store(square + r * SIDE, load(source.start + ((e + r) * source.step + i)) * factor)
            transpose(square, SIDE, square, SIDE, SIDE)
            to = Lines(line(target, i) + e, target.step)
            rows, width = min(SIDE, n - i), min(SIDE, columns - e)
            finite = write_rows(to, Lines(square, SIDE), rows, width, 1.0) and finite
    return finite
