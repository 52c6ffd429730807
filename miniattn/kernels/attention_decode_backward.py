"""Attention backward for very few queries: K and V are read once, dK and dV written once.

The blocks of `attention_backward` would be nearly empty, and their sums of dk and dv, of the length
of the keys, would pass through memory several times. Here a piece of work owns a run of keys of one
key/value head, so it writes their rows of dk and dv at once, for all queries that share the head.
What it adds to dq stays in the operand SUMS; `add_queries` adds those sums in order.

Scores are kept queries x keys, as in `attention_decode`, whose products these are.
"""

from typing import Any, NamedTuple

import numpy as np

from miniattn.kernels._runtime import inner, task
from miniattn.kernels.arguments import (
    DK,
    DOUT,
    DQ,
    DV,
    LSE,
    OUT,
    SUMS,
    K,
    Problem,
    Q,
    V,
    part_of,
    problem_of,
    step_of,
)
from miniattn.kernels.attention_decode import KEYS, add_rows, multiply_rows
from miniattn.kernels.masking import FULL, HIDDEN, tile_of, visible
from miniattn.kernels.queue import take
from miniattn.kernels.scores import LOG2_E, drop, finish_scores, head_of
from miniattn.kernels.simd import exp2_nonpositive, fma, lanes, load, select, store
from miniattn.kernels.tiles import (
    ROW_GROUP,
    add,
    dot,
    fill,
    is_finite,
    multiply,
    multiply_elements,
    pack,
    round_up,
    write_rows,
)


class Queries(NamedTuple):
    """All queries that share a key/value head, made ready, and the memory of one tile of keys."""

    n: int
    q: Any
    q_width: int
    dout: Any
    v_width: int
    lse: Any
    rest: Any
    delta: Any
    is_finite: bool
    weights: Any
    dscores: Any
    slopes: Any
    partial: Any
    rows: Any
    packed: Any


