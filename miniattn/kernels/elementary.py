"""Functions on vector registers that the processor does not have: σ and the normal distribution.

They are accurate to a few units in the last place of either dtype, also where the result is tiny:
nothing is computed as 1 minus something close to 1.
"""

from miniattn.kernels.compile.settings import inner
from miniattn.kernels.registers import (
    LANES,
    absolute,
    exp2_nonpositive,
    exp2_product,
    fma,
    lanes,
    minimum,
    select,
    splat,
)

INV_SQRT_2PI = 0.3989422804014327
LOG2E = 1.4426950408889634
# What is missing from LOG2E rounded to float32 and to float64.
LOG2E_TAIL32, LOG2E_TAIL64 = 1.925963033500995e-08, 2.0355273740931033e-17

# The upper tail of the normal distribution for t ≥ 0: 1 − Φ(t) = e^(−t²/2) · P(u) / (t + c), with
# P a polynomial in u = (t − c) / (t + c). For float32 it is the best in the sense of the largest
# relative error divided by 1 + t²/8, which then is 3e-8; for float64 it was fitted at Chebyshev
# nodes: 1e-17 for t ≤ 39, past which the exponential is 0.
CENTRE32, CENTRE64 = 3.36, 4.2  # chosen among their neighbours because Φ(0) is exactly 1/2
TAIL32 = (
    0.7406601036504216,
    -0.5514218870161136,
    0.2929117338479618,
    -0.09629177885864827,
    0.007725703408719415,
    0.0080175614816293,
    -0.0019732654507359547,
    -0.0009796607385247206,
)
TAIL64 = (
    0.7587515120814697,
    -0.621862446809369,
    0.41224670569964944,
    -0.21381755344168213,
    0.08017660450711632,
    -0.016764722972305145,
    -0.0014678439804095495,
    0.0021070450498468576,
    -0.0002906816543873684,
    -0.00021363165032944488,
    6.402219095779704e-05,
    2.5968161765680444e-05,
    -1.0603041139084144e-05,
    -4.2211391070144315e-06,
    1.6168120932223242e-06,
    8.580174728919592e-07,
    -2.0634844193442615e-07,
    -1.8677275956062085e-07,
    1.058531155147013e-08,
    3.612268587558921e-08,
    4.66294571331509e-09,
    -4.370145306079387e-09,
    -1.3190920649807602e-09,
)


@inner
def is_float32(v):
    """Return whether v is a float32 vector: known when the kernel is compiled."""
    return lanes(v) == LANES


@inner
def polynomial(coefficients, u):
    """Return Σ_k coefficients[k] · u^k by Horner's rule."""
    total = splat(coefficients[-1], u)
    for k in range(len(coefficients) - 2, -1, -1):
        total = fma(total, u, coefficients[k])
    return total


@inner
def sigmoid(v):
    """Return σ(v) = 1 / (1 + e^−v) and 1 − σ(v) = σ(−v)."""
    tail = LOG2E_TAIL32 if is_float32(v) else LOG2E_TAIL64
    e = exp2_product(-absolute(v), LOG2E, tail)  # never overflows
    large = 1.0 / (e + 1.0)
    small = e * large
    positive = v >= 0.0
    return select(positive, large, small), select(positive, small, large)


@inner
def normal(v):
    """Return Φ(v) and φ(v) = Φ'(v): the normal distribution and its density.

    Rounding the exponent costs the lower tail v²/2 units in the last place; keeping it in two words
    would save them, and take a fifth longer.
    """
    e = exp2_nonpositive(v * v * (-0.5 * LOG2E))
    centre = CENTRE32 if is_float32(v) else CENTRE64
    t = minimum(40.0, absolute(v))  # past it e is 0; ∞ · 0 would be NaN
    w = 1.0 / (t + centre)
    u = (t - centre) * w  # not 1 − 2 · centre · w: that doubles w's rounding where t is small
    p = polynomial(TAIL32, u) if is_float32(v) else polynomial(TAIL64, u)
    upper = e * w * p
    return select(v > 0.0, 1.0 - upper, upper), e * INV_SQRT_2PI
