"""The matrix product C = A · B on register tiles: linear maps and their gradients.

It runs in the thread pool of every other kernel. A BLAS has a pool of its own, whose threads keep
turning for a while after each product: in a training step they left the kernels between the
products one of two cores.

A panel of B, as wide as a register tile, is packed piece by piece into the nearest cache, and the
tiles of A pass by it. Each element of C has one owner and one order of summation, k = 0, 1, ...,
whatever the number of threads.
"""

from miniattn.kernels._runtime import inner, task
from miniattn.kernels.queue import take
from miniattn.kernels.simd import (
    LANES,
    address,
    lanes,
    load_first,
    prefetch,
    product,
    registers,
    store_first,
    transpose,
)
from miniattn.kernels.tiles import WIDE, pack

TILE = 6  # rows of a register tile, which has WIDE vectors a row
DEPTH = 128  # rows of B that are packed at a time
PACKED, EDGE = DEPTH * WIDE, TILE * WIDE  # in vectors
# Tiles of one piece of work: few enough to be shared out evenly, enough to be worth the packing,
# and not so many that their part of A leaves the second cache between two panels.
LEAST, MOST = 10, 64
PIECES = 2  # wanted for each thread: threads do not start at the same time, but packing costs


def plan(height: int, n: int, itemsize: int, threads: int) -> tuple[int, int]:
    """Return into how many pieces C (height, n) is cut, and the rows of each."""
    tiles, panels = -(-height // TILE), -(-n // (WIDE * LANES * 4 // itemsize))
    wanted = -(-PIECES * threads // panels)
    blocks = max(-(-tiles // MOST), min(tiles // LEAST, wanted))
    share = -(-tiles // blocks)
    return -(-tiles // share) * panels, share * TILE


@task
def matmul(sizes, factors, operands, queue, scratch):
    """Fill C (M, N) with A · B, or add that to it.

    Parameters
    ----------
    sizes : M, N, K, the steps of A along M and K, of B along K and N, of C along M, whether to add
        to C, and the plan's pieces and rows. Steps are in elements; one of B's is 1, C's rows are
        contiguous.
    operands : the addresses of A, B and C
    """
    height, n, depth, a_row, a_step = sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]
    b_row, b_step, c_row, resume = sizes[5], sizes[6], sizes[7], sizes[8] != 0
    pieces, share = sizes[9], sizes[10]
    a, b, c = address(operands[0], scratch), address(operands[1], scratch), operands[2]
    width = WIDE * lanes(scratch)
    packed, edge = registers(PACKED, scratch), registers(EDGE, scratch)
    panels = (n + width - 1) // width
    piece = take(queue)
    while piece < pieces:
        column, first = piece % panels * width, piece // panels * share
        rows, columns = min(share, height - first), min(width, n - column)
        for k in range(0, depth, DEPTH):
            deep = min(DEPTH, depth - k)
            _pack(packed, width, b + (k * b_row + column * b_step), b_row, b_step, columns, deep)
            _pass(
                address(c, scratch) + (first * c_row + column),
                c_row,
                a + (first * a_row + k * a_step),
                a_row,
                a_step,
                packed,
                edge,
                rows,
                columns,
                deep,
                depth - k - deep,
                resume or k > 0,
            )
        piece = take(queue)


@inner
def _pass(c, c_row, a, a_row, a_step, packed, edge, rows, columns, deep, left, resume):
    """Compute ``rows`` of C, or add to them, from ``deep`` packed rows of B."""
    width = WIDE * lanes(c)
    for row in range(0, rows, TILE):
        valid = min(TILE, rows - row)
        whole = valid == TILE and columns == width
        place, step = (c + row * c_row, c_row) if whole else (edge, width)
        if resume and not whole:
            _copy(edge, width, c + row * c_row, c_row, valid, columns)
        _fetch(a, a_row, a_step, row, rows, deep, left)
        tile = a + row * a_row
        product(
            TILE, WIDE, place, step, tile, a_row, a_step, packed, width, deep, valid, resume
        )  # fmt: skip
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
def _fetch(a, a_row, a_step, row, rows, deep, left):
    """Ask for what follows in A, which the processor does not foresee: it is read in short runs.

    Where A's rows are contiguous that is the next tile; where its columns are, a share of the
    next pass.
    """
    w = lanes(a)
    if a_step == 1:
        for i in range(row + TILE, min(row + 2 * TILE, rows)):
            for k in range(0, deep, w):
                prefetch(a + (i * a_row + k))
    else:
        ahead = min(deep, left)
        for k in range(ahead * row // rows, min(ahead, ahead * (row + TILE) // rows)):
            for i in range(0, rows, w):
                prefetch(a + ((deep + k) * a_step + i * a_row))


@inner
def _pack(target, width, b, b_row, b_step, n, depth):
    """Write ``target[k * width + i] = B[k, i]``, 0 for ``n <= i < width``."""
    if b_step == 1:
        pack(target, width, b, b_row, depth, n)
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
