"""Attention backward on the matrix unit: `vector.backward`, with products as in `matrix_unit`.

The sums and who owns them are the same. Scores and their gradients are computed by squares of 32
keys x 32 queries: while the vector registers weigh one square and pack its weights and dscores,
the unit multiplies the next. Once a tile of squares is complete, its products with dout, q and k
are added to dv, dk and dq. The last is summed turned, ``dq^T = k^T dS``, and turned back when it is
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
    square_of,
)
from miniattn.kernels.attention.matrix.squares import (
    chunks_of,
    finish,
    idle,
    multiply_square,
    pack,
    packed_size,
    write_turned,
)
from miniattn.kernels.attention.online import Stats, weight_and_dscore
from miniattn.kernels.attention.problem import (
    DOUT,
    DQ,
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
)
from miniattn.kernels.attention.scores import Head, finish_scores, head_of, kept
from miniattn.kernels.attention.vector.backward import (
    beside_sums,
    prepare_stats,
    sums_at,
    sums_size,
    write_sums,
)
from miniattn.kernels.compile.queue import take
from miniattn.kernels.compile.settings import inner, task
from miniattn.kernels.dense.panels import fill, round_up
from miniattn.kernels.registers import aligned, load, select
from miniattn.kernels.registers.matrix_unit import (
    BLOCK,
    CHUNK,
    PARTS,
    configure,
    release,
    store_parts,
)

QUERIES = 128  # of a block: so many share what is read of a tile of keys
SQUARE = CHUNK * CHUNK


class Square(NamedTuple):
    """Rows of `CHUNK` numbers: products q·k and dout·v, and slopes of the softcap."""

    s: Any
    ds: Any
    slopes: Any


class Packed(NamedTuple):
    """What scores become: weights, packed by keys, and dscores, packed by keys and by queries.

    The steps lead to the next row of blocks.
    """

    p: Any
    ds_keys: Any
    ds_queries: Any
    key_step: int
    query_step: int


class Weighing(NamedTuple):
    """What it takes to turn a square of products into packed weights and dscores."""

    square: Square
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
    now: Square
    later: Square
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
    later = now + 3 * SQUARE
    dq = later + 3 * SQUARE
    base = dq + QUERIES * round_up(D, BLOCK)
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
        now=Square(now, now + SQUARE, now + 2 * SQUARE),
        later=Square(later, later + SQUARE, later + 2 * SQUARE),
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
    parts = problem.parts
    own = aligned(scratch)
    room = lay_out(problem, beside_sums(problem, BLOCK, own))
    fill(room.factors, QUERIES, problem.scale)
    forget(room.tiles)
    configure()
    piece = take(queue)
    while piece < problem.tasks:
        b, g = piece // parts // problem.G, piece // parts % problem.G
        sums = part_of(operands, SUMS, 0, piece, own) if parts > 1 else own
        _sum_queries(problem, operands, b, g, piece % parts, sums, room)
        if parts == 1:
            write_sums(problem, operands, b, g, 0, problem.S, sums)
        piece = take(queue)
    release()


def plan(problem: Problem, lanes: int) -> tuple[int, int]:
    """Return the pieces of work of `backward`, and the elements of scratch memory of a thread."""
    # It begins at a whole cache line.
    scratch = BLOCK + lay_out(problem, beside_sums(problem, BLOCK, 0)).end
    return problem.B * problem.G * problem.parts, scratch


@inner
def _sum_queries(problem, operands, b, g, part, start, room):
    """Write dq of its runs of queries, and their part of dk and dv to the `Sums` at ``start``."""
    sums = sums_at(problem, BLOCK, start)
    fill(start, sums_size(problem, BLOCK), 0.0)
    group = problem.H // problem.G
    for h in range(g * group, (g + 1) * group):
        for number in range(part, (problem.T + QUERIES - 1) // QUERIES, problem.parts):
            _add_gradients(problem, operands, b, h, number * QUERIES, sums, room)


@inner
def _add_gradients(problem, operands, b, h, i0, sums, room):
    """Write dq of the queries ``i0 <= i < i0 + QUERIES`` of a head, and add to dk and dv."""
    D = problem.D
    n = min(QUERIES, problem.T - i0)
    width = round_up(n, CHUNK)
    _pack_queries(problem, operands, b, h, i0, n, room)
    prepare_stats(problem, operands, b, h, i0, n, width, room.stats)
    fill(room.dq, width * round_up(D, BLOCK), 0.0)

    head = head_of(problem, operands, b, h, room.dq)
    rule = head.rule
    stop = end_of_keys(rule, i0 + n)
    for j0 in range(first_key(rule, i0, KEYS), stop, KEYS):
        tile = tile_of(rule, b, h, i0, n, j0, min(KEYS, stop - j0), width, True)
        if tile.kind != HIDDEN:
            keys = _packed_tile(problem, operands, b, h, j0, room.tiles)
            _weigh_tile(problem, head, tile, keys, room)
            _add_tile(problem, keys.k_columns, tile, rule, sums, room)

    dq = lines_of(operands, DQ, b, h, i0, room.dq)
    if not write_turned(dq, Lines(room.dq, width), n, D, room.factors):
        operands[UNFIT] = 1


@inner
def _weigh_tile(problem, head, tile, keys, room):
    """Pack the weights and dscores of a tile, square by square."""
    rule, width = head.rule, tile.width
    now, later = room.now, room.later
    step, v_step = chunks_of(problem.D) * PARTS, chunks_of(problem.Dv) * PARTS
    stats = room.stats
    nothing = Weighing(now, stats, _place(room, tile, 0, 0), head, _empty(tile))
    job = nothing
    for c in range(0, width, CHUNK):
        start, stop = chunk_rows(rule, tile, c)
        for r in range(start, stop, CHUNK):
            at, i = r // BLOCK, c // BLOCK
            k, q = keys.k + at * step, room.q + i * step
            unit = multiply_square(now.s, k, q, step, _weigh, job, 0)
            v, dout = keys.v + at * v_step, room.dout + i * v_step
            unit = multiply_square(now.ds, v, dout, v_step, _weigh, job, unit)
            finish(_weigh, job, unit, BLOCK)
            square = square_of(tile, rule, r, c)
            finish_scores(now.s, head, square, now.slopes)
            hide_rest(now.s, rule, square)
            of_square = Stats(stats.base + c, stats.log_sum + c, stats.delta + c)
            job = Weighing(now, of_square, _place(room, tile, r, c), head, square)
            now, later = later, now
    finish(_weigh, job, 0, BLOCK)


@inner
def _empty(tile):
    """Return a tile without keys, of which there is nothing to weigh."""
    return Tile(tile.b, tile.h, tile.i0, 0, tile.j0, 0, CHUNK, True, HIDDEN)


@inner
def _place(room, tile, r, c):
    """Return where what becomes of a square of a tile is packed."""
    key_step, query_step = chunks_of(tile.width) * PARTS, chunks_of(tile.m) * PARTS
    by_keys = r // BLOCK * key_step + c // CHUNK * PARTS
    by_queries = c // BLOCK * query_step + r // CHUNK * PARTS
    return Packed(
        room.p + by_keys,
        room.ds_keys + by_keys,
        room.ds_queries + by_queries,
        key_step,
        query_step,
    )


@inner(forceinline=True)
def _weigh(job, unit):
    """Weigh and pack two keys, 16 apart, and the queries of two vectors."""
    if unit < BLOCK and job.tile.m > 0:
        packed, row = job.packed, unit * BLOCK
        a, da = _weighed(job, unit, 0)
        b, db = _weighed(job, unit, BLOCK)
        c, dc = _weighed(job, unit + BLOCK, 0)
        d, dd = _weighed(job, unit + BLOCK, BLOCK)
        store_parts(packed.p + row, a, b)
        store_parts(packed.p + (packed.key_step + row), c, d)
        store_parts(packed.ds_keys + row, da, db)
        store_parts(packed.ds_keys + (packed.key_step + row), dc, dd)
        store_parts(packed.ds_queries + row, da, dc)
        store_parts(packed.ds_queries + (packed.query_step + row), db, dd)


@inner(forceinline=True)
def _weighed(job, r, c):
    """Return weights, with dropout, and dscores of one key and the queries of one vector."""
    head, square, stats, at = job.head, job.square, job.stats, r * CHUNK + c
    score, dweight = load(square.s + at), load(square.ds + at)
    factor, stays = 1.0, score == score
    if head.dropout > 0.0:
        factor, stays = 1.0 / (1.0 - head.dropout), kept(head, job.tile, r, c, score)
        dweight = select(stays, dweight * factor, 0.0)
    # Masked: what stands for rows that do not exist may be NaN.
    base, log_sum, delta = load(stats.base + c), load(stats.log_sum + c), load(stats.delta + c)
    weight, dscore = weight_and_dscore(score, dweight, base, log_sum, delta, head.factor, True)
    if head.softcap > 0.0:
        dscore = select(score == -np.inf, 0.0, dscore * load(square.slopes + at))
    if head.dropout > 0.0:
        weight = select(stays, weight * factor, 0.0)
    return weight, dscore


@inner
def _add_tile(problem, k_columns, tile, rule, sums, room):
    """Add a tile's part of dv, dk and dq."""
    dk = Lines(sums.dk.start + tile.j0 * sums.dk.step, sums.dk.step)
    dv = Lines(sums.dv.start + tile.j0 * sums.dv.step, sums.dv.step)
    add_to_keys(dv, room.p, room.dout_rows, rule, tile)
    add_to_keys(dk, room.ds_keys, room.q_rows, rule, tile)
    dq = QuerySums(room.dq, round_up(problem.D, BLOCK), True)
    columns = Lines(k_columns, key_step(problem, tile))
    multiply_queries(dq, columns, room.ds_queries, rule, tile, idle, 0, 0)


