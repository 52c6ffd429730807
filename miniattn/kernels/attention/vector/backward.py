"""Attention backward, by hand: weights are recomputed from m and log l, never stored.

With P the weights of one head, delta_i = sum_e dout_ie out_ie and dP = dout v^T::

    P = exp((S - m) - log l)
    dv = P^T dout        dS = P * (dP - delta)        dq = scale dS k        dk = scale dS^T q

One piece of work owns dk and dv of one key/value head. It walks over its blocks of 64 queries, each
of which owns its rows of dq, and over tiles of 64 keys: five products per tile, in one pass. Where
there are few heads, their query blocks are dealt to several pieces, as the shape alone decides, and
the partial sums of dk and dv are added in order: the same bits for any number of threads.

As in the forward direction, scores and their gradients are kept keys x queries. K and V are read
in place; q and dout are packed once per query block, transposed.

References
----------
Dao et al. "FlashAttention" (2022), appendix B.2; Dao. "FlashAttention-2" (2023), section 3.1.2.
"""

from typing import Any, NamedTuple

import numpy as np

from miniattn.kernels.attention.masking import (
    GROUP,
    HIDDEN,
    PARTIAL,
    end_of_keys,
    first_key,
    keys_seen,
    tile_of,
)
from miniattn.kernels.attention.online import (
    Rows,
    Stats,
    add_visible,
    dlse_of,
    read_stats,
    weight_and_dscore,
)
from miniattn.kernels.attention.problem import (
    BOUNDS,
    DBIAS,
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
    given,
    lines_of,
    part_of,
    problem_of,
    step_of,
)
from miniattn.kernels.attention.scores import Head, drop, finish_scores, head_of
from miniattn.kernels.attention.vector.forward import KEYS, QUERIES, row_width
from miniattn.kernels.attention.vector.products import add_to_keys, multiply_keys, multiply_queries
from miniattn.kernels.compile.queue import take
from miniattn.kernels.compile.settings import inner, task
from miniattn.kernels.dense.panels import (
    ROW_GROUP,
    add,
    dot,
    fill,
    is_finite,
    multiply_elements,
    pack,
    pack_transposed,
    round_up,
    write_rows,
)
from miniattn.kernels.registers import (
    LANES,
    lanes,
    load,
    load_first,
    registers,
    store,
    store_first,
    transpose,
)

# So many keys meet a block of queries that it pays to copy its rows to whole cache lines: a user's
# arrays seldom begin at one, and products read rows that straddle lines 5 % more slowly.
WORTH_A_COPY = 4 * KEYS


class Sums(NamedTuple):
    """The sums dk and dv of one key/value head, in rows of whole vectors."""

    dk: Lines
    dv: Lines
    end: Any


@inner
def sums_at(problem, w, start):
    """Return the `Sums` from ``start`` on: an address, or 0 to learn their size."""
    rows = round_up(problem.S, KEYS)
    dk = Lines(start, round_up(problem.D, w))
    dv = Lines(dk.start + rows * dk.step, round_up(problem.Dv, w))
    return Sums(dk, dv, dv.start + rows * dv.step)


class Room(NamedTuple):
    """The scratch memory of ``n`` queries."""

    width: int
    """Of a row of scores: n and padding."""
    q_turned: Any
    dout_turned: Any
    s: Any
    ds: Any
    slopes: Any
    dq: Lines
    q: Lines
    """A copy, as `dout` and ``k`` are: where rows cannot be read in place, or it is slow."""
    dout: Lines
    k: Lines
    """Of a tile."""
    stats: Stats
    end: Any


