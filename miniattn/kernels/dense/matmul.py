"""Matrix products C = add + Σ A · B in panels: linear maps and their gradients.

It runs in the thread pool of every other kernel. A BLAS has a pool of its own, whose threads keep
turning for a while after each product: in a training step they left the kernels between the
products one of two cores.

Of B a strip as wide as a panel is packed piece by piece into the nearest cache, and the rows of A
pass by it. Several results are filled in one launch, since threads do not start at the
same time.

A long sum for a small result, such as a weight's gradient, is made of parts, so that each thread
reads those rows of A and B that it also wrote; whoever finishes the last part adds them up. Where
parts end depends on the shape alone. So each element has one order of summation, whatever the
number of threads: k = 0, 1, ... of one product after the other, part after part.
"""

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from miniattn.kernels.compile.queue import Told, each_piece
from miniattn.kernels.compile.settings import inner, task
from miniattn.kernels.dense.panels import WIDE, pack
from miniattn.kernels.dense.places import Extent, Grid, Lines
from miniattn.kernels.registers import (
    LANES,
    address,
    fetch_and_add,
    lanes,
    load_first,
    prefetch,
    product,
    registers,
    store_first,
    transpose,
)

ROWS = 6  # of a panel, which has WIDE vectors a row
DEPTH = 128  # rows of B that are packed at a time
PACKED, EDGE = DEPTH * WIDE, ROWS * WIDE  # in vectors
# Panels of one piece of work: few enough to be shared out evenly, enough to be worth the packing,
# and not so many that their part of A leaves the second cache between two strips.
LEAST, MOST = 10, 64
PIECES = 2  # wanted for each thread: threads do not start at the same time, but packing costs
LONGEST = 2**13  # terms of a part at most: it bounds the rounding of one chain of additions
# Sums of so many terms are made of parts, not more than PARTS, if to add these up is little beside
# reading the factors.
LONG, PARTS = 6 * DEPTH, 8


class Factors(NamedTuple):
    """A (M, K) and B (K, N): K, and the steps along their axes in elements; one of B's is 1."""

    depth: int
    a_row: int
    a_step: int
    b_row: int
    b_step: int


class Sum(NamedTuple):
    """A result C (M, N), whose rows are contiguous, and the products that are added up in it.

    ``add_row`` is the step between the rows of a first summand, -1 where there is none.
    """

    m: int
    n: int
    add_row: int
    factors: tuple[Factors, ...]


class Plan(NamedTuple):
    """The work on some sums, and what it needs."""

    pieces: int
    sizes: NDArray[np.int64]  # a `Head`, and the rows of three tables: `Piece`, `Part`, `Term`
    shapes: tuple[tuple[int, int], ...]
    spare: int  # elements of memory for parts
    counters: int


class Head(NamedTuple):
    """How much there is."""

    pieces: int
    parts: int
    sums: int
    pairs: int


class Piece(NamedTuple):
    """Some rows, as wide as a panel, of one part."""

    part: int
    row: int
    rows: int
    column: int
    counter: int  # of the parts of this place that are finished


class Part(NamedTuple):
    """One of the parts that a sum is made of, and its terms: from ``first`` to ``last``."""

    sum: int
    number: int
    parts: int
    add_row: int
    n: int
    size: int  # elements of C
    spare: int  # where in spare memory this sum's second part is
    first: int
    last: int


class Term(NamedTuple):
    """A · B for a pair of factors, from ``start`` to ``stop`` along K."""

    pair: int
    start: int
    stop: int
    a_row: int
    a_step: int
    b_row: int
    b_step: int


class Pass(NamedTuple):
    """The size of a part of C, and of what it is computed from."""

    rows: int
    columns: int
    depth: int  # packed rows of B
    later: int  # rows of B that are still to come


HEAD, PIECE, PART, TERM = (len(row._fields) for row in (Head, Piece, Part, Term))