@inner
def _pack_queries(problem, operands, b, h, i0, n, room):
    """Pack a run's queries and their dout, each for both products that they are part of."""
    q, q_row = lines_of(operands, Q, b, h, i0, room.q)
    dout, dout_row = lines_of(operands, DOUT, b, h, i0, room.q)
    fits = pack(room.q, q, q_row, n, problem.D, True, True)
    pack(room.q_rows, q, q_row, n, problem.D, False, False)
    if not (pack(room.dout, dout, dout_row, n, problem.Dv, True, True) and fits):
        operands[UNFIT] = 1
    pack(room.dout_rows, dout, dout_row, n, problem.Dv, False, False)


@inner
def _packed_tile(problem, operands, b, h, j0, tiles):
    """Return a tile's keys, and its keys turned, and values, packed."""
    D, Dv = problem.D, problem.Dv
    g = h // (problem.H // problem.G)
    place, missing = find(tiles, b * problem.G + g, j0 // KEYS)
    keys = keys_at(problem, place)
    if missing:
        m = min(KEYS, problem.S - j0)
        k, k_row = lines_of(operands, K, b, g, j0, place)
        v, v_row = lines_of(operands, V, b, g, j0, place)
        fits = pack(keys.k, k, k_row, m, D, True, False)
        pack(keys.k_columns, k, k_row, m, D, False, True)
        if not (pack(keys.v, v, v_row, m, Dv, True, False) and fits):
            operands[UNFIT] = 1
    return keys
