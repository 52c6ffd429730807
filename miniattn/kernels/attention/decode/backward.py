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
from miniattn.kernels.attention.online import (
    Rows,
    Stats,
    add_visible,
    dlse_of,
    read_stats,
    weight_and_dscore,
)
from miniattn.kernels.attention.problem import (
    DK,
    DOUT,
    DQ,
    DV,
    OUT,
    SUMS,
    UNFIT,
    K,
    Lines,
    Problem,
    Q,
    V,
    lines_of,
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


class Room(NamedTuple):
    """The scratch memory of all queries that share a key/value head, and of a tile of keys."""

    q: Lines
    dout: Lines
    weights: Any
    dscores: Any
    slopes: Any
    stats: Stats
    partial: Any
    """A square of sums that are still to be added up."""
    rows: Any
    """Rows of dk or dv."""
    k: Lines
    end: Any


@inner
def lay_out(problem, w, start):
    """Return the `Room` of a thread; arguments as in `vector.forward.lay_out`."""
    n = queries_of(problem)
    n_width, d_width, v_width = round_up(n, w), round_up(problem.D, w), round_up(problem.Dv, w)
    q = start
    dout = q + n * d_width
    weights = dout + n * v_width
    dscores = weights + n * KEYS
    slopes = dscores + n * KEYS
    base = slopes + n * KEYS
    partial = base + 3 * n_width
    rows = partial + w * w
    k = rows + (KEYS + ROW_GROUP) * max(d_width, v_width)
    return Room(
        q=Lines(q, d_width),
        dout=Lines(dout, v_width),
        weights=weights,
        dscores=dscores,
        slopes=slopes,
        stats=Stats(base, base + n_width, base + 2 * n_width),
        partial=partial,
        rows=rows,
        k=Lines(k, d_width),
        end=k + KEYS * d_width,
    )


@inner
def queries_of(problem):
    """Return how many queries share a key/value head."""
    return problem.H // problem.G * problem.T


@inner
def sums_at(problem, w, start):
    """Return the sums of dq of one piece of work, from ``start`` on; 0 to learn their size."""
    dq = Lines(start, round_up(problem.D, w))
    return dq, dq.start + queries_of(problem) * dq.step


class Place(NamedTuple):
    """Some keys of one key/value head, and where they and their gradients are."""

    b: int
    g: int
    j0: int
    m: int
    k: Lines
    v: Lines
    dk: Lines
    dv: Lines


@task
def decode_backward(sizes, factors, operands, queue, scratch):
    """Write dk and dv, and for each piece of work its sums of dq.

    Where finite numbers led to others, the operands are UNFIT.

    Pieces and arguments: as in `decode.forward.decode`.
    """
    problem = problem_of(sizes, factors)
    parts, tiles = problem.parts, (problem.S + KEYS - 1) // KEYS
    w = lanes(scratch)
    room = lay_out(problem, w, scratch)
    piece = take(queue)
    while piece < problem.tasks:
        b, g = piece // parts // problem.G, piece // parts % problem.G
        finite = _prepare(problem, operands, b, g, room)
        dq, _ = sums_at(problem, w, part_of(operands, SUMS, 0, piece, scratch))
        fill(dq.start, queries_of(problem) * dq.step, 0.0)
        for number in range(piece % parts * tiles // parts, (piece % parts + 1) * tiles // parts):
            _add_tile(problem, operands, b, g, number * KEYS, room, finite, dq)
        piece = take(queue)


@task
def add_queries(sizes, factors, operands, queue, scratch):
    """Write dq from the sums that the pieces of `decode_backward` left."""
    problem = problem_of(sizes, factors)
    group, size = problem.H // problem.G, step_of(operands, SUMS, 1)
    piece = take(queue)
    while piece < problem.tasks:
        b, h = piece // problem.H, piece % problem.H
        first = (b * problem.G + h // group) * problem.parts
        sums, _ = sums_at(problem, lanes(scratch), part_of(operands, SUMS, 0, first, scratch))
        own, width = sums.start + h % group * problem.T * sums.step, sums.step
        for part in range(1, problem.parts):
            add(own, own + part * size, problem.T * width)
        dq, row = lines_of(operands, DQ, b, h, 0, scratch)
        if not write_rows(dq, row, own, width, problem.T, problem.D, problem.scale):
            operands[UNFIT] = 1
        piece = take(queue)


def plan(problem: Problem, lanes: int) -> tuple[int, int]:
    """Return the pieces of `decode_backward`, and the elements of scratch memory of a thread."""
    return problem.B * problem.G * problem.parts, lay_out(problem, lanes, 0).end


def plan_queries(problem: Problem, lanes: int) -> tuple[int, int]:
    """Return the pieces of `add_queries`; it takes no scratch memory."""
    return problem.B * problem.H, 0


def sums(problem: Problem, lanes: int) -> tuple[int, int, int]:
    """Return the shape of the memory between the two."""
    _, size = sums_at(problem, lanes, 0)
    return 1, problem.B * problem.G * problem.parts, size


@inner
def _prepare(problem, operands, b, g, room):
    """Copy q and dout of a group's heads into whole vectors; compute delta = sum_e dout out.

    Returns whether q and dout are finite.
    """
    T, D, Dv, group = problem.T, problem.D, problem.Dv, problem.H // problem.G
    stats, finite = room.stats, True
    for member in range(group):
        h, first = g * group + member, member * T
        q, q_row = lines_of(operands, Q, b, h, 0, room.rows)
        dout, dout_row = lines_of(operands, DOUT, b, h, 0, room.rows)
        out, out_row = lines_of(operands, OUT, b, h, 0, room.rows)
        pack(room.q.start + first * room.q.step, room.q.step, q, q_row, T, D)
        pack(room.dout.start + first * room.dout.step, room.dout.step, dout, dout_row, T, Dv)
        finite = finite and is_finite(q, q_row, T, D) and is_finite(dout, dout_row, T, Dv)
        read_stats(operands, b, h, 0, T, T, stats.base + first, stats.log_sum + first)
        for i in range(T):
            delta = dot(dout + i * dout_row, out + i * out_row, Dv)
            stats.delta[first + i] = delta - dlse_of(operands, b, h, i, dout)
    return finite


@inner
def _add_tile(problem, operands, b, g, j0, room, finite, dq):
    """Write dk and dv of the keys from ``j0`` on, and add what they give to dq."""
    T, D, Dv, group = problem.T, problem.D, problem.Dv, problem.H // problem.G
    m, rows = min(KEYS, problem.S - j0), room.rows
    place = Place(
        b=b,
        g=g,
        j0=j0,
        m=m,
        k=lines_of(operands, K, b, g, j0, rows),
        v=lines_of(operands, V, b, g, j0, rows),
        dk=lines_of(operands, DK, b, g, j0, rows),
        dv=lines_of(operands, DV, b, g, j0, rows),
    )
    partial = False
    for member in range(group):
        h = g * group + member
        head = head_of(problem, operands, b, h, rows)
        tile = tile_of(head.rule, b, h, 0, T, j0, m, KEYS, False)
        partial = partial or tile.kind != FULL
        _score_gradients(problem, room, member * T, head, tile, place)
    k, k_row = place.k
    if partial and not (finite and is_finite(k, k_row, m, D)):
        _add_visible(problem, operands, place, room, dq)
        return
    w, n = lanes(rows), queries_of(problem)
    q, d_width = room.q
    dout, v_width = room.dout
    multiply(rows, v_width, room.weights, 1, KEYS, dout, v_width, m, v_width // w, n, False)
    fits = write_rows(place.dv.start, place.dv.step, rows, v_width, m, Dv, 1.0)
    multiply(rows, d_width, room.dscores, 1, KEYS, q, d_width, m, d_width // w, n, False)
    if not (write_rows(place.dk.start, place.dk.step, rows, d_width, m, D, problem.scale) and fits):
        operands[UNFIT] = 1
    if d_width != D:
        pack(room.k.start, d_width, k, k_row, m, D)
        k, k_row = room.k
    for i in range(n):
        add_rows(dq.start + i * d_width, room.dscores + i * KEYS, k, k_row, d_width, m)


@inner
def _score_gradients(problem, room, first, head, tile, place):
    """Leave the weights of one head's queries, with dropout, and the gradients of their scores."""
    weights, dscores = room.weights + first * KEYS, room.dscores + first * KEYS
    slopes, stats, w = room.slopes + first * KEYS, room.stats, lanes(room.weights)
    if tile.kind == HIDDEN:
        fill(weights, tile.n * KEYS, 0.0)
        fill(dscores, tile.n * KEYS, 0.0)
        return
    q, d_width = room.q
    dout, v_width = room.dout
    k, v, D, Dv, partial = place.k, place.v, problem.D, problem.Dv, room.partial
    multiply_rows(weights, q + first * d_width, d_width, k.start, k.step, tile, D, partial)
    multiply_rows(dscores, dout + first * v_width, v_width, v.start, v.step, tile, Dv, partial)
    finish_scores(weights, head, tile, slopes)
    if head.dropout > 0.0:
        drop(dscores, head, tile)
    for i in range(tile.n):
        base, log_sum = stats.base[first + i], stats.log_sum[first + i]
        delta = stats.delta[first + i]
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
def _add_visible(problem, operands, place, room, dq):
    """Write a tile pair by pair, where NaN or infinity must not pass through a hidden pair."""
    T, D, Dv, group = problem.T, problem.D, problem.Dv, problem.H // problem.G
    dk, dv, rows, m = place.dk, place.dv, room.rows, place.m
    q, d_width = room.q
    dout, v_width = room.dout
    fill(rows, m * v_width, 0.0)
    for member in range(group):
        weights, rule, tile = _pairs(problem, operands, place, member, room.weights)
        source = Rows(dout + member * T * v_width, v_width, 0)
        add_visible(Rows(rows, 0, v_width), weights, source, Dv, rule, tile)
    write_rows(dv.start, dv.step, rows, v_width, m, Dv, 1.0)
    fill(rows, m * d_width, 0.0)
    for member in range(group):
        dscores, rule, tile = _pairs(problem, operands, place, member, room.dscores)
        source = Rows(q + member * T * d_width, d_width, 0)
        add_visible(Rows(rows, 0, d_width), dscores, source, D, rule, tile)
        own = Rows(dq.start + member * T * d_width, d_width, 0)
        add_visible(own, dscores, Rows(place.k.start, 0, place.k.step), D, rule, tile)
    write_rows(dk.start, dk.step, rows, d_width, m, D, problem.scale)


@inner
def _pairs(problem, operands, place, member, values):
    """Return one head's part of a tile of ``values``, its rule and its tile."""
    T, h = problem.T, place.g * (problem.H // problem.G) + member
    rule = head_of(problem, operands, place.b, h, values).rule
    tile = tile_of(rule, place.b, h, 0, T, place.j0, place.m, KEYS, False)
    return Rows(values + member * T * KEYS, KEYS, 1), rule, tile