def plan(sums: tuple[Sum, ...], itemsize: int, threads: int) -> Plan:
    """Return how sums are cut into pieces of work.

    First come the first rows and the first parts of all sums, so that the queue gives a thread the
    same rows of what goes into several of them.
    """
    width = WIDE * LANES * 4 // itemsize
    panels = max(1, sum(-(-s.n // width) for s in sums))
    wanted = max(threads, -(-PIECES * threads // panels))
    pieces: list[tuple[float, Piece]] = []
    parts: list[Part] = []
    terms: list[Term] = []
    pairs = spare = counters = 0
    for which, (m, n, add_row, factors) in enumerate(sums):
        runs = _runs(m, n, factors, pairs)
        down = -(-m // ROWS)  # so many panels
        shares = max(1, -(-down // MOST), min(down // LEAST, -(-wanted // len(runs))))
        rows = max(1, -(-down // shares)) * ROWS
        places = [(row, column) for row in range(0, m, rows) for column in range(0, n, width)]
        for i, run in enumerate(runs):
            for counter, (row, column) in enumerate(places, counters):
                piece = Piece(len(parts), row, min(rows, m - row), column, counter)
                pieces.append(((i + row / m) / len(runs), piece))
            ends = len(terms), len(terms) + len(run)
            parts.append(Part(which, i, len(runs), -1 if i else add_row, n, m * n, spare, *ends))
            terms += run
        pairs += len(factors)
        spare += (len(runs) - 1) * m * n
        counters += len(places)
    head = Head(len(pieces), len(parts), len(sums), pairs)
    rows_of_all = [head, *(piece for _, piece in sorted(pieces)), *parts, *terms]
    sizes = np.array(list(itertools.chain(*rows_of_all)))
    return Plan(len(pieces), sizes, tuple(s[:2] for s in sums), spare, counters)


def _runs(m: int, n: int, factors: tuple[Factors, ...], pair: int) -> list[list[Term]]:
    """Return the terms of each part of a sum; ``pair`` is the number of its first factors."""
    depth = sum(f.depth for f in factors)
    reading, adding = (m + n) * depth, max(1, m * n)
    parts = max(1, min(PARTS, 2 * depth // LONG, reading // (3 * adding)))
    most = min(LONGEST, -(-depth // parts))
    if depth <= most:
        return [[Term(i, 0, *f) for i, f in enumerate(factors, pair)]]
    return [
        [Term(i, start, min(own, start + most), *steps)]
        for i, (own, *steps) in enumerate(factors, pair)
        for start in range(0, own, most)
    ]


@inner
def _piece(p):
    return Piece(p[0], p[1], p[2], p[3], p[4])


@inner
def _part(p):
    return Part(p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8])


@inner
def _term(p):
    return Term(p[0], p[1], p[2], p[3], p[4], p[5], p[6])


@task
def matmul(sizes, factors, operands, queue, scratch):
    """Fill the sums C (M, N) of a `plan`, whose numbers are ``sizes``.

    ``operands`` are addresses: of C for each sum, of the first summand for each, of A and B for
    each pair, and of spare memory. Then come the counters, which start at 0.
    """
    packed, edge = registers(PACKED, scratch), registers(EDGE, scratch)
    each_piece(queue, _do_piece, (Told(sizes, factors, operands, scratch), packed, edge))


@inner
def _do_piece(job, number):
    """Fill one piece of a part, and add up the parts if it is the last to be finished."""
    (sizes, _, operands, _), packed, edge = job
    head = Head(sizes[0], sizes[1], sizes[2], sizes[3])
    pieces = sizes + HEAD
    parts = pieces + PIECE * head.pieces
    terms = parts + PART * head.parts
    piece = _piece(pieces + PIECE * number)
    part = _part(parts + PART * piece.part)
    _fill(head, terms, operands, piece, part, packed, edge)
    if part.parts > 1:
        _finish(head, operands, piece, part, packed)


@inner
def _fill(head, terms, operands, piece, part, packed, edge):
    """Compute one piece of a part."""
    n, rows, width = part.n, piece.rows, WIDE * lanes(packed)
    columns = min(width, n - piece.column)
    c = _memory(head, operands, piece, part, part.number, packed)
    begun = part.add_row >= 0
    if begun:
        add = address(operands[head.sums + part.sum], packed)
        _copy(c, n, add + (piece.row * part.add_row + piece.column), part.add_row, rows, columns)
    for t in range(part.first, part.last):
        term = _term(terms + TERM * t)
        factors = operands + (2 * head.sums + 2 * term.pair)
        a = address(factors[0], packed) + piece.row * term.a_row
        b = address(factors[1], packed) + piece.column * term.b_step
        # A term of nothing is computed, too: C has to be written.
        for k in range(term.start, max(term.stop, term.start + 1), DEPTH):
            depth = min(DEPTH, term.stop - k)
            _pack(packed, width, b + k * term.b_row, term.b_row, term.b_step, columns, depth)
            left = Grid(a + k * term.a_step, term.a_row, term.a_step)
            extent = Pass(rows, columns, depth, term.stop - k - depth)
            _pass(c, n, left, packed, edge, extent, begun)
            begun = True


@inner
def _finish(head, operands, piece, part, like):
    """Add up the parts of a place where they all are finished."""
    counters = operands + (2 * head.sums + 2 * head.pairs + 1)
    if fetch_and_add(counters + piece.counter, 1) == part.parts - 1:
        columns = min(WIDE * lanes(like), part.n - piece.column)
        total = _memory(head, operands, piece, part, 0, like)
        for number in range(1, part.parts):
            more = _memory(head, operands, piece, part, number, like)
            _add(total, more, part.n, piece.rows, columns)


@inner
def _memory(head, operands, piece, part, number, like):
    """Return where a part of a sum has the rows of a piece: the first part in C itself."""
    at = piece.row * part.n + piece.column
    if number == 0:
        return address(operands[part.sum], like) + at
    spare = address(operands[2 * head.sums + 2 * head.pairs], like)
    return spare + (part.spare + (number - 1) * part.size + at)


@inner
def _add(target, source, row, rows, columns):
    w = lanes(target)
    for i in range(rows):
        for j in range(0, columns, w):
            p, n = target + (i * row + j), min(w, columns - j)
            store_first(p, load_first(p, n) + load_first(source + (i * row + j), n), n)


@inner
def _pass(c, c_row, a, packed, edge, extent, begun):
    """Compute some rows of C, or add to them, from packed rows of B."""
    rows, columns, width = extent.rows, extent.columns, WIDE * lanes(c)
    for row in range(0, rows, ROWS):
        valid = min(ROWS, rows - row)
        whole = valid == ROWS and columns == width
        place, step = (c + row * c_row, c_row) if whole else (edge, width)
        if begun and not whole:
            _copy(edge, width, c + row * c_row, c_row, valid, columns)
        _fetch(a, row, extent)
        _fetch_panel(place, step)
        left = Grid(a.start + row * a.down, a.down, a.across)
        to, right = Lines(place, step), Lines(packed, width)
        product(ROWS, WIDE, to, left, right, Extent(valid, extent.depth), begun)
        if not whole:
            _copy(c + row * c_row, c_row, edge, width, valid, columns)


@inner
def _copy(target, target_row, source, source_row, rows, columns):
    w = lanes(target)
    for i in range(rows):
        for j in range(0, columns, w):
            n = min(w, columns - j)
            value = load_first(source + (i * source_row + j), n)
            store_first(target + (i * target_row + j), value, n)


@inner
def _fetch(a, row, extent):
    """Ask for what follows in A, which the processor does not foresee: it is read in short runs.

    Where A's rows are contiguous that is the next panel; where its columns are, a share of the
    next pass.
    """
    w, rows, depth = lanes(a.start), extent.rows, extent.depth
    if a.across == 1:
        for i in range(row + ROWS, min(row + 2 * ROWS, rows)):
            for k in range(0, depth, w):
                prefetch(a.start + (i * a.down + k))
    else:
        ahead = min(depth, extent.later)
        for k in range(ahead * row // rows, min(ahead, ahead * (row + ROWS) // rows)):
            for i in range(0, rows, w):
                prefetch(a.start + ((depth + k) * a.across + i * a.down))


@inner
def _fetch_panel(c, c_row):
    """Ask for a panel that is about to be written: cold results took a tenth of their product."""
    for i in range(ROWS):
        for j in range(WIDE):
            prefetch(c + (i * c_row + j * lanes(c)))


@inner
def _pack(target, width, b, b_row, b_step, n, depth):
    """Write ``target[k * width + i] = B[k, i]``, 0 for ``n <= i < width``."""
    if b_step == 1:
        pack(Lines(target, width), Lines(b, b_row), depth, n)
        return
    w = lanes(target)
    for i in range(0, width, w):
        k = 0
        while i + w <= n and k + w <= depth:
            transpose(target + (k * width + i), width, b + (i * b_step + k), b_step, w)
            k += w
        while k < depth:
            for j in range(i, i + w):
                target[k * width + j] = b[j * b_step + k] if j < n else 0.0
            k += 1
