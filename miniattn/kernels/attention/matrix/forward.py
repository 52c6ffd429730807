"""Attention forward on the matrix unit: `vector.forward`, with products as in `matrix_unit`.

The order of work is the same, blocks of queries of one head and tiles of keys; scores are kept keys
x queries, and so is the output, turned when it is written: ``S = K q^T`` and ``O^T = v^T P``.
In this orientation weights are packed from the vectors that they come in.

Numbers that the unit is no good for, infinity and NaN above all, are noticed when they are packed;
the call is then left to the vector registers, which do for all.
"""

from typing import Any, NamedTuple

import numpy as np

from miniattn.kernels.attention.masking import HIDDEN, Tile, end_of_keys, first_key, tile_of
from miniattn.kernels.attention.matrix.packed import KEYS, Kept, find, kept_in, kept_size
from miniattn.kernels.attention.matrix.products import (
    chunk_rows,
    hide_rest,
    key_step,
    multiply_keys,
    multiply_queries,
)
from miniattn.kernels.attention.matrix.squares import (
    blocks_of,
    chunks_of,
    finish,
    idle,
    pack,
    packed_size,
    write_turned,
)
from miniattn.kernels.attention.online import base_of, power, raise_tops, share_of, write_stats
from miniattn.kernels.attention.problem import (
    OUT,
    UNFIT,
    K,
    Problem,
    Q,
    V,
    part_of,
    problem_of,
    step_of,
)
from miniattn.kernels.attention.scores import finish_scores, head_of, kept
from miniattn.kernels.attention.vector.forward import QUERIES
from miniattn.kernels.compile.queue import take
from miniattn.kernels.compile.settings import inner, task
from miniattn.kernels.dense.panels import add, fill, round_up
from miniattn.kernels.registers import (
    aligned,
    any_true,
    load,
    select,
    splat,
    store,
)
from miniattn.kernels.registers.matrix_unit import (
    BLOCK,
    CHUNK,
    PARTS,
    configure,
    release,
    store_parts,
)

UNITS = 8  # pieces of work in a packed block of weights
ROWS = BLOCK // UNITS


class Weighing(NamedTuple):
    """What it takes to turn a tile's scores into packed weights."""

    s: Any
    p: Any
    top: Any
    added: Any
    head: Any
    tile: Tile
    blocks: Any
    """Numbers of the blocks of p that are to be filled."""
    units: int


class Room(NamedTuple):
    """Scratch memory of a thread."""

    q: Any
    p: Any
    p_next: Any
    s: Any
    slopes: Any
    o: Any
    top: Any
    total: Any
    added: Any
    """The sum of one tile's weights: it is added to the total in one go, which rounds less."""
    decay: Any
    blocks: Any
    kept: Kept


@task
def forward(sizes, factors, operands, queue, scratch):
    """Write what `vector.forward.forward` does; arguments as there."""
    problem = problem_of(sizes, factors)
    blocks = (problem.T + QUERIES - 1) // QUERIES
    room = _room(problem, aligned(scratch))
    configure()
    piece = take(queue)
    while piece < problem.tasks:
        block = blocks - 1 - piece % blocks
        b, h = piece // blocks // problem.H, piece // blocks % problem.H
        _block(problem, operands, b, h, block * QUERIES, room)
        piece = take(queue)
    release()


@inner
def _tile_size(problem):
    """Return the words of a tile of packed keys and values."""
    return packed_size(KEYS, problem.D) + packed_size(problem.Dv, KEYS)


