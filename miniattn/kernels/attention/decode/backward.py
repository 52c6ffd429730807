"""Attention backward for very few queries: K and V are read once, dK and dV written once.

The runs of 64 queries of `vector.backward` would be nearly empty, and their sums of dk and dv, of
the length of the keys, would pass through memory several times. Here a piece of work owns a run of
keys of one key/value head, so it writes their rows of dk and dv at once, for all queries that share
the head.
What it adds to dq stays in the operand SUMS; `add_queries` adds those sums in order.

Scores are kept queries x keys, as in `decode.forward`, whose products these are.
"""

from typing import Any, NamedTuple

from miniattn.kernels.attention.decode.forward import KEYS, add_rows, multiply_rows
from miniattn.kernels.attention.masking import FULL, HIDDEN, tile_of
from miniattn.kernels.attention.online import (
    Stats,
    add_visible,
    dlse_of,
    read_stats,
    stats_from,
    weight_and_dscore,
)
from miniattn.kernels.attention.operands import (
    DK,
    DOUT,
    DQ,
    DV,
    OUT,
    SUMS,
    UNFIT,
    K,
    Q,
    V,
    lines_of,
    part_of,
    step_of,
)
from miniattn.kernels.attention.pieces import Call, Run, key_head
from miniattn.kernels.attention.problem import Problem, problem_of
from miniattn.kernels.attention.scores import drop, finish_scores, head_of
from miniattn.kernels.compile.queue import each_piece
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
from miniattn.kernels.dense.places import (
    Extent,
    Grid,
    Lines,
    by_column,
    by_row,
    line,
    lines_from,
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
    """As many vectors of sums, still to be added up, as they have lanes."""
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


class Keys(NamedTuple):
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
    each_piece(queue, _add_keys, Call(problem_of(sizes, factors), operands, scratch))


@task
def add_queries(sizes, factors, operands, queue, scratch):
    """Write dq from the sums that the pieces of `decode_backward` left."""
    each_piece(queue, _write_head, Call(problem_of(sizes, factors), operands, scratch))


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
def _add_keys(call, piece):
    """Write dk and dv of the keys of a piece of work, and leave its sums of dq."""
    problem, operands, scratch = call
    w, parts, tiles = lanes(scratch), problem.parts, (problem.S + KEYS - 1) // KEYS
    b, g, part = piece // parts // problem.G, piece // parts % problem.G, piece % parts
    room = lay_out(problem, w, scratch)
    finite = _prepare(problem, operands, b, g, room)
    dq, _ = sums_at(problem, w, part_of(operands, SUMS, 0, piece, scratch))
    fill(dq.start, queries_of(problem) * dq.step, 0.0)
    for number in range(part * tiles // parts, (part + 1) * tiles // parts):
        keys = _keys_of(problem, operands, b, g, number * KEYS, scratch)
        _add_tile(problem, operands, keys, room, finite, dq)


@inner
def _write_head(call, piece):
    """Write dq of one head, from the sums of all parts, added in order."""
    problem, operands, scratch = call
    T, size = problem.T, step_of(operands, SUMS, 1)
    b, h = piece // problem.H, piece % problem.H
    first = (b * problem.G + key_head(problem, h)) * problem.parts
    sums, _ = sums_at(problem, lanes(scratch), part_of(operands, SUMS, 0, first, scratch))
    own = lines_from(sums, h % (problem.H // problem.G) * T)
    for part in range(1, problem.parts):
        add(own.start, own.start + part * size, T * own.step)
    dq = lines_of(operands, DQ, b, h, 0, scratch)
    if not write_rows(dq, own, T, problem.D, problem.scale):
        operands[UNFIT] = 1


@inner
def _prepare(problem, operands, b, g, room):
    """Copy q and dout of a group's heads into whole vectors; compute delta = sum_e dout out.

    Returns whether q and dout are finite.
    """
    T, D, Dv, group = problem.T, problem.D, problem.Dv, problem.H // problem.G
    finite = True
    for member in range(group):
        run, first = Run(b, g * group + member, 0, T), member * T
        q = lines_of(operands, Q, b, run.h, 0, room.rows)
        dout = lines_of(operands, DOUT, b, run.h, 0, room.rows)
        out = lines_of(operands, OUT, b, run.h, 0, room.rows)
        pack(lines_from(room.q, first), q, T, D)
        pack(lines_from(room.dout, first), dout, T, Dv)
        finite = finite and is_finite(q, T, D) and is_finite(dout, T, Dv)
        stats = stats_from(room.stats, first)
        read_stats(operands, run, T, stats)
        for i in range(T):
            delta = dot(line(dout, i), line(out, i), Dv)
            stats.delta[i] = delta - dlse_of(operands, b, run.h, i, room.rows)
    return finite


@inner
def _keys_of(problem, operands, b, g, j0, like):
    """Return the `Keys` of a tile."""
    return Keys(
        b=b,
        g=g,
        j0=j0,
        m=min(KEYS, problem.S - j0),
        k=lines_of(operands, K, b, g, j0, like),
        v=lines_of(operands, V, b, g, j0, like),
        dk=lines_of(operands, DK, b, g, j0, like),
        dv=lines_of(operands, DV, b, g, j0, like),
    )


@inner
def _tile_of(problem, operands, keys, member, like):
    """Return a head that shares some keys, and the tile of its queries with them."""
    T, h = problem.T, keys.g * (problem.H // problem.G) + member
    head = head_of(problem, operands, keys.b, h, like)
    run = Run(keys.b, h, 0, T)
    return head, tile_of(head.rule, run, keys.j0, keys.m, KEYS, False)


@inner
def _add_tile(problem, operands, keys, room, finite, dq):
    """Write dk and dv of a tile's keys, and add what they give to dq."""
    T, D, Dv, m = problem.T, problem.D, problem.Dv, keys.m
    partial = False
    for member in range(problem.H // problem.G):
        head, tile = _tile_of(problem, operands, keys, member, room.rows)
        partial = partial or tile.kind != FULL
        _score_gradients(problem, room, member * T, head, tile, keys)
    k = keys.k
    if partial and not (finite and is_finite(k, m, D)):
        _add_visible(problem, operands, keys, room, dq)
        return
    w, n = lanes(room.rows), queries_of(problem)
    dv, dk = Lines(room.rows, room.dout.step), Lines(room.rows, room.q.step)
    weights, dscores = Grid(room.weights, 1, KEYS), Grid(room.dscores, 1, KEYS)
    multiply(dv, weights, room.dout, Extent(m, n), dv.step // w, False)
    fits = write_rows(keys.dv, dv, m, Dv, 1.0)
    multiply(dk, dscores, room.q, Extent(m, n), dk.step // w, False)
    if not (write_rows(keys.dk, dk, m, D, problem.scale) and fits):
        operands[UNFIT] = 1
    if room.k.step != D:
        pack(room.k, k, m, D)
        k = room.k
    for i in range(n):
        add_rows(line(dq, i), room.dscores + i * KEYS, k, dq.step, m)


@inner
def _score_gradients(problem, room, first, head, tile, keys):
    """Leave the weights of one head's queries, with dropout, and the gradients of their scores."""
    weights, dscores = room.weights + first * KEYS, room.dscores + first * KEYS
    slopes, stats, w = room.slopes + first * KEYS, stats_from(room.stats, first), lanes(weights)
    if tile.kind == HIDDEN:
        fill(weights, tile.n * KEYS, 0.0)
        fill(dscores, tile.n * KEYS, 0.0)
        return
    q, dout = lines_from(room.q, first), lines_from(room.dout, first)
    multiply_rows(weights, q, keys.k, tile, problem.D, room.partial)
    multiply_rows(dscores, dout, keys.v, tile, problem.Dv, room.partial)
    finish_scores(weights, head, tile, slopes)
    if head.dropout > 0.0:
        drop(dscores, head, tile)
    for i in range(tile.n):
        base, log_sum, delta = stats.base[i], stats.log_sum[i], stats.delta[i]
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
def _add_visible(problem, operands, keys, room, dq):
    """Write a tile pair by pair, where NaN or infinity must not pass through a hidden pair."""
    T, D, Dv, group, m = problem.T, problem.D, problem.Dv, problem.H // problem.G, keys.m
    dv, dk = Lines(room.rows, room.dout.step), Lines(room.rows, room.q.step)
    fill(dv.start, m * dv.step, 0.0)
    for member in range(group):
        head, tile = _tile_of(problem, operands, keys, member, room.rows)
        weights = Grid(room.weights + member * T * KEYS, KEYS, 1)
        dout = by_row(lines_from(room.dout, member * T))
        add_visible(by_column(dv), weights, dout, Dv, head.rule, tile)
    write_rows(keys.dv, dv, m, Dv, 1.0)
    fill(dk.start, m * dk.step, 0.0)
    for member in range(group):
        head, tile = _tile_of(problem, operands, keys, member, room.rows)
        dscores = Grid(room.dscores + member * T * KEYS, KEYS, 1)
        q, own = by_row(lines_from(room.q, member * T)), by_row(lines_from(dq, member * T))
        add_visible(by_column(dk), dscores, q, D, head.rule, tile)
        add_visible(own, dscores, by_column(keys.k), D, head.rule, tile)
    write_rows(keys.dk, dk, m, D, problem.scale)
