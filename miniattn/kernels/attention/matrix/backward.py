"""Attention backward on the matrix unit: `vector.backward`, with products as in `matrix_unit`.

The sums and who owns them are the same. A tile is cut into small ones of 32 keys x 32 queries:
while the vector registers weigh the scores of one and pack its weights and dscores, the unit
multiplies the next. Once a tile is complete, its products with dout, q and k are added to dv, dk
and dq. The last is summed turned, ``dq^T = k^T dS``, and turned back when it is
written.
"""

from typing import Any, NamedTuple

import numpy as np

from miniattn.kernels.attention.masking import HIDDEN, Tile, end_of_keys, first_key, tile_of
from miniattn.kernels.attention.matrix.packed import (
    KEYS,
    PackedTiles,
    find,
    forget,
    places_at,
)
from miniattn.kernels.attention.matrix.products import (
    QuerySums,
    add_to_keys,
    chunk_rows,
    hide_rest,
    key_step,
    multiply_queries,
    small_tile,
)
from miniattn.kernels.attention.matrix.squares import (
    chunks_of,
    finish,
    idle,
    multiply_small,
    pack,
    packed_size,
    write_turned,
)
from miniattn.kernels.attention.online import Stats, stats_from, weight_and_dscore
from miniattn.kernels.attention.operands import DOUT, DQ, UNFIT, K, Q, V, lines_of
from miniattn.kernels.attention.pieces import Call, key_head
from miniattn.kernels.attention.problem import Problem, problem_of
from miniattn.kernels.attention.scores import Head, finish_scores, head_of, not_dropped
from miniattn.kernels.attention.vector.queries import prepare_stats
from miniattn.kernels.attention.vector.sums import Share, beside_sums, sum_runs
from miniattn.kernels.compile.queue import each_piece
from miniattn.kernels.compile.settings import inner, task
from miniattn.kernels.dense.panels import fill, round_up
from miniattn.kernels.dense.places import Lines, lines_from
from miniattn.kernels.registers import aligned, load, select
from miniattn.kernels.registers.matrix_unit import (
    CHUNK,
    PARTS,
    SIDE,
    configure,
    release,
    store_parts,
)

QUERIES = 128  # of a run: so many share what is read of a tile of keys
PAIRS = CHUNK * CHUNK  # of a small tile


class Products(NamedTuple):
    """Of a small tile, in rows of `CHUNK` numbers: q·k and dout·v, and slopes of the softcap."""

    s: Any
    ds: Any
    slopes: Any


class Packed(NamedTuple):
    """What scores become: weights, packed by keys, and dscores, packed by keys and by queries.

    The steps lead to the next row of squares.
    """

    p: Any
    ds_keys: Any
    ds_queries: Any
    key_step: int
    query_step: int


class Weighing(NamedTuple):
    """What it takes to turn the products of a small tile into packed weights and dscores."""

    products: Products
    stats: Stats
    packed: Packed
    head: Head
    tile: Tile


class Room(NamedTuple):
    """The scratch memory of a thread: of some queries, of a tile, and packed tiles."""

    q: Any
    """Packed by queries, as `dout` is, and by features for the sums of dk."""
    q_rows: Any
    dout: Any
    dout_rows: Any
    p: Any
    ds_keys: Any
    ds_queries: Any
    now: Products
    later: Products
    dq: Any
    stats: Stats
    factors: Any
    tiles: PackedTiles
    end: Any


@inner
def lay_out(problem, start):
    """Return the `Room` of a thread from ``start`` on: an address, or 0 to learn its size."""
    D, Dv = problem.D, problem.Dv
    q = start
    q_rows = q + packed_size(QUERIES, D)
    dout = q_rows + packed_size(D, QUERIES)
    dout_rows = dout + packed_size(QUERIES, Dv)
    p = dout_rows + packed_size(Dv, QUERIES)
    ds_keys = p + packed_size(QUERIES, KEYS)
    ds_queries = ds_keys + packed_size(QUERIES, KEYS)
    now = ds_queries + packed_size(QUERIES, KEYS)
    later = now + 3 * PAIRS
    dq = later + 3 * PAIRS
    base = dq + QUERIES * round_up(D, SIDE)
    factors = base + 3 * QUERIES
    tiles = places_at(problem, QUERIES, keys_at(problem, 0).end, factors + QUERIES)
    return Room(
        q=q,
        q_rows=q_rows,
        dout=dout,
        dout_rows=dout_rows,
        p=p,
        ds_keys=ds_keys,
        ds_queries=ds_queries,
        now=Products(now, now + PAIRS, now + 2 * PAIRS),
        later=Products(later, later + PAIRS, later + 2 * PAIRS),
        dq=dq,
        stats=Stats(base, base + QUERIES, base + 2 * QUERIES),
        factors=factors,
        tiles=tiles,
        end=tiles.end,
    )


