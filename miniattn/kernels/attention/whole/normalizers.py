"""What makes weights of a row of scores where it isn't softmax: one copy of the mathematics.

With z_j = (s_j − m) / p of the scores s_j that a query sees, m their largest::

    sparsemax   P_j = d_j      d_j = max(0, z_j − t), p = 1    Σ_j P_j = 1 defines the threshold t
    entmax15    P_j = d_j²     the same with p = 2
    sigmoid     P_j = σ(s_j)   each by itself: m = 0, p = 1, and no threshold

The gradients of scores are ``dS_j = u_j (dP_j − delta)``, with the slope u_j = 1 where d_j > 0
(sparsemax), d_j (entmax15) or P_j (1 − P_j) (sigmoid). The sum of a row's weights is held at 1 by
``delta = Σ_j u_j dP_j / Σ_j u_j``, which for sigmoid is 0.

f(t) = Σ_j d_j^p − 1 is convex and falls. Newton's steps from t = −1, where the largest score alone
makes up the sum, climb to its root and never pass it (see also `kernels/rows/sparse.py`). A vector
holds 16 queries: each climbs on its own, until none does.

References
----------
Martins and Astudillo. "From softmax to sparsemax" (2016), section 2.
Peters, Niculae and Martins. "Sparse sequence-to-sequence models" (2019), section 3.
Ramapuram et al. "Theory, analysis, and best practices for sigmoid self-attention" (2024).
Gonçalves et al. "AdaSplash: adaptive sparse flash attention" (2025), section 3.
"""

import numpy as np

from miniattn.kernels.attention.online import base_of
from miniattn.kernels.attention.problem import ENTMAX15, SIGMOID
from miniattn.kernels.compile.settings import inner
from miniattn.kernels.elementary import sigmoid
from miniattn.kernels.registers import any_true, fma, load, select, splat

STEPS = 64  # a limit that rows do not come near: most are done in 5 to 10


@inner
def measure_of(problem):
    """Return what differences of scores are to be multiplied by, to be those of z."""
    return problem.measure * 0.5 if problem.normalizer == ENTMAX15 else problem.measure


@inner
def argument(score, top, factor):
    """Return z, which is -inf where a score is hidden, whatever else there is in its row."""
    return select(score == -np.inf, score, (score - base_of(top)) * factor)


# --- The weight of one score, and its slope ------------------------------------------------------


@inner
def by_sigmoid(z, t):
    """Return P = σ(z), and P (1 − P)."""
    weight, rest = sigmoid(z)
    return weight, weight * rest


@inner
def by_sparsemax(z, t):
    """Return P = d, and 1 where that is not 0; NaN stays."""
    d = _above(z, t)
    return d, select(d == 0.0, 0.0, fma(d, 0.0, 1.0))


@inner
def by_entmax15(z, t):
    """Return P = d², and d."""
    d = _above(z, t)
    return d * d, d


@inner
def _above(z, t):
    """Return max(0, z − t); NaN stays, but for a hidden score."""
    d = z - t
    return select((d <= 0.0) | (z == -np.inf), 0.0, d)


# --- The threshold of a row ----------------------------------------------------------------------


@inner
def threshold(z, n, width, own, problem):
    """Return t of a vector of queries, from n rows of z, a multiple of four, and a z of their own.

    That is the sink's, -inf where there is none.
    """
    t = splat(-1.0, z)
    if problem.normalizer == SIGMOID:
        return t
    squared = problem.normalizer == ENTMAX15
    for _ in range(STEPS):
        if squared:
            slope, value = _squares_above(z, n, width, own, t)
        else:
            slope, value = _sums_above(z, n, width, own, t)
        higher = t + (value - 1.0) / slope
        climbs = any_true(higher > t)
        t = select(higher <= t, t, higher)  # NaN stays
        if not climbs:
            break
    return t


@inner
def _sums_above(z, n, width, own, t):
    """Return how many z are above t, and Σ d."""
    d = _plus(own, t)
    zero = _one_above(d)
    one = two = three = splat(0.0, z)
    a, b, c, e = d, one, one, one
    for r in range(0, n, 4):  # in fours: a chain of sums waits 4 cycles for each
        p = z + r * width
        d = _plus(load(p), t)
        zero, a = zero + _one_above(d), a + d
        d = _plus(load(p + width), t)
        one, b = one + _one_above(d), b + d
        d = _plus(load(p + 2 * width), t)
        two, c = two + _one_above(d), c + d
        d = _plus(load(p + 3 * width), t)
        three, e = three + _one_above(d), e + d
    return (zero + one) + (two + three), (a + b) + (c + e)


@inner
def _squares_above(z, n, width, own, t):
    """Return 2 Σ d and Σ d², the slope of which that is."""
    d = _plus(own, t)
    zero, a = d, d * d
    one = two = three = splat(0.0, z)
    b, c, e = one, one, one
    for r in range(0, n, 4):
        p = z + r * width
        d = _plus(load(p), t)
        zero, a = zero + d, fma(d, d, a)
        d = _plus(load(p + width), t)
        one, b = one + d, fma(d, d, b)
        d = _plus(load(p + 2 * width), t)
        two, c = two + d, fma(d, d, c)
        d = _plus(load(p + 3 * width), t)
        three, e = three + d, fma(d, d, e)
    return 2.0 * ((zero + one) + (two + three)), (a + b) + (c + e)


@inner
def _plus(z, t):
    """Return max(0, z − t); NaN stays."""
    d = z - t
    return select(d <= 0.0, 0.0, d)


@inner
def _one_above(d):
    return select(d > 0.0, splat(1.0, d), 0.0)
