"""One query and one key: their score, and whether their weight is dropped.

What a tile's scores go through in `scores`, for a single pair and without tiles. Numbers are
vectors of one lane, so that the mathematics of `online` applies to them.
"""

from typing import Any, NamedTuple

import numpy as np

from miniattn.kernels.attention.functions import score_by_function
from miniattn.kernels.attention.masking import ALL_GROUPS, FULL, Tile, visible
from miniattn.kernels.attention.online import power, raised
from miniattn.kernels.attention.operands import UNFIT, K, Q, V, lines_of
from miniattn.kernels.attention.pieces import key_head
from miniattn.kernels.attention.scores import Head, head_of, not_below, stays
from miniattn.kernels.compile.settings import inner
from miniattn.kernels.dense.places import Lines, entry, line
from miniattn.kernels.registers import fma, registers, select, tanh
from miniattn.kernels.registers.single import number, single


class Query(NamedTuple):
    """One query of one head, and where its keys and values lie."""

    b: int
    h: int
    i: int
    head: Head
    q: Any
    k: Lines
    v: Lines


@inner
def query_of(problem, operands, b, h, i, like):
    """Return query ``i`` of batch row ``b`` and head ``h``."""
    g = key_head(problem, h)
    return Query(
        b,
        h,
        i,
        head_of(problem, operands, b, h, like),
        lines_of(operands, Q, b, h, i, like).start,
        lines_of(operands, K, b, g, 0, like),
        lines_of(operands, V, b, g, 0, like),
    )


@inner
def sees(query, j):
    """Return whether a query may attend to key ``j``: all else is not even read."""
    return visible(query.head.rule, query.i, j)


@inner
def score_of(problem, operands, query, j):
    """Return the score ``function(cap(scale q·k)) + bias`` of key ``j``, and two more numbers.

    They are the slope of the softcap, and what a user's function was given. A score of -inf is that
    of a key which the bias or the function hides. Where the product is not finite, the operands are
    UNFIT.
    """
    head, like = query.head, query.q
    # tiled: return np.where(visible, scale * (q @ k.T), -np.inf)
    score = inner_product(query.q, line(query.k, j), problem.D)
    if not np.isfinite(number(score)):
        operands[UNFIT] = 1
    slope = single(1.0, like)
    if head.softcap > 0.0:
        t = tanh(score * (head.scale / head.softcap))
        score, slope = t * head.softcap, 1.0 - t * t
    elif head.scale != 1.0:
        score = not_below(score * head.scale, like)
    before = score
    if head.scored:
        place = registers(1, like)
        place[0] = number(score)
        score_by_function(place, head.door, head.rule, pair_of(query, j))
        score = single(place[0], like)
    if head.has_bias:
        bias = single(entry(head.bias, query.i, j)[0], like)
        hidden = (bias == -np.inf) | (score == -np.inf)
        score = select(hidden, -np.inf, not_below(score + bias, like))
    return score, slope, before


@inner
def pair_of(query, j):
    """Return the tile that a query and key ``j`` are."""
    return Tile(query.b, query.h, query.i, 1, j, 1, 1, True, FULL, ALL_GROUPS)


@inner
def take_in(score, factor, top, total):
    """Bring what a query knows up to date with one score that is not hidden, nor -inf.

    Returns its weight so far, and what older sums shrink by.
    """
    # tiled: old, top = top, np.maximum(top, s.max(axis=1))
    new, base, decay = raised(single(top[0], top), score, factor)
    # tiled: weight = np.exp(s - base[:, None])
    weight = power(score, base, factor)
    # tiled: total = decay * total + weight.sum(axis=1)
    total[0] = number(fma(decay, total[0], weight))
    top[0] = number(new)
    return weight, decay


@inner
def dropped(value, head, i, j):
    """Return ``value / (1 - p)``, or 0 where the pair is dropped."""
    if head.dropout > 0.0:
        stay = stays(head, single(i, np.uint32), single(j, np.uint32))
        value = select(stay, value * (1.0 / (1.0 - head.dropout)), 0.0)
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
