"""Rows of a matrix as pieces of work, and what the tasks that do them are told.

``sizes`` are R, n, how many rows a piece has, how many pieces there are, whether the result is
large (see `writing`), and whether there is a mask; what else a task needs follows from REST on.
Operands are contiguous, and each row of a result has one owner.
"""

from miniattn.kernels.compile.settings import inner
from miniattn.kernels.registers import LANES, address

COUNT, N, SHARE, PIECES, LARGE, MASKED, REST = range(7)
# Elements that one piece has; with fewer, one thread is done before a pool is awake.
GRAIN = 16_384


@inner
def rows_per_piece(count, n):
    """Return the share of one piece; it depends on the shape alone. Groups are not torn apart."""
    rows = GRAIN // max(1, n)
    return max(1, min(count, rows - rows % LANES if rows > LANES else rows))


@inner
def part_of(sizes, piece):
    """Return the first row of a piece, and how many rows it has."""
    start = piece * sizes[SHARE]
    return start, min(sizes[SHARE], sizes[COUNT] - start)


@inner
def operand(operands, which, like):
    """Return a pointer to the operand number ``which``, of ``like``'s dtype."""
    return address(operands[which], like)