def plan(problem: Problem, lanes: int) -> tuple[int, int]:
    """Return the pieces of work of a call, and the elements of scratch memory of a thread."""
    pieces = problem.B * problem.H * -(-problem.T // QUERIES)
    tile = QUERIES * KEYS
    scratch = packed_size(QUERIES, problem.D) + 2 * packed_size(QUERIES, KEYS) + 2 * tile
    scratch += QUERIES * (round_up(problem.Dv, BLOCK) + 5)
    scratch += kept_size(problem, QUERIES, _tile_size(problem), BLOCK)
    return pieces, scratch + BLOCK  # it begins at a whole cache line


@inner
def _room(problem, scratch):
    tile = QUERIES * KEYS
    p = scratch + packed_size(QUERIES, problem.D)
    p_next = p + packed_size(QUERIES, KEYS)
    s = p_next + packed_size(QUERIES, KEYS)
    slopes = s + tile
    o = slopes + tile
    top = o + QUERIES * round_up(problem.Dv, BLOCK)
    total = top + QUERIES
    added = total + QUERIES
    decay = added + QUERIES
    blocks = decay + QUERIES
    kept = kept_in(blocks + QUERIES, problem, QUERIES, _tile_size(problem))
    return Room(scratch, p, p_next, s, slopes, o, top, total, added, decay, blocks, kept)


@inner
def _block(problem, operands, b, h, i0, room):
    """Compute the output of queries ``i0 <= i < i0 + QUERIES`` of one head."""
    D, Dv = problem.D, problem.Dv
    n = min(QUERIES, problem.T - i0)
    width, v_blocks = round_up(n, BLOCK), blocks_of(Dv)
    head = head_of(problem, operands, b, h, room.s)
    rule, s, o = head.rule, room.s, room.o

    q, q_row = part_of(operands, Q, b, h, s), step_of(operands, Q, 2)
    if not pack(room.q, q + i0 * q_row, q_row, n, D, True, True):
        operands[UNFIT] = 1
    fill(room.top, width, -np.inf)
    fill(room.total, width, 0.0)
    # While a tile's scores are weighed, the product of the weights before with their values is
    # computed: o is one tile behind.
    fresh, waiting = True, False
    stop = end_of_keys(rule, i0 + n)
    before = Tile(b, h, i0, n, 0, 0, width, True, HIDDEN)
    values_before, p_before, p = s, room.p, room.p_next
    for j0 in range(first_key(rule, i0, KEYS), stop, KEYS):
        m = min(KEYS, stop - j0)
        tile = tile_of(rule, b, h, i0, n, j0, m, width, True)
        if tile.kind == HIDDEN:
            continue
        keys, values = _packed_tile(problem, operands, b, h, j0, room.kept)
        multiply_keys(s, keys, room.q, D, rule, tile)
        finish_scores(s, head, tile, room.slopes)
        hide_rest(s, rule, tile)
        _raise_tops(s, head, tile, room)
        units = UNITS * _list_blocks(room.blocks, rule, tile)
        job, unit = Weighing(s, p, room.top, room.added, head, tile, room.blocks, units), 0
        if waiting:
            unit = multiply_queries(
                o,
                values_before,
                key_step(problem, before),
                v_blocks,
                p_before,
                rule,
                before,
                not fresh,
                _weigh,
                job,
                unit,
            )
            fresh = False
        finish(_weigh, job, unit, units)
        add(room.total, room.added, width)
        if not fresh:
            _rescale(o, width, v_blocks * BLOCK, room.decay)
        before, waiting = tile, True
        values_before, p_before, p = values, p, p_before
    if waiting:
        step = key_step(problem, before)
        multiply_queries(
            o, values_before, step, v_blocks, p_before, rule, before, not fresh, idle, 0, 0
        )
        fresh = False
    if fresh:
        fill(o, width * v_blocks * BLOCK, 0.0)

    write_stats(problem, operands, b, h, i0, n, room.top, room.total)
    for i in range(n):
        room.decay[i] = share_of(room.total[i], room.top[i])
    out_row = step_of(operands, OUT, 2)
    out = part_of(operands, OUT, b, h, s) + i0 * out_row
    if not write_turned(out, out_row, o, width, n, Dv, room.decay):
        operands[UNFIT] = 1


@inner
def _packed_tile(problem, operands, b, h, j0, kept):
    """Return a tile's keys, and its values turned, packed."""
    g = h // (problem.H // problem.G)
    keys, missing = find(kept, b * problem.G + g, j0 // KEYS)
    values = keys + packed_size(KEYS, problem.D)
    if missing:
        m = min(KEYS, problem.S - j0)
        k_row, v_row = step_of(operands, K, 2), step_of(operands, V, 2)
        k = part_of(operands, K, b, g, keys) + j0 * k_row
        v = part_of(operands, V, b, g, keys) + j0 * v_row
        fits = pack(keys, k, k_row, m, problem.D, True, False)
        if not (pack(values, v, v_row, m, problem.Dv, False, True) and fits):
            operands[UNFIT] = 1
    return keys, values


@inner
def _raise_tops(s, head, tile, room):
    """Bring the maxima of scores up to date, and the sums so far into their measure.

    ``room.decay`` receives what older sums are multiplied by.
    """
    for c in range(0, tile.width, BLOCK):
        start, stop = chunk_rows(head.rule, tile, c)
        _, ratio = raise_tops(s, head, tile, room.top, c, start, stop)
        store(room.decay + c, ratio)
        store(room.total + c, load(room.total + c) * ratio)
        store(room.added + c, splat(0.0, s))


@inner
def _list_blocks(blocks, rule, tile):
    """List the blocks of packed weights that products read; return how many they are."""
    count, chunks = 0, chunks_of(tile.m)
    for c in range(0, tile.width, BLOCK):
        start, stop = chunk_rows(rule, tile, c)
        for r in range(start, stop, CHUNK):
            blocks[count] = c // BLOCK * chunks + r // CHUNK
            count += 1
    return count


@inner(forceinline=True)
def _weigh(job, unit):
    """Turn some scores into ``exp(s - m)``, add them up, and pack them."""
    s, head, tile = job.s, job.head, job.tile
    chunks, width = chunks_of(tile.m), tile.width
    if unit < job.units:
        block, row = int(job.blocks[unit // UNITS]), unit % UNITS * ROWS
        c, j = block // chunks * BLOCK, block % chunks * CHUNK + row
        base = base_of(load(job.top + c))
        place = job.p + (block * PARTS + row * BLOCK)
        p = s + (j * width + c)
        added = load(job.added + c)
        for r in range(ROWS):
            low = power(load(p + r * width), base, head.factor)
            high = power(load(p + (r + BLOCK) * width), base, head.factor)
            added = added + (low + high)
            if head.dropout > 0.0:
                factor = 1.0 / (1.0 - head.dropout)
                low = select(kept(head, tile, j + r, c, s), low * factor, 0.0)
                high = select(kept(head, tile, j + r + BLOCK, c, s), high * factor, 0.0)
            store_parts(place + r * BLOCK, low, high)
        store(job.added + c, added)


@inner
def _rescale(o, width, rows, decay):
    """Multiply the sums of each query by its ``decay``, where that is not 1."""
    for c in range(0, width, BLOCK):
        factor = load(decay + c)
        if any_true(factor != 1.0):
            for e in range(rows):
                p = o + (e * width + c)
                store(p, load(p) * factor)
