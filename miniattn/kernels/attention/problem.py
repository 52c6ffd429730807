"""What a call of attention tells its kernels: sizes, factors, and where the operands are.

Everything arrives in three small arrays of numbers, so that a kernel is compiled once for each
dtype, whatever the layouts of its operands. A mask is part of the operands, in its canonical form
(see ``miniattn.masks.Lowered``): lo, hi, sinks and lengths are the rows of the operand BOUNDS.
"""

from typing import Any, NamedTuple

from miniattn.kernels.compile.settings import inner
from miniattn.kernels.registers import address

# The table of operands begins with what differs from call to call: the address of each, 0 where it
# is absent, the seed of dropout, and what a kernel answers: whether numbers are UNFIT for the way
# it takes. Then come the strides of its four axes in elements, 0 along an axis of length 1.
OPERANDS = (
    *("q", "k", "v", "out", "lse", "stats", "bias", "dout", "dq", "dk", "dv", "dbias", "sums"),
    *("bounds", "q_ids", "k_ids", "dense", "dlse"),
)
Q, K, V, OUT, LSE, STATS, BIAS, DOUT, DQ, DK, DV, DBIAS, SUMS = range(13)
BOUNDS, Q_IDS, K_IDS, DENSE, DLSE = range(13, 18)
SEED = len(OPERANDS)
UNFIT = SEED + 1
STRIDES = SEED + 2
AXES = 4


class Problem(NamedTuple):
    """Sizes and options of one call; softcap 0 means none."""

    B: int
    H: int
    G: int
    T: int
    S: int
    D: int
    Dv: int
    parts: int
    rows: int
    columns: int
    tasks: int
    scale: float
    unit: float
    """What finished scores are to be multiplied by: the scale, where that is left to be done."""
    softcap: float
    dropout: float


SIZES = Problem._fields.index("scale")  # so many fields are integers
TASKS = Problem._fields.index("tasks")  # pieces of work: another number for each kernel of a call


@inner
def problem_of(sizes, factors):
    """Return the integers and the other numbers of a call as a `Problem`."""
    return Problem(
        sizes[0],
        sizes[1],
        sizes[2],
        sizes[3],
        sizes[4],
        sizes[5],
        sizes[6],
        sizes[7],
        sizes[8],
        sizes[9],
        sizes[10],
        factors[0],
        factors[1],
        factors[2],
        factors[3],
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


class Lines(NamedTuple):
    """Rows of numbers, or blocks of them, that begin ``step`` elements apart."""

    start: Any
    step: int


@inner
def lines_of(operands, which, b, h, i, like):
    """Return the rows of an operand's batch row ``b`` and head ``h``, from row ``i`` on."""
    step = step_of(operands, which, 2)
    return Lines(part_of(operands, which, b, h, like) + i * step, step)


@inner
def stats_of(operands, which, b, h, like):
    """Return the address of a head's maxima (0) or of the logarithms of its sums (1)."""
    return part_of(operands, STATS, which, b, like) + h * step_of(operands, STATS, 2)
