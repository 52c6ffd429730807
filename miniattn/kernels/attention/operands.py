"""Where the operands of a call of attention are: a table of addresses and strides.

A mask is part of the operands, as bounds and as a tile map (see ``miniattn.masks.Lowered``): lo,
hi, sinks and lengths are the rows of the operand BOUNDS.
"""

from typing import NamedTuple

from miniattn.kernels.compile.settings import inner
from miniattn.kernels.dense.places import Grid, Lines
from miniattn.kernels.registers import address

# The table of operands begins with what differs from call to call: the address of each, 0 where it
# is absent, the seed of dropout, what a kernel answers: whether numbers are UNFIT for the way it
# takes, and the PLACE of the call. Then come the strides of its four axes in elements, 0 along an
# axis of length 1.
OPERANDS = (
    *("q", "k", "v", "out", "lse", "stats", "bias", "dout", "dq", "dk", "dv", "dbias", "sums"),
    *("bounds", "tiles", "words", "dlse", "sink", "score", "dtables", "delta"),
)
Q, K, V, OUT, LSE, STATS, BIAS, DOUT, DQ, DK, DV, DBIAS, SUMS = range(13)
BOUNDS, TILES, WORDS, DLSE, SINK, SCORE, DTABLES, DELTA = range(13, 21)
SEED = len(OPERANDS)
UNFIT = SEED + 1
PLACE = SEED + 2
STRIDES = PLACE + 5
AXES = 4


class Place(NamedTuple):
    """Which heads, queries and keys of a whole a call has: dropout is drawn by their numbers."""

    h: int = 0
    i: int = 0
    i_step: int = 1
    j: int = 0
    j_step: int = 1


@inner
def place_of(operands):
    """Return the `Place` of a call."""
    return Place(
        operands[PLACE],
        operands[PLACE + 1],
        operands[PLACE + 2],
        operands[PLACE + 3],
        operands[PLACE + 4],
    )


@inner
def given(operands, which):
    """Return whether an operand was given."""
    return operands[which] != 0


@inner
def step_of(operands, which, axis):
    """Return how many elements lie between an operand's neighbours along ``axis``."""
    return operands[STRIDES + which * AXES + axis]


@inner
def part_of(operands, which, b, h, like):
    """Return the address of an operand's batch row ``b`` and head ``h``."""
    start = address(operands[which], like)
    return start + (b * step_of(operands, which, 0) + h * step_of(operands, which, 1))


@inner
def lines_of(operands, which, b, h, i, like):
    """Return the `Lines` of an operand's batch row ``b`` and head ``h``, from row ``i`` on."""
    step = step_of(operands, which, 2)
    return Lines(part_of(operands, which, b, h, like) + i * step, step)


@inner
def grid_of(operands, which, b, h, like):
    """Return the `Grid` of an operand's batch row ``b`` and head ``h``."""
    start = part_of(operands, which, b, h, like)
    return Grid(start, step_of(operands, which, 2), step_of(operands, which, 3))


@inner
def stats_of(operands, which, b, h, like):
    """Return the address of a head's maxima (0) or of the logarithms of its sums (1)."""
    return part_of(operands, STATS, which, b, like) + h * step_of(operands, STATS, 2)
