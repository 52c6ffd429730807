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
from miniattn.kernels.attention.online import Rows, add_visible, read_stats, weight_and_dscore
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
    Problem,
    Q,
    V,
    given,
    part_of,
    problem_of,
    step_of,
)
from miniattn.kernels.attention.scores import Head, drop, finish_scores, head_of
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

QUERIES = 64
KEYS = 64
# So many keys meet a block of queries that it pays to copy its rows to whole cache lines: a user's
# arrays seldom begin at one, and products read rows that straddle lines 5 % more slowly.
WORTH_A_COPY = 4 * KEYS


class Stats(NamedTuple):
    """What there is of each query of a block: m as it is subtracted, log2 l, and delta."""

    base: Any
    log_sum: Any
    delta: Any


class Block(NamedTuple):
    """A block of queries of one head, made ready for its tiles."""

    b: int
    h: int
    i0: int
    n: int
    width: int
    head: Head
    k: Any
    k_row: int
    v: Any
    v_row: int
    q_packed: Any
    dout_packed: Any
    q_rows: Any
    q_row: int
    dout_rows: Any
    dout_row: int
    stats: "Stats"
    is_finite: bool
    s: Any
    ds: Any
    slopes: Any
    dq: Any
    k_packed: Any


@task
def backward(sizes, factors, operands, queue, scratch):
    """Write dq, dk and dv; where finite numbers led to others, the operands are UNFIT.

    ``problem.parts`` says among how many pieces of work the query blocks of one key/value head are
    dealt. Where they are several, they leave their sums in the operand SUMS, for `add_sums`; a
    single one keeps them in scratch memory. Arguments: as in `vector.forward.forward`.
    """
    problem = problem_of(sizes, factors)
    parts = problem.parts
    work = scratch + (sums_size(problem, lanes(scratch)) if parts == 1 else 0)
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
    scratch = _block_size(problem, lanes)
    if problem.parts == 1:
        scratch += sums_size(problem, lanes)
    return problem.B * problem.G * problem.parts, scratch


