"""Attention weights, whole or pooled: the map that people look at.

Bin (r, c) of a map holds the mean over the queries of row bin r of the sum over the keys of column
bin c of the weights: how much of their attention these queries pay to these keys. With as many bins
as queries and keys it is the exact matrix of weights; with fewer, a map of any size is computed in
the memory of the bins. One piece of work owns whole rows of bins.

Each block of queries is walked over twice, first for the maxima and sums of its scores, as in
`vector.forward`, then for the weights themselves.
"""

from typing import Any, NamedTuple

import numpy as np

from miniattn.kernels.attention.masking import (
    GROUP,
    HIDDEN,
    end_of_keys,
    first_key,
    keys_seen,
    tile_of,
)
from miniattn.kernels.attention.online import base_of, overflows, power, within_limit
from miniattn.kernels.attention.problem import (
    OUT,
    UNFIT,
    K,
    Problem,
    Q,
    lines_of,
    problem_of,
)
from miniattn.kernels.attention.scores import finish_scores, head_of
from miniattn.kernels.attention.vector.forward import KEYS, QUERIES, exponentiate, row_width
from miniattn.kernels.attention.vector.products import multiply_keys
from miniattn.kernels.compile.queue import take
from miniattn.kernels.compile.settings import inner, task
from miniattn.kernels.dense.panels import ROW_GROUP, fill, pack_transposed
from miniattn.kernels.registers import lanes, load, select, splat, store


@task
def attention_map(sizes, factors, operands, queue, scratch):
    """Add the map of each batch row and head to the operand OUT, which is zero.

    Where finite numbers led to others, the operands are UNFIT.

    OUT has the shape (B, H, rows, columns). The numbers of bins, ``problem.rows`` and
    ``problem.columns``, are at most T and S; bin r holds the queries
    ``r * T // rows <= i < (r + 1) * T // rows``. Arguments: as in `vector.forward.forward`.
    """
    problem = problem_of(sizes, factors)
    bins = _bins(problem)
    groups = (problem.rows + bins - 1) // bins
    piece = take(queue)
    while piece < problem.tasks:
        b, h = piece // groups // problem.H, piece // groups % problem.H
        first = piece % groups * bins
        stop = min(problem.rows, first + bins) * problem.T // problem.rows
        for i0 in range(first * problem.T // problem.rows, stop, QUERIES):
            n = min(QUERIES, stop - i0)
            _add_weights(problem, operands, b, h, i0, n, scratch)
        piece = take(queue)


@inner
def _bins(problem):
    """Return how many rows of bins are one piece of work: about QUERIES queries."""
    return max(1, QUERIES * problem.rows // max(1, problem.T))


def plan(problem: Problem, lanes: int) -> tuple[int, int]:
    """Return the pieces of work of a call, and the elements of scratch memory of a thread."""
    pieces = problem.B * problem.H * -(-problem.rows // _bins(problem))
    return pieces, lay_out(problem, QUERIES, lanes, 0).end


class Room(NamedTuple):
    """The scratch memory of ``n`` queries."""

    width: int
    """Of a row of scores: n and padding."""
    q: Any
    """Turned."""
    s: Any
    slopes: Any
    top: Any
    total: Any
    decay: Any
    sums: Any
    """Of the weights of one bin's keys."""
    end: Any


@inner
def lay_out(problem, n, w, start):
    """Return the `Room` of ``n`` queries; arguments as in `vector.forward.lay_out`."""
    width = row_width(n, w)
    q = start
    s = q + width * problem.D
    slopes = s + width * (KEYS + ROW_GROUP)
    top = slopes + width * (KEYS + ROW_GROUP)
    total = top + width
    decay = total + width
    sums = decay + width
    return Room(width, q, s, slopes, top, total, decay, sums, sums + width)


@inner
def _add_weights(problem, operands, b, h, i0, n, scratch):
    """Add the weights of queries ``i0 <= i < i0 + n`` to their bins."""
    D, S, rows, columns = problem.D, problem.S, problem.rows, problem.columns
    room = lay_out(problem, n, lanes(scratch), scratch)
    width, s, top, total, sums = room.width, room.s, room.top, room.total, room.sums
    head = head_of(problem, operands, b, h, scratch)
    g = h // (problem.H // problem.G)
    q, q_row = lines_of(operands, Q, b, h, i0, scratch)
    k, k_row = lines_of(operands, K, b, g, 0, scratch)
    out, out_row = lines_of(operands, OUT, b, h, 0, scratch)

    pack_transposed(room.q, width, q, q_row, n, D)
    fill(top, width, -np.inf)
    fill(total, width, 0.0)
    stop = end_of_keys(head.rule, i0 + n)
    for adds in range(2):
        if adds == 1 and not within_limit(problem, top, n):
            operands[UNFIT] = 1
        for j0 in range(first_key(head.rule, i0, KEYS), stop, KEYS):
            m = min(KEYS, stop - j0)
            tile = tile_of(head.rule, b, h, i0, n, j0, m, width, True)
            if tile.kind == HIDDEN:
                continue
            multiply_keys(s, k + j0 * k_row, k_row, room.q, D, head.rule, tile)
            if adds == 0 and overflows(s, head.rule, tile):
                operands[UNFIT] = 1
            finish_scores(s, head, tile, room.slopes)
            if adds == 0:
                exponentiate(s, head, tile, top, total, room.decay)
                continue
            _weigh(s, head, tile, top, total)
            start = j0
            while start < j0 + m:  # key bin by key bin
                column = ((start + 1) * columns - 1) // S
                end = min(j0 + m, (column + 1) * S // columns)
                _sum_keys(sums, s + (start - j0) * width, end - start, width)
                for i in range(n):
                    row = ((i0 + i + 1) * rows - 1) // problem.T
                    members = (row + 1) * problem.T // rows - row * problem.T // rows
                    at = row * out_row + column
                    out[at] = out[at] + sums[i] / members
                start = end


@inner
def _weigh(s, head, tile, top, total):
    """Replace scores by weights, 0 for what the bounds of the mask leave out."""
    w, width, factor = lanes(s), tile.width, head.factor
    for c in range(0, width, w):
        start, stop = keys_seen(head.rule, tile, c // GROUP * GROUP, GROUP)
        peak, whole = load(top + c), load(total + c)
        base = base_of(peak)
        share = select(whole == 0.0, 0.0, 1.0 / whole)
        for r in range(start):
            store(s + (r * width + c), splat(0.0, s))
        for r in range(stop, tile.m):
            store(s + (r * width + c), splat(0.0, s))
        for r in range(start, stop):
            p = s + (r * width + c)
            score = load(p)
            weight = power(score, base, factor) * share
            store(p, select(score == -np.inf, 0.0, weight))  # also in a row that NaN has spoilt


@inner
def _sum_keys(sums, s, m, width):
    """Set ``sums[i] = sum_r s[r, i]`` for ``m`` rows."""
    w = lanes(s)
    for c in range(0, width, w):
        total = splat(0.0, s)
        for r in range(m):
            total = total + load(s + (r * width + c))
        store(sums + c, total)