@inner
def lay_out(problem, n, w, start):
    """Return the `Room` of ``n`` queries; arguments as in `vector.forward.lay_out`."""
    width, d_width, v_width = row_width(n, w), round_up(problem.D, w), round_up(problem.Dv, w)
    tile = width * (KEYS + ROW_GROUP)
    q_turned = start
    dout_turned = q_turned + width * problem.D
    s = dout_turned + width * problem.Dv
    ds = s + tile
    slopes = ds + tile
    dq = slopes + tile
    q = dq + width * d_width
    dout = q + width * d_width
    k = dout + width * v_width
    base = k + KEYS * d_width
    return Room(
        width=width,
        q_turned=q_turned,
        dout_turned=dout_turned,
        s=s,
        ds=ds,
        slopes=slopes,
        dq=Lines(dq, d_width),
        q=Lines(q, d_width),
        dout=Lines(dout, v_width),
        k=Lines(k, d_width),
        stats=Stats(base, base + width, base + 2 * width),
        end=base + 3 * width,
    )


@inner
def beside_sums(problem, w, start):
    """Return where a thread's `Room` begins: behind its `Sums`, where a head has one part."""
    return sums_at(problem, w, start).end if problem.parts == 1 else start


class Queries(NamedTuple):
    """Some queries of one head, made ready for its tiles."""

    b: int
    h: int
    i0: int
    n: int
    head: Head
    q: Lines
    """Read in place, or a copy; so is dout."""
    dout: Lines
    k: Lines
    v: Lines
    is_finite: bool
    room: Room


@task
def backward(sizes, factors, operands, queue, scratch):
    """Write dq, dk and dv; where finite numbers led to others, the operands are UNFIT.

    ``problem.parts`` says among how many pieces of work the query blocks of one key/value head are
    dealt. Where they are several, they leave their sums in the operand SUMS, for `add_sums`; a
    single one keeps them in scratch memory. Arguments: as in `vector.forward.forward`.
    """
    problem = problem_of(sizes, factors)
    parts = problem.parts
    work = beside_sums(problem, lanes(scratch), scratch)
    piece = take(queue)
    while piece < problem.tasks:
        b, g = piece // parts // problem.G, piece // parts % problem.G
        sums = part_of(operands, SUMS, 0, piece, scratch) if parts > 1 else scratch
        _sum_queries(problem, operands, b, g, piece % parts, sums, work)
        if parts == 1:
            write_sums(problem, operands, b, g, 0, problem.S, sums)
        piece = take(queue)


@task
def add_sums(sizes, factors, operands, queue, scratch):
    """Write dk and dv from the sums that the parts of `backward` left, added in order."""
    problem = problem_of(sizes, factors)
    chunks = (problem.S + KEYS - 1) // KEYS
    piece = take(queue)
    while piece < problem.tasks:
        head, j0 = piece // chunks, piece % chunks * KEYS
        sums = part_of(operands, SUMS, 0, head * problem.parts, scratch)
        b, g = head // problem.G, head % problem.G
        write_sums(problem, operands, b, g, j0, min(problem.S, j0 + KEYS), sums)
        piece = take(queue)


def plan(problem: Problem, lanes: int) -> tuple[int, int]:
    """Return the pieces of work of `backward`, and the elements of scratch memory of a thread."""
    scratch = lay_out(problem, QUERIES, lanes, beside_sums(problem, lanes, 0)).end
    return problem.B * problem.G * problem.parts, scratch