@task
def decode_backward(sizes, factors, operands, queue, scratch):
    """Write dk and dv, and for each piece of work its sums of dq.

    Pieces and arguments: as in `attention_decode.decode`.
    """
    problem = problem_of(sizes, factors)
    parts, tiles = problem.parts, (problem.S + KEYS - 1) // KEYS
    piece = take(queue)
    while piece < problem.tasks:
        b, g = piece // parts // problem.G, piece // parts % problem.G
        queries = _prepare(problem, operands, b, g, scratch)
        dq = part_of(operands, SUMS, 0, piece, scratch)
        fill(dq, queries.n * queries.q_width, 0.0)
        for number in range(piece % parts * tiles // parts, (piece % parts + 1) * tiles // parts):
            _keys(problem, operands, b, g, number * KEYS, queries, dq)
        piece = take(queue)


@task
def add_queries(sizes, factors, operands, queue, scratch):
    """Write dq from the sums that the pieces of `decode_backward` left."""
    problem = problem_of(sizes, factors)
    width = round_up(problem.D, lanes(scratch))
    group, size = problem.H // problem.G, step_of(operands, SUMS, 1)
    piece = take(queue)
    while piece < problem.tasks:
        b, h = piece // problem.H, piece % problem.H
        first = (b * problem.G + h // group) * problem.parts
        sums = part_of(operands, SUMS, 0, first, scratch) + h % group * problem.T * width
        for part in range(1, problem.parts):
            add(sums, sums + part * size, problem.T * width)
        dq, row = part_of(operands, DQ, b, h, scratch), step_of(operands, DQ, 2)
        write_rows(dq, row, sums, width, problem.T, problem.D, problem.scale)
        piece = take(queue)


def plan(problem: Problem, lanes: int) -> tuple[int, int]:
    """Return the pieces of `decode_backward`, and the elements of scratch memory of a thread."""
    d_width, v_width = (round_up(n, lanes) for n in (problem.D, problem.Dv))
    count = problem.H // problem.G * problem.T
    queries = count * (d_width + v_width + 3 * KEYS) + 3 * round_up(count, lanes)
    tiles = (2 * KEYS + ROW_GROUP) * max(d_width, v_width)
    return problem.B * problem.G * problem.parts, queries + lanes * lanes + tiles


def plan_queries(problem: Problem, lanes: int) -> tuple[int, int]:
    """Return the pieces of `add_queries`; it takes no scratch memory."""
    return problem.B * problem.H, 0


def sums(problem: Problem, lanes: int) -> tuple[int, int, int]:
    """Return the shape of the memory between the two."""
    pieces = problem.B * problem.G * problem.parts
    rows = problem.H // problem.G * problem.T
    return 1, pieces, rows * round_up(problem.D, lanes)


@inner
def _prepare(problem, operands, b, g, scratch):
    """Copy q and dout of a group's heads into whole vectors; compute delta = sum_e dout out."""
    w = lanes(scratch)
    T, D, Dv, group = problem.T, problem.D, problem.Dv, problem.H // problem.G
    d_width, v_width, count = round_up(D, w), round_up(Dv, w), group * T
    q_packed = scratch
    dout_packed = q_packed + count * d_width
    weights = dout_packed + count * v_width
    dscores = weights + count * KEYS
    slopes = dscores + count * KEYS
    lse = slopes + count * KEYS
    rest = lse + round_up(count, w)
    delta = rest + round_up(count, w)
    partial = delta + round_up(count, w)
    rows = partial + w * w
    packed = rows + (KEYS + ROW_GROUP) * max(d_width, v_width)
    finite = True
    q_row, dout_row = step_of(operands, Q, 2), step_of(operands, DOUT, 2)
    out_row = step_of(operands, OUT, 2)
    for member in range(group):
        h, first = g * group + member, member * T
        q, dout = part_of(operands, Q, b, h, scratch), part_of(operands, DOUT, b, h, scratch)
        out, natural = part_of(operands, OUT, b, h, scratch), part_of(operands, LSE, b, h, scratch)
        pack(q_packed + first * d_width, d_width, q, q_row, T, D)
        pack(dout_packed + first * v_width, v_width, dout, dout_row, T, Dv)
        finite = finite and is_finite(q, q_row, T, D) and is_finite(dout, dout_row, T, Dv)
        for i in range(T):
            in_base_2 = natural[i] * LOG2_E
            lse[first + i] = in_base_2
            rest[first + i] = in_base_2 - lse[first + i]  # what the rounding took
            delta[first + i] = dot(dout + i * dout_row, out + i * out_row, Dv)
    return Queries(
        count,
        q_packed,
        d_width,
        dout_packed,
        v_width,
        lse,
        rest,
        delta,
        finite,
        weights,
        dscores,
        slopes,
        partial,
        rows,
        packed,
    )


@inner
def _keys(problem, operands, b, g, j0, queries, dq):
    """Write dk and dv of the keys from ``j0`` on, and add what they give to dq."""
    T, D, Dv = problem.T, problem.D, problem.Dv
    m = min(KEYS, problem.S - j0)
    k_row, v_row = step_of(operands, K, 2), step_of(operands, V, 2)
    k = part_of(operands, K, b, g, dq) + j0 * k_row
    v = part_of(operands, V, b, g, dq) + j0 * v_row
    group, partial = problem.H // problem.G, False
    for member in range(group):
        h, first = g * group + member, member * T
        head = head_of(problem, operands, b, h, dq)
        tile = tile_of(head.rule, b, h, 0, T, j0, m, KEYS, False)
        partial = partial or tile.kind != FULL
        _score_gradients(problem, queries, first, head, tile, k, k_row, v, v_row)
    weights, dscores, count = queries.weights, queries.dscores, queries.n
    d_width, v_width, rows = queries.q_width, queries.v_width, queries.rows
    dk_row, dv_row = step_of(operands, DK, 2), step_of(operands, DV, 2)
    dk = part_of(operands, DK, b, g, dq) + j0 * dk_row
    dv = part_of(operands, DV, b, g, dq) + j0 * dv_row
    if partial and not (queries.is_finite and is_finite(k, k_row, m, D)):
        _visible_pairs(problem, operands, b, g, j0, m, queries, k, k_row, dq, dk, dv)
        return
    w = lanes(dq)
    multiply(rows, v_width, weights, 1, KEYS, queries.dout, v_width, m, v_width // w, count, False)
    write_rows(dv, dv_row, rows, v_width, m, Dv, 1.0)
    multiply(rows, d_width, dscores, 1, KEYS, queries.q, d_width, m, d_width // w, count, False)
    write_rows(dk, dk_row, rows, d_width, m, D, problem.scale)
    if d_width != D:
        pack(queries.packed, d_width, k, k_row, m, D)
        k, k_row = queries.packed, d_width
    for i in range(count):
        add_rows(dq + i * d_width, dscores + i * KEYS, k, k_row, d_width, m)


@inner
def _score_gradients(problem, queries, first, head, tile, k, k_row, v, v_row):
    """Leave the weights of one head's queries, with dropout, and the gradients of their scores."""
    weights, dscores = queries.weights + first * KEYS, queries.dscores + first * KEYS
    slopes, w = queries.slopes + first * KEYS, lanes(queries.weights)
    if tile.kind == HIDDEN:
        fill(weights, tile.n * KEYS, 0.0)
        fill(dscores, tile.n * KEYS, 0.0)
        return
    d_width, v_width = queries.q_width, queries.v_width
    q, dout = queries.q + first * d_width, queries.dout + first * v_width
    D, Dv, partial = problem.D, problem.Dv, queries.partial
    multiply_rows(weights, q, d_width, k, k_row, tile, D, partial)
    multiply_rows(dscores, dout, v_width, v, v_row, tile, Dv, partial)
    finish_scores(weights, head, tile, slopes)
    if head.dropout > 0.0:
        drop(dscores, head, tile)
    for i in range(tile.n):
        lse, delta = queries.lse[first + i], queries.delta[first + i]
        rest = queries.rest[first + i]
        for c in range(i * KEYS, i * KEYS + tile.m, w):
            score = load(weights + c)
            weight = exp2_nonpositive(fma(score, head.factor, -lse) - rest)
            dscore = weight * (load(dscores + c) - delta)
            # Hidden keys, and rows that see nothing; also where a hidden value is NaN.
            hidden = score == -np.inf
            store(weights + c, select(hidden, 0.0, weight))
            store(dscores + c, select(hidden, 0.0, dscore))
        _clear(weights + i * KEYS, tile.m)
        _clear(dscores + i * KEYS, tile.m)
    if head.dropout > 0.0:
        drop(weights, head, tile)
    if head.softcap > 0.0:
        multiply_elements(dscores, slopes, tile.n * KEYS)


@inner
def _clear(row, m):
    """Clear a row of a tile from column ``m`` on."""
    for c in range(m, KEYS):
        row[c] = 0.0


@inner
def _visible_pairs(problem, operands, b, g, j0, m, queries, k, k_row, dq, dk, dv):
    """Write a tile pair by pair, where NaN or infinity must not pass through a hidden pair."""
    T, D, Dv, group = problem.T, problem.D, problem.Dv, problem.H // problem.G
    dk_row, dv_row = step_of(operands, DK, 2), step_of(operands, DV, 2)
    for j in range(m):
        for d in range(D):
            dk[j * dk_row + d] = 0.0
        for e in range(Dv):
            dv[j * dv_row + e] = 0.0
        for query in range(group * T):
            head = head_of(problem, operands, b, g * group + query // T, dq)
            if visible(head.rule, query % T, j0 + j):
                weight = queries.weights[query * KEYS + j]
                dscore = queries.dscores[query * KEYS + j]
                for e in range(Dv):
                    at = j * dv_row + e
                    dv[at] = dv[at] + weight * queries.dout[query * queries.v_width + e]
                for d in range(D):
                    at = j * dk_row + d
                    from_q = problem.scale * queries.q[query * queries.q_width + d]
                    dk[at] = dk[at] + dscore * from_q
                    at = query * queries.q_width + d
                    dq[at] = dq[at] + dscore * k[j * k_row + d]