class Keys(NamedTuple):
    """A tile of packed keys, of keys turned, and of values."""

    k: Any
    k_columns: Any
    v: Any
    end: Any


@inner
def keys_at(problem, start):
    """Return the `Keys` from ``start`` on: an address, or 0 to learn their size."""
    k_columns = start + packed_size(KEYS, problem.D)
    v = k_columns + packed_size(problem.D, KEYS)
    return Keys(start, k_columns, v, v + packed_size(KEYS, problem.Dv))


@task
def backward(sizes, factors, operands, queue, scratch):
    """Write dq, dk and dv, or that operands are UNFIT; arguments as in `vector.backward`."""
    problem = problem_of(sizes, factors)
    own = aligned(scratch)
    room = lay_out(problem, beside_sums(problem, SIDE, own))
    fill(room.factors, QUERIES, problem.scale)
    forget(room.tiles)
    configure()
    each_piece(queue, sum_runs, Share(Call(problem, operands, own), QUERIES, _add_run, room))
    release()


def plan(problem: Problem, lanes: int) -> tuple[int, int]:
    """Return the pieces of work of `backward`, and the elements of scratch memory of a thread."""
    # It begins at a whole cache line.
    scratch = SIDE + lay_out(problem, beside_sums(problem, SIDE, 0)).end
    return problem.B * problem.G * problem.parts, scratch


@inner
def _add_run(call, run, sums, room):
    """Write dq of a run of queries, and add what it gives to dk and dv."""
    problem, operands, _ = call
    b, h, i0, n = run
    D, width = problem.D, round_up(n, CHUNK)
    _pack_queries(problem, operands, run, room)
    prepare_stats(problem, operands, run, width, room.stats)
    fill(room.dq, width * round_up(D, SIDE), 0.0)

    head = head_of(problem, operands, b, h, room.dq)
    rule = head.rule
    stop = end_of_keys(rule, i0 + n)
    for j0 in range(first_key(rule, i0, KEYS), stop, KEYS):
        tile = tile_of(rule, run, j0, min(KEYS, stop - j0), width, True)
        if tile.kind != HIDDEN:
            keys = _packed_tile(problem, operands, b, h, j0, room.tiles)
            _weigh_tile(problem, head, tile, keys, room)
            _add_tile(problem, keys.k_columns, tile, rule, sums, room)

    dq = lines_of(operands, DQ, b, h, i0, room.dq)
    if not write_turned(dq, Lines(room.dq, width), n, D, room.factors):
        operands[UNFIT] = 1


@inner
def _weigh_tile(problem, head, tile, keys, room):
    """Pack the weights and dscores of a tile, one small tile after the other.

    The registers are one small tile behind the unit, but for what is done to finished scores::

        stage       _multiply                            finish_scores        _multiply
        unit        S_1 = K_1 q^T, dP_1 = v_1 dout^T     -                    S_2 and dP_2
        registers   P_0 and dS_0, by _weigh              bias, mask of S_1    P_1 and dS_1
    """
    rule, stats = head.rule, room.stats
    now, later = room.now, room.later
    job = Weighing(now, stats, _place(room, tile, 0, 0), head, _empty(tile))
    for c in range(0, tile.width, CHUNK):
        start, stop = chunk_rows(rule, tile, c)
        for r in range(start, stop, CHUNK):
            _multiply(problem, now, keys, room, r, c, job)
            small = small_tile(tile, rule, r, c)
            finish_scores(now.s, head, small, now.slopes)
            hide_rest(now.s, rule, small)
            job = Weighing(now, stats_from(stats, c), _place(room, tile, r, c), head, small)
            now, later = later, now
    finish(_weigh, job, 0, SIDE)


@inner
def _multiply(problem, products, keys, room, r, c, job):
    """Compute the products q·k and dout·v of a small tile, and meanwhile weigh the one before."""
    step, v_step = chunks_of(problem.D) * PARTS, chunks_of(problem.Dv) * PARTS
    at, i = r // SIDE, c // SIDE
    k, q = keys.k + at * step, room.q + i * step
    portion = multiply_small(products.s, k, q, step, _weigh, job, 0)
    v, dout = keys.v + at * v_step, room.dout + i * v_step
    portion = multiply_small(products.ds, v, dout, v_step, _weigh, job, portion)
    finish(_weigh, job, portion, SIDE)