def plan_sums(problem: Problem, lanes: int) -> tuple[int, int]:
    """Return the pieces of work of `add_sums`; it takes no scratch memory."""
    return problem.B * problem.G * -(-problem.S // KEYS), 0


@inner
def sums_size(problem, w):
    """Return the elements of the `Sums` of one key/value head."""
    return sums_at(problem, w, 0).end


@inner
def _sum_queries(problem, operands, b, g, part, start, work):
    """Write dq of its blocks of queries, and their part of dk and dv to the `Sums` at ``start``."""
    w = lanes(work)
    sums = sums_at(problem, w, start)
    fill(start, sums_size(problem, w), 0.0)
    group, D = problem.H // problem.G, problem.D
    for h in range(g * group, (g + 1) * group):
        for number in range(part, runs_of_queries(problem), problem.parts):
            queries = prepare(problem, operands, b, h, number * QUERIES, work)
            _add_gradients(problem, queries, sums)
            own = queries.room.dq
            dq, row = lines_of(operands, DQ, b, h, queries.i0, work)
            if not write_rows(dq, row, own.start, own.step, queries.n, D, problem.scale):
                operands[UNFIT] = 1


@inner
def prepare(problem, operands, b, h, i0, work):
    """Pack the queries ``i0 <= i < i0 + QUERIES`` of a head and their dout, read their `Stats`."""
    D, Dv = problem.D, problem.Dv
    n = min(QUERIES, problem.T - i0)
    room = lay_out(problem, n, lanes(work), work)
    g = h // (problem.H // problem.G)
    q, dout = lines_of(operands, Q, b, h, i0, work), lines_of(operands, DOUT, b, h, i0, work)
    pack_transposed(room.q_turned, room.width, q.start, q.step, n, D)
    pack_transposed(room.dout_turned, room.width, dout.start, dout.step, n, Dv)
    # Without a mask nothing is hidden from anything.
    finite = not given(operands, BOUNDS) or (
        is_finite(q.start, q.step, n, D) and is_finite(dout.start, dout.step, n, Dv)
    )
    prepare_stats(problem, operands, b, h, i0, n, room.width, room.stats)
    return Queries(
        b=b,
        h=h,
        i0=i0,
        n=n,
        head=head_of(problem, operands, b, h, work),
        q=_whole_rows(problem, q, room.q, n, D),
        dout=_whole_rows(problem, dout, room.dout, n, Dv),
        k=lines_of(operands, K, b, g, 0, work),
        v=lines_of(operands, V, b, g, 0, work),
        is_finite=finite,
        room=room,
    )


@inner
def _whole_rows(problem, source, copy, n, columns):
    """Return ``n`` rows as products read them, in whole vectors: in place, or their ``copy``."""
    if copy.step == columns and problem.S < WORTH_A_COPY:
        return source
    pack(copy.start, copy.step, source.start, source.step, n, columns)
    return copy


@inner
def prepare_stats(problem, operands, b, h, i0, n, width, stats):
    """Read m and log2 l of a block of queries, and compute ``delta = sum_e dout_e out_e``."""
    dout, dout_row = lines_of(operands, DOUT, b, h, i0, stats.delta)
    out, out_row = lines_of(operands, OUT, b, h, i0, stats.delta)
    read_stats(operands, b, h, i0, n, width, stats.base, stats.log_sum)
    for i in range(width):
        seen = stats.log_sum[i] != np.inf
        # tiled: delta = (dout[rows] * out[rows]).sum(axis=1)
        delta = 0.0
        if seen:
            delta = dot(dout + i * dout_row, out + i * out_row, problem.Dv)
            delta = delta - dlse_of(operands, b, h, i0 + i, dout)
        stats.delta[i] = delta


@inner
def query_tile(queries, j0, m):
    """Return the tile of some queries and ``m`` keys."""
    rule, width = queries.head.rule, queries.room.width
    return tile_of(rule, queries.b, queries.h, queries.i0, queries.n, j0, m, width, True)


@inner
def first_tile(queries):
    """Return where the tiles of some queries begin."""
    return first_key(queries.head.rule, queries.i0, KEYS)


@inner
def last_tile(problem, queries):
    """Return where the tiles of some queries end.

    Tiles end at whole row groups or at S, so that rows written past a tile's end are padding.
    """
    stop = end_of_keys(queries.head.rule, queries.i0 + queries.n)
    return min(problem.S, round_up(stop, ROW_GROUP))


@inner
def _add_gradients(problem, queries, sums):
    """Add what some queries give to dk and dv, and leave the sums of their dq in their room."""
    room, D = queries.room, problem.D
    rule, q, dout, dq = queries.head.rule, queries.q, queries.dout, room.dq
    fill(dq.start, room.width * dq.step, 0.0)
    stop = last_tile(problem, queries)
    for j0 in range(first_tile(queries), stop, KEYS):
        m = min(KEYS, stop - j0)
        tile = query_tile(queries, j0, m)
        if tile.kind == HIDDEN:
            continue
        score_gradients(problem, queries, tile)
        if queries.head.softcap > 0.0:
            multiply_elements(room.ds, room.slopes, m * room.width)
        k, k_row = queries.k.start + j0 * queries.k.step, queries.k.step
        dk, dk_row = sums.dk.start + j0 * sums.dk.step, sums.dk.step
        dv, dv_row = sums.dv.start + j0 * sums.dv.step, sums.dv.step
        if tile.kind == PARTIAL and not (queries.is_finite and is_finite(k, k_row, m, D)):
            _add_visible(problem, queries, tile, k, Rows(dk, 0, dk_row), Rows(dv, 0, dv_row))
            continue
        if room.k.step != D:
            pack(room.k.start, room.k.step, k, k_row, m, D)
            k, k_row = room.k
        # tiled: dv[tile] += weight.T @ dout[rows]
        add_to_keys(dv, dv_row, room.s, dout.start, dout.step, rule, tile)
        # tiled: dk[tile] += scale * (ds.T @ q[rows])
        add_to_keys(dk, dk_row, room.ds, q.start, q.step, rule, tile)
        # tiled: dq[rows] += scale * (ds @ k[tile])
        multiply_queries(dq.start, dq.step, room.ds, k, k_row, rule, tile, True)


@inner
def score_gradients(problem, queries, tile):
    """Leave a tile's weights, with dropout, in ``room.s`` and its dscores in ``room.ds``.

    dscores are those of the scores after softcap and bias. Rows up to the next row group are 0;
    what the bounds of the mask leave out is left alone.
    """
    width, m = tile.width, tile.m
    room, head = queries.room, queries.head
    s, ds, k, v = room.s, room.ds, queries.k, queries.v
    k_tile, v_tile = k.start + tile.j0 * k.step, v.start + tile.j0 * v.step
    # tiled: s = scores(q[rows], k[tile], seen, scale)
    multiply_keys(s, k_tile, k.step, room.q_turned, problem.D, head.rule, tile)
    # tiled: dweight = dout[rows] @ v[tile].T
    multiply_keys(ds, v_tile, v.step, room.dout_turned, problem.Dv, head.rule, tile)
    weigh(s, ds, head, tile, room.slopes, room.stats)
    padding = (round_up(m, ROW_GROUP) - m) * width
    fill(s + m * width, padding, 0.0)
    fill(ds + m * width, padding, 0.0)


@inner
def weigh(s, ds, head, tile, slopes, stats):
    """Turn products q·k into weights, and products dout·v into dscores."""
    w, width, masked = lanes(s), tile.width, tile.kind == PARTIAL
    finish_scores(s, head, tile, slopes)
    if head.dropout > 0.0:
        drop(ds, head, tile)
    for c in range(0, width, w):
        start, stop = keys_seen(head.rule, tile, c // GROUP * GROUP, GROUP)
        base, log_sum, delta = load(stats.base + c), load(stats.log_sum + c), load(stats.delta + c)
        for r in range(start, stop):
            at = r * width + c
            score, dweight = load(s + at), load(ds + at)
            weight, dscore = weight_and_dscore(
                score, dweight, base, log_sum, delta, head.factor, masked
            )
            store(s + at, weight)
            store(ds + at, dscore)
    if head.dropout > 0.0:
        drop(s, head, tile)


@inner
def _add_visible(problem, queries, tile, k, dk, dv):
    """Add a tile pair by pair, where NaN or infinity must not pass through a hidden pair."""
    rule, room, D = queries.head.rule, queries.room, problem.D
    weights, dscores = Rows(room.s, 1, tile.width), Rows(room.ds, 1, tile.width)
    q, dout = (
        Rows(queries.q.start, queries.q.step, 0),
        Rows(queries.dout.start, queries.dout.step, 0),
    )
    add_visible(dv, weights, dout, problem.Dv, rule, tile)
    add_visible(dk, dscores, q, D, rule, tile)
    dq, keys = Rows(room.dq.start, room.dq.step, 0), Rows(k, 0, queries.k.step)
    add_visible(dq, dscores, keys, D, rule, tile)


@inner
def write_sums(problem, operands, b, g, j0, j1, start):
    """Write rows ``j0 <= j < j1`` of dk and dv: the `Sums` of all parts, added in order."""
    w, n, size = lanes(start), j1 - j0, step_of(operands, SUMS, 1)
    sums = sums_at(problem, w, start)
    dk, dv = sums.dk.start + j0 * sums.dk.step, sums.dv.start + j0 * sums.dv.step
    for part in range(1, problem.parts):
        add(dk, dk + part * size, n * sums.dk.step)
        add(dv, dv + part * size, n * sums.dv.step)
    k_out, k_row = lines_of(operands, DK, b, g, j0, start)
    v_out, v_row = lines_of(operands, DV, b, g, j0, start)
    fits = write_rows(k_out, k_row, dk, sums.dk.step, n, problem.D, problem.scale)
    if not (write_rows(v_out, v_row, dv, sums.dv.step, n, problem.Dv, 1.0) and fits):
        operands[UNFIT] = 1


@task
def bias_backward(sizes, factors, operands, queue, scratch):
    """Add dscores into dbias, which is zero and of the bias's own, un-broadcast shape.

    Each piece of work owns one batch row, head and (where the bias has them) block of queries of
    dbias, and walks over everything that was broadcast from it, in order. That takes the first two
    products of `backward` again, only where a bias was given.
    """
    problem = problem_of(sizes, factors)
    batch = problem.B if step_of(operands, DBIAS, 0) != 0 else 1
    heads = problem.H if step_of(operands, DBIAS, 1) != 0 else 1
    runs = runs_of_queries(problem) if step_of(operands, DBIAS, 2) != 0 else 1
    piece = take(queue)
    while piece < problem.tasks:
        own, number = piece // runs, piece % runs
        for b in range(own // heads, problem.B, batch):
            for h in range(own % heads, problem.H, heads):
                dbias = part_of(operands, DBIAS, b, h, scratch)
                for n in range(number, runs_of_queries(problem), runs):
                    queries = prepare(problem, operands, b, h, n * QUERIES, scratch)
                    _add_to_bias(problem, operands, queries, dbias)
        piece = take(queue)


@inner
def runs_of_queries(problem):
    """Return the number of runs of QUERIES queries of a head."""
    return (problem.T + QUERIES - 1) // QUERIES


def plan_bias(problem: Problem, lanes: int, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the pieces of work of `bias_backward` for a bias of four axes, and scratch memory."""
    runs = runs_of_queries(problem) if shape[2] > 1 else 1
    return shape[0] * shape[1] * runs, lay_out(problem, QUERIES, lanes, 0).end


@inner
def _add_to_bias(problem, operands, queries, dbias):
    """Add the dscores of some queries to dbias."""
    w = lanes(dbias)
    stop = last_tile(problem, queries)
    for j0 in range(first_tile(queries), stop, KEYS):
        m = min(KEYS, stop - j0)
        tile = query_tile(queries, j0, m)
        if tile.kind == HIDDEN:
            continue
        score_gradients(problem, queries, tile)
        for c in range(0, queries.n, w):
            seen = keys_seen(queries.head.rule, tile, c // GROUP * GROUP, GROUP)
            for r in range(seen[0], seen[1], w):
                keys = min(w, seen[1] - r)
                _add_square(dbias, operands, queries.room.ds, tile, c, r, keys)


@inner
def _add_square(dbias, operands, ds, tile, c, r, keys):
    """Add the dscores of a vector of queries and of as many keys, or fewer."""
    w, row, column = lanes(dbias), step_of(operands, DBIAS, 2), step_of(operands, DBIAS, 3)
    square = registers(LANES, dbias)
    transpose(square, w, ds + (r * tile.width + c), tile.width, keys)
    for i in range(min(w, tile.n - c)):
        p = dbias + ((tile.i0 + c + i) * row + (tile.j0 + r) * column)
        if column == 1:
            store_first(p, load_first(p, keys) + load(square + i * w), keys)
        else:  # the bias is the same for all keys
            for j in range(keys):
                p[j * column] = p[j * column] + square[i * w + j]
