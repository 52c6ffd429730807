"""Attention backward for very few queries: K and V are read once, dK and dV written once.

The blocks of `vector.backward` would be nearly empty, and their sums of dk and dv, of the length
of the keys, would pass through memory several times. Here a piece of work owns a run of keys of one
key/value head, so it writes their rows of dk and dv at once, for all queries that share the head.
What it adds to dq stays in the operand SUMS; `add_queries` adds those sums in order.

Scores are kept queries x keys, as in `decode.forward`, whose products these are.
"""

from typing import Any, NamedTuple

from miniattn.kernels.attention.decode.forward import KEYS, add_rows, multiply_rows
from miniattn.kernels.attention.masking import FULL, HIDDEN, tile_of
from miniattn.kernels.attention.online import Rows, add_visible, read_stats, weight_and_dscore
from miniattn.kernels.attention.problem import (
    DK,
    DOUT,
    DQ,
    DV,
    OUT,
    SUMS,
    UNFIT,
    K,
    Problem,
    Q,
    V,
    part_of,
    problem_of,
    step_of,
)
from miniattn.kernels.attention.scores import drop, finish_scores, head_of
from miniattn.kernels.compile.queue import take
from miniattn.kernels.compile.settings import inner, task
from miniattn.kernels.dense.panels import (
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
from miniattn.kernels.registers import lanes, load, store


class Queries(NamedTuple):
    """All queries that share a key/value head, made ready, and the memory of one tile of keys."""

    n: int
    q: Any
    q_width: int
    dout: Any
    v_width: int
    base: Any
    log_sum: Any
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

    Where finite numbers led to others, the operands are UNFIT.

    Pieces and arguments: as in `decode.forward.decode`.
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
        if not write_rows(dq, row, sums, width, problem.T, problem.D, problem.scale):
            operands[UNFIT] = 1
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
    base = slopes + count * KEYS
    log_sum = base + round_up(count, w)
    delta = log_sum + round_up(count, w)
    partial = delta + round_up(count, w)
    rows = partial + w * w
    packed = rows + (KEYS + ROW_GROUP) * max(d_width, v_width)
    finite = True
    q_row, dout_row = step_of(operands, Q, 2), step_of(operands, DOUT, 2)
    out_row = step_of(operands, OUT, 2)
    for member in range(group):
        h, first = g * group + member, member * T
        q, dout = part_of(operands, Q, b, h, scratch), part_of(operands, DOUT, b, h, scratch)
        out = part_of(operands, OUT, b, h, scratch)
        pack(q_packed + first * d_width, d_width, q, q_row, T, D)
        pack(dout_packed + first * v_width, v_width, dout, dout_row, T, Dv)
        finite = finite and is_finite(q, q_row, T, D) and is_finite(dout, dout_row, T, Dv)
        read_stats(operands, b, h, 0, T, T, base + first, log_sum + first)
        for i in range(T):
            delta[first + i] = dot(dout + i * dout_row, out + i * out_row, Dv)
    return Queries(
        count,
        q_packed,
        d_width,
        dout_packed,
        v_width,
        base,
        log_sum,
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
        _add_visible(problem, operands, b, g, j0, m, queries, k, k_row, dq, dk, dk_row, dv, dv_row)
        return
    w = lanes(dq)
    multiply(rows, v_width, weights, 1, KEYS, queries.dout, v_width, m, v_width // w, count, False)
    fits = write_rows(dv, dv_row, rows, v_width, m, Dv, 1.0)
    multiply(rows, d_width, dscores, 1, KEYS, queries.q, d_width, m, d_width // w, count, False)
    if not (write_rows(dk, dk_row, rows, d_width, m, D, problem.scale) and fits):
        operands[UNFIT] = 1
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
        base, log_sum = queries.base[first + i], queries.log_sum[first + i]
        delta = queries.delta[first + i]
        for c in range(i * KEYS, i * KEYS + tile.m, w):
            score, dweight = load(weights + c), load(dscores + c)
            # Masked: hidden keys, and rows that see nothing.
            weight, dscore = weight_and_dscore(
                score, dweight, base, log_sum, delta, head.factor, True
            )
            store(weights + c, weight)
            store(dscores + c, dscore)
        _clear(weights + i * KEYS, tile.m)
        _clear(dscores + i * KEYS, tile.m)
    if head.dropout > 0.0:
        drop(weights, head, tile)
    if head.softcap > 0.0:
        for row in range(0, tile.n * KEYS, KEYS):  # there are no slopes past a row's end
            multiply_elements(dscores + row, slopes + row, tile.m)


@inner
def _clear(row, m):
    """Clear a row of a tile from column ``m`` on."""
    for c in range(m, KEYS):
        row[c] = 0.0


@inner
def _add_visible(problem, operands, b, g, j0, m, queries, k, k_row, dq, dk, dk_row, dv, dv_row):
    """Write a tile pair by pair, where NaN or infinity must not pass through a hidden pair."""
    T, D, Dv, group = problem.T, problem.D, problem.Dv, problem.H // problem.G
    d_width, v_width, rows = queries.q_width, queries.v_width, queries.rows
    fill(rows, m * v_width, 0.0)
    for member in range(group):
        weights, rule, tile = _pairs(problem, operands, b, g, member, j0, m, queries.weights)
        dout = Rows(queries.dout + member * T * v_width, v_width, 0)
        add_visible(Rows(rows, 0, v_width), weights, dout, Dv, rule, tile)
    write_rows(dv, dv_row, rows, v_width, m, Dv, 1.0)
    fill(rows, m * d_width, 0.0)
    for member in range(group):
        dscores, rule, tile = _pairs(problem, operands, b, g, member, j0, m, queries.dscores)
        q = Rows(queries.q + member * T * d_width, d_width, 0)
        add_visible(Rows(rows, 0, d_width), dscores, q, D, rule, tile)
        own = Rows(dq + member * T * d_width, d_width, 0)
        add_visible(own, dscores, Rows(k, 0, k_row), D, rule, tile)
    write_rows(dk, dk_row, rows, d_width, m, D, problem.scale)


@inner
def _pairs(problem, operands, b, g, member, j0, m, values):
    """Return one head's part of a tile of ``values``, its rule and its tile."""
    T, h = problem.T, g * (problem.H // problem.G) + member
    rule = head_of(problem, operands, b, h, values).rule
    tile = tile_of(rule, b, h, 0, T, j0, m, KEYS, False)
    return Rows(values + member * T * KEYS, KEYS, 1), rule, tile
