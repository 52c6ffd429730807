"""What a call of attention tells its kernels: sizes, factors, and where the operands are.

Everything arrives in three small arrays of numbers, so that a kernel is compiled once for each
dtype, whatever the layouts of its operands. A mask is part of the operands, as bounds and as a tile
map (see ``miniattn.masks.Lowered``): lo, hi, sinks and lengths are the rows of the operand BOUNDS.
"""

from typing import Any, NamedTuple

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

NORMALIZERS = ("softmax", "sigmoid", "sparsemax", "entmax15")
SOFTMAX, SIGMOID, SPARSEMAX, ENTMAX15 = range(4)


class Place(NamedTuple):
    """Which heads, queries and keys of a whole a call has: dropout is drawn by their numbers."""

    h: int = 0
    i: int = 0
    i_step: int = 1
    j: int = 0
    j_step: int = 1


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
    scored: int
    """Whether a function of the user's has a say in scores."""
    normalizer: int
    """Which one makes weights of scores: the place of its name in NORMALIZERS."""
    scale: float
    measure: float
    """What finished scores are to be multiplied by: the scale, where that is left to be done."""
    softcap: float
    dropout: float


SIZES = Problem._fields.index("scale")  # so many fields are integers


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
        sizes[11],
        factors[0],
        factors[1],
        factors[2],
        factors[3],
    )


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


# --- Pieces of work ------------------------------------------------------------------------------


class Call(NamedTuple):
    """What one thread knows of a call when it takes a piece of its work."""

    problem: Problem
    operands: Any
    scratch: Any
    """Memory of this thread alone."""


class Run(NamedTuple):
    """Queries ``i0 <= i < i0 + n`` of one head."""

    b: int
    h: int
    i0: int
    n: int


@inner
def runs_of(problem, size):
    """Return how many runs of ``size`` queries a head has; the last may be shorter."""
    return (problem.T + size - 1) // size


@inner
def run_of(problem, b, h, number, size):
    """Return a run of a head's queries by its number."""
    i0 = number * size
    return Run(b, h, i0, min(size, problem.T - i0))


@inner
def run_of_piece(problem, piece, size):
    """Return the run that is a piece of work, where each run is one.

    Under a causal mask the last run of a head takes longest: it comes first.
    """
    runs = runs_of(problem, size)
    head = piece // runs
    return run_of(problem, head // problem.H, head % problem.H, runs - 1 - piece % runs, size)


@inner
def key_head(problem, h):
    """Return the head of keys and values that query head ``h`` uses."""
    return h // (problem.H // problem.G)


# --- Bins of a map -------------------------------------------------------------------------------


@inner
def bin_of(i, count, bins):
    """Return in which of some bins the ``i``-th of ``count`` members is."""
    return ((i + 1) * bins - 1) // count


@inner
def first_of(which, count, bins):
    """Return the first of ``count`` members that is in a bin."""
    return which * count // bins