@inner
def _empty(tile):
    """Return a tile without keys, of which there is nothing to weigh."""
    return Tile(tile.b, tile.h, tile.i0, 0, tile.j0, 0, CHUNK, True, HIDDEN, 0)


@inner
def _place(room, tile, r, c):
    """Return where what becomes of a small tile is packed."""
    key_step, query_step = chunks_of(tile.width) * PARTS, chunks_of(tile.m) * PARTS
    by_keys = r // SIDE * key_step + c // CHUNK * PARTS
    by_queries = c // SIDE * query_step + r // CHUNK * PARTS
    return Packed(
        room.p + by_keys,
        room.ds_keys + by_keys,
        room.ds_queries + by_queries,
        key_step,
        query_step,
    )


@inner(forceinline=True)
def _weigh(job, portion):
    """Weigh and pack two keys, 16 apart, and the queries of two vectors."""
    if portion < SIDE and job.tile.m > 0:
        packed, row = job.packed, portion * SIDE
        a, da = _weighed(job, portion, 0)
        b, db = _weighed(job, portion, SIDE)
        c, dc = _weighed(job, portion + SIDE, 0)
        d, dd = _weighed(job, portion + SIDE, SIDE)
        store_parts(packed.p + row, a, b)
        store_parts(packed.p + (packed.key_step + row), c, d)
        store_parts(packed.ds_keys + row, da, db)
        store_parts(packed.ds_keys + (packed.key_step + row), dc, dd)
        store_parts(packed.ds_queries + row, da, dc)
        store_parts(packed.ds_queries + (packed.query_step + row), db, dd)


@inner(forceinline=True)
def _weighed(job, r, c):
    """Return weights, with dropout, and dscores of one key and the queries of one vector."""
    head, products, stats, at = job.head, job.products, job.stats, r * CHUNK + c
    score, dweight = load(products.s + at), load(products.ds + at)
    factor, stays = 1.0, score == score
    if head.dropout > 0.0:
        factor, stays = 1.0 / (1.0 - head.dropout), not_dropped(head, job.tile, r, c, score)
        dweight = select(stays, dweight * factor, 0.0)
    # Masked: what stands for rows that do not exist may be NaN.
    base, log_sum, delta = load(stats.base + c), load(stats.log_sum + c), load(stats.delta + c)
    weight, dscore = weight_and_dscore(score, dweight, base, log_sum, delta, head.factor, True)
    if head.softcap > 0.0:
        dscore = select(score == -np.inf, 0.0, dscore * load(products.slopes + at))
    if head.dropout > 0.0:
        weight = select(stays, weight * factor, 0.0)
    return weight, dscore


@inner
def _add_tile(problem, k_columns, tile, rule, sums, room):
    """Add a tile's part of dv, dk and dq."""
    dk, dv = lines_from(sums.dk, tile.j0), lines_from(sums.dv, tile.j0)
    add_to_keys(dv, room.p, room.dout_rows, rule, tile)
    add_to_keys(dk, room.ds_keys, room.q_rows, rule, tile)
    dq = QuerySums(room.dq, round_up(problem.D, SIDE), True)
    columns = Lines(k_columns, key_step(problem, tile))
    multiply_queries(dq, columns, room.ds_queries, rule, tile, idle, 0, 0)


@inner
def _pack_queries(problem, operands, run, room):
    """Pack a run's queries and their dout, each for both products that they are part of."""
    n, D, Dv = run.n, problem.D, problem.Dv
    q = lines_of(operands, Q, run.b, run.h, run.i0, room.q)
    dout = lines_of(operands, DOUT, run.b, run.h, run.i0, room.q)
    fits = pack(room.q, q, n, D, True, True)
    pack(room.q_rows, q, n, D, False, False)
    if not (pack(room.dout, dout, n, Dv, True, True) and fits):
        operands[UNFIT] = 1
    pack(room.dout_rows, dout, n, Dv, False, False)


@inner
def _packed_tile(problem, operands, b, h, j0, tiles):
    """Return a tile's keys, and its keys turned, and values, packed."""
    D, Dv = problem.D, problem.Dv
    g = key_head(problem, h)
    place, missing = find(tiles, b * problem.G + g, j0 // KEYS)
    keys = keys_at(problem, place)
    if missing:
        m = min(KEYS, problem.S - j0)
        k, v = lines_of(operands, K, b, g, j0, place), lines_of(operands, V, b, g, j0, place)
        fits = pack(keys.k, k, m, D, True, False)
        pack(keys.k_columns, k, m, D, False, True)
        if not (pack(keys.v, v, m, Dv, True, False) and fits):
            operands[UNFIT] = 1
    return keys