def plan_sums(problem: Problem, lanes: int) -> tuple[int, int]:
    """Return the pieces of work of `add_sums`; it takes no scratch memory."""
    return problem.B * problem.G * -(-problem.S // KEYS), 0


@inner
def sums_size(problem, w):
    """Return the elements of the sums dk and dv of one key/value head."""
    return round_up(problem.S, KEYS) * (round_up(problem.D, w) + round_up(problem.Dv, w))


def _block_size(problem: Problem, w: int) -> int:
    """Return the elements of scratch memory that `prepare` lays out."""
    width = max(QUERIES, w)
    d_width, v_width = round_up(problem.D, w), round_up(problem.Dv, w)
    tile = width * (KEYS + ROW_GROUP)
    packed = width * (problem.D + problem.Dv) + width * (2 * d_width + v_width)
    return packed + 3 * tile + KEYS * d_width + 3 * width


@inner
def _sum_queries(problem, operands, b, g, part, sums, work):
    """Write dq of its query blocks, and their part of dk and dv into ``sums``."""
    w = lanes(work)
    d_width, v_width = round_up(problem.D, w), round_up(problem.Dv, w)
    rows = round_up(problem.S, KEYS)
    dk = sums
    dv = dk + rows * d_width
    fill(dk, rows * (d_width + v_width), 0.0)
    group = problem.H // problem.G
    blocks = blocks_of_queries(problem)
    for h in range(g * group, (g + 1) * group):
        for number in range(part, blocks, problem.parts):
            block = prepare(problem, operands, b, h, number * QUERIES, work)
            _backward_block(problem, block, dk, d_width, dv, v_width)
            dq_row = step_of(operands, DQ, 2)
            dq = part_of(operands, DQ, b, h, work) + block.i0 * dq_row
            if not write_rows(dq, dq_row, block.dq, d_width, block.n, problem.D, problem.scale):
                operands[UNFIT] = 1


@inner
def prepare(problem, operands, b, h, i0, work):
    """Pack the queries ``i0 <= i < i0 + QUERIES`` of a head and their dout, read their `Stats`."""
    w = lanes(work)
    D, Dv = problem.D, problem.Dv
    n = min(QUERIES, problem.T - i0)
    width = round_up(n, max(w, ROW_GROUP))
    d_width, v_width = round_up(D, w), round_up(Dv, w)
    g = h // (problem.H // problem.G)
    q_row, dout_row = step_of(operands, Q, 2), step_of(operands, DOUT, 2)
    q = part_of(operands, Q, b, h, work) + i0 * q_row
    dout = part_of(operands, DOUT, b, h, work) + i0 * dout_row

    tile = width * (KEYS + ROW_GROUP)
    q_packed = work
    dout_packed = q_packed + width * D
    s = dout_packed + width * Dv
    ds = s + tile
    slopes = ds + tile
    dq = slopes + tile
    q_copy = dq + width * d_width
    dout_copy = q_copy + width * d_width
    k_packed = dout_copy + width * v_width
    base = k_packed + KEYS * d_width
    stats = Stats(base, base + width, base + 2 * width)

    pack_transposed(q_packed, width, q, q_row, n, D)
    pack_transposed(dout_packed, width, dout, dout_row, n, Dv)
    q_rows, q_step, dout_rows, dout_step = q, q_row, dout, dout_row
    if d_width != D or problem.S >= WORTH_A_COPY:
        pack(q_copy, d_width, q, q_row, n, D)
        q_rows, q_step = q_copy, d_width
    if Dv != v_width or problem.S >= WORTH_A_COPY:
        pack(dout_copy, v_width, dout, dout_row, n, Dv)
        dout_rows, dout_step = dout_copy, v_width
    # Without a mask nothing is hidden from anything.
    finite = not given(operands, BOUNDS) or (
        is_finite(q, q_row, n, D) and is_finite(dout, dout_row, n, Dv)
    )

    prepare_stats(problem, operands, b, h, i0, n, width, stats)
    return Block(
        b,
        h,
        i0,
        n,
        width,
        head_of(problem, operands, b, h, work),
        part_of(operands, K, b, g, work),
        step_of(operands, K, 2),
        part_of(operands, V, b, g, work),
        step_of(operands, V, 2),
        q_packed,
        dout_packed,
        q_rows,
        q_step,
        dout_rows,
        dout_step,
        stats,
        finite,
        s,
        ds,
        slopes,
        dq,
        k_packed,
    )


@inner
def prepare_stats(problem, operands, b, h, i0, n, width, stats):
    """Read m and log2 l of a block of queries, and compute ``delta = sum_e dout_e out_e``."""
    dout_row, out_row = step_of(operands, DOUT, 2), step_of(operands, OUT, 2)
    dout = part_of(operands, DOUT, b, h, stats.delta) + i0 * dout_row
    out = part_of(operands, OUT, b, h, stats.delta) + i0 * out_row
    read_stats(operands, b, h, i0, n, width, stats.base, stats.log_sum)
    for i in range(width):
        seen = stats.log_sum[i] != np.inf
        # tiled: delta = (dout[rows] * out[rows]).sum(axis=1)
        stats.delta[i] = dot(dout + i * dout_row, out + i * out_row, problem.Dv) if seen else 0.0


@inner
def block_tile(block, j0, m):
    """Return the tile of a block's queries and ``m`` keys."""
    rule, width = block.head.rule, block.width
    return tile_of(rule, block.b, block.h, block.i0, block.n, j0, m, width, True)


@inner
def first_tile(block):
    """Return where the tiles of a block of queries begin."""
    return first_key(block.head.rule, block.i0, KEYS)


@inner
def last_tile(problem, block):
    """Return where the tiles of a block of queries end.

    Tiles end at whole row groups or at S, so that rows written past a tile's end are padding.
    """
    stop = end_of_keys(block.head.rule, block.i0 + block.n)
    return min(problem.S, round_up(stop, ROW_GROUP))


@inner
def _backward_block(problem, block, dk, d_width, dv, v_width):
    """Add a block of queries to dk and dv, and leave the sums of its dq in ``block.dq``."""
    width, D = block.width, problem.D
    fill(block.dq, width * d_width, 0.0)
    stop = last_tile(problem, block)
    for j0 in range(first_tile(block), stop, KEYS):
        m = min(KEYS, stop - j0)
        tile = block_tile(block, j0, m)
        if tile.kind == HIDDEN:
            continue
        score_gradients(problem, block, tile)
        if block.head.softcap > 0.0:
            multiply_elements(block.ds, block.slopes, m * width)
        k_tile, k_row = block.k + j0 * block.k_row, block.k_row
        dk_tile, dv_tile = dk + j0 * d_width, dv + j0 * v_width
        if tile.kind == PARTIAL and not (block.is_finite and is_finite(k_tile, k_row, m, D)):
            dk_rows, dv_rows = Rows(dk_tile, 0, d_width), Rows(dv_tile, 0, v_width)
            _add_visible(problem, block, tile, k_tile, dk_rows, dv_rows)
            continue
        if d_width != D:
            pack(block.k_packed, d_width, k_tile, k_row, m, D)
            k_tile, k_row = block.k_packed, d_width
        rule, s, ds = block.head.rule, block.s, block.ds
        # tiled: dv[tile] += weight.T @ dout[rows]
        add_to_keys(dv_tile, v_width, s, block.dout_rows, block.dout_row, rule, tile)
        # tiled: dk[tile] += scale * (ds.T @ q[rows])
        add_to_keys(dk_tile, d_width, ds, block.q_rows, block.q_row, rule, tile)
        # tiled: dq[rows] += scale * (ds @ k[tile])
        multiply_queries(block.dq, d_width, ds, k_tile, k_row, rule, tile, True)


@inner
def score_gradients(problem, block, tile):
    """Leave a tile's weights, with dropout, in ``block.s`` and its dscores in ``block.ds``.

    dscores are those of the scores after softcap and bias. Rows up to the next row group are 0;
    what the bounds of the mask leave out is left alone.
    """
    width, m = tile.width, tile.m
    s, ds, head = block.s, block.ds, block.head
    k, v = block.k + tile.j0 * block.k_row, block.v + tile.j0 * block.v_row
    # tiled: s = scores(q[rows], k[tile], seen, scale)
    multiply_keys(s, k, block.k_row, block.q_packed, problem.D, head.rule, tile)
    # tiled: dweight = dout[rows] @ v[tile].T
    multiply_keys(ds, v, block.v_row, block.dout_packed, problem.Dv, head.rule, tile)
    weigh(s, ds, head, tile, block.slopes, block.stats)
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
def _add_visible(problem, block, tile, k, dk, dv):
    """Add a tile pair by pair, where NaN or infinity must not pass through a hidden pair."""
    rule, width, D = block.head.rule, tile.width, problem.D
    weights, dscores = Rows(block.s, 1, width), Rows(block.ds, 1, width)
    dq = Rows(block.dq, round_up(D, lanes(block.dq)), 0)
    add_visible(dv, weights, Rows(block.dout_rows, block.dout_row, 0), problem.Dv, rule, tile)
    add_visible(dk, dscores, Rows(block.q_rows, block.q_row, 0), D, rule, tile)
    add_visible(dq, dscores, Rows(k, 0, block.k_row), D, rule, tile)


@inner
def write_sums(problem, operands, b, g, j0, j1, sums):
    """Write rows ``j0 <= j < j1`` of dk and dv: the sums of all parts, added in order."""
    w = lanes(sums)
    d_width, v_width = round_up(problem.D, w), round_up(problem.Dv, w)
    rows, size = round_up(problem.S, KEYS), step_of(operands, SUMS, 1)
    dk = sums + j0 * d_width
    dv = sums + (rows * d_width + j0 * v_width)
    for part in range(1, problem.parts):
        other = sums + part * size
        add(dk, other + j0 * d_width, (j1 - j0) * d_width)
        add(dv, other + (rows * d_width + j0 * v_width), (j1 - j0) * v_width)
    k_row, v_row = step_of(operands, DK, 2), step_of(operands, DV, 2)
    k_out, v_out = part_of(operands, DK, b, g, sums), part_of(operands, DV, b, g, sums)
    fits = write_rows(k_out + j0 * k_row, k_row, dk, d_width, j1 - j0, problem.D, problem.scale)
    if not (write_rows(v_out + j0 * v_row, v_row, dv, v_width, j1 - j0, problem.Dv, 1.0) and fits):
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
    blocks = blocks_of_queries(problem) if step_of(operands, DBIAS, 2) != 0 else 1
    piece = take(queue)
    while piece < problem.tasks:
        own, number = piece // blocks, piece % blocks
        for b in range(own // heads, problem.B, batch):
            for h in range(own % heads, problem.H, heads):
                dbias = part_of(operands, DBIAS, b, h, scratch)
                for n in range(number, blocks_of_queries(problem), blocks):
                    block = prepare(problem, operands, b, h, n * QUERIES, scratch)
                    _add_to_bias(problem, operands, block, dbias)
        piece = take(queue)


@inner
def blocks_of_queries(problem):
    """Return the number of blocks of queries of a head."""
    return (problem.T + QUERIES - 1) // QUERIES


def plan_bias(problem: Problem, lanes: int, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the pieces of work of `bias_backward` for a bias of four axes, and scratch memory."""
    blocks = -(-problem.T // QUERIES) if shape[2] > 1 else 1
    return shape[0] * shape[1] * blocks, _block_size(problem, lanes)


@inner
def _add_to_bias(problem, operands, block, dbias):
    """Add the dscores of a block of queries to dbias."""
    w = lanes(dbias)
    stop = last_tile(problem, block)
    for j0 in range(first_tile(block), stop, KEYS):
        m = min(KEYS, stop - j0)
        tile = block_tile(block, j0, m)
        if tile.kind == HIDDEN:
            continue
        score_gradients(problem, block, tile)
        for c in range(0, block.n, w):
            seen = keys_seen(block.head.rule, tile, c // GROUP * GROUP, GROUP)
            for r in range(seen[0], seen[1], w):
                _add_square(dbias, operands, block, tile, c, r, min(w, seen[1] - r))


@inner
def _add_square(dbias, operands, block, tile, c, r, keys):
    """Add the dscores of a vector of queries and of as many keys, or fewer."""
    w, row, column = lanes(dbias), step_of(operands, DBIAS, 2), step_of(operands, DBIAS, 3)
    square = registers(LANES, dbias)
    transpose(square, w, block.ds + (r * tile.width + c), tile.width, keys)
    for i in range(min(w, tile.n - c)):
        p = dbias + ((tile.i0 + c + i) * row + (tile.j0 + r) * column)
        if column == 1:
            store_first(p, load_first(p, keys) + load(square + i * w), keys)
        else:  # the bias is the same for all keys
            for j in range(keys):
                p[j * column] = p[j * column] + square[i * w + j]
