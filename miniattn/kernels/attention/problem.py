"""What a call of attention tells its kernels, beside operands: sizes, options and factors.

Everything arrives in three small arrays of numbers, so that a kernel is compiled once for each
dtype, whatever the layouts of its operands: sizes and factors are taken apart here, operands in
`operands`.
"""

from typing import NamedTuple

from miniattn.kernels.compile.settings import inner

NORMALIZERS = ("softmax", "sigmoid", "sparsemax", "entmax15")
SOFTMAX, SIGMOID, SPARSEMAX, ENTMAX15 = range(4)


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
