"""One query and one key: their score, and whether their weight is dropped.

What a tile's scores go through in `scores`, for a single pair and without tiles. Numbers are
vectors of one lane, so that the mathematics of `online` applies to them.
"""

from typing import Any, NamedTuple

import numpy as np

from miniattn.kernels.attention.masking import visible
from miniattn.kernels.attention.problem import UNFIT, K, Q, V, part_of, step_of
from miniattn.kernels.attention.scores import Head, head_of, not_below
from miniattn.kernels.compile.settings import inner
from miniattn.kernels.random import threefry
from miniattn.kernels.registers import fma, select, tanh
from miniattn.kernels.registers.single import number, single


class Query(NamedTuple):
    """One query of one head, and where its keys and values lie."""

    i: int
    head: Head
    q: Any
    k: Any
    k_row: int
    v: Any
    v_row: int


@inner
def query_of(problem, operands, b, h, i, like):
    """Return query ``i`` of batch row ``b`` and head ``h``."""
    g = h // (problem.H // problem.G)  # the head of keys and values that it shares with others
    return Query(
        i,
        head_of(problem, operands, b, h, like),
        part_of(operands, Q, b, h, like) + i * step_of(operands, Q, 2),
        part_of(operands, K, b, g, like),
        step_of(operands, K, 2),
        part_of(operands, V, b, g, like),
        step_of(operands, V, 2),
    )


@inner
def sees(query, j):
    """Return whether a query may attend to key ``j``: all else is not even read."""
    return visible(query.head.rule, query.i, j)


@inner
def score_of(problem, operands, query, j):
    """Return the score ``cap(scale q·k) + bias`` of key ``j``, and the slope of the softcap.

    A score of -inf is that of a key which the bias hides. Where the product is not finite, the
    operands are UNFIT.
    """
    head, like = query.head, query.q
    # tiled: return np.where(visible, scale * (q @ k.T), -np.inf)
    score = inner_product(query.q, query.k + j * query.k_row, problem.D)
    if not np.isfinite(number(score)):
        operands[UNFIT] = 1
    slope = single(1.0, like)
    if head.softcap > 0.0:
        t = tanh(score * (head.scale / head.softcap))
        score, slope = t * head.softcap, 1.0 - t * t
    elif head.scale != 1.0:
        score = not_below(score * head.scale, like)
    if head.has_bias:
        entry = single(head.bias[query.i * head.bias_i + j * head.bias_j], like)
        score = select(entry == -np.inf, entry, not_below(score + entry, like))
    return score, slope


@inner
def dropped(value, head, i, j):
    """Return ``value / (1 - p)``, or 0 where the pair is dropped."""
    if head.dropout > 0.0:
        threshold = np.uint32(head.dropout * 4294967296.0)
        draw = threefry(head.key[0], head.key[1], single(i, np.uint32), single(j, np.uint32))
        value = select(draw >= threshold, value * (1.0 / (1.0 - head.dropout)), 0.0)
    return value


@inner
def inner_product(a, b, n):
    """Return ``sum_d a_d b_d``."""
    total = single(0.0, a)
    for d in range(n):
        total = fma(a[d], single(b[d], a), total)
    return total


@inner
def add_multiple(target, factor, source, n):
    """Compute ``target += factor * source`` for ``n`` numbers."""
    for e in range(n):
        target[e] = number(fma(factor, source[e], single(target[e], target)))


@inner
def scale_and_check(target, factor, n):
    """Compute ``target *= factor`` for ``n`` numbers; return whether all are finite."""
    finite = True
    for e in range(n):
        target[e] = target[e] * factor
        finite = finite and np.isfinite(target[e])
    return finite


@inner
def clear(target, n):
    """Set ``n`` numbers to 0."""
    for e in range(n):
        target[e] = 0.0
