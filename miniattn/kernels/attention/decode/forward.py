"""Attention forward for very few queries: the decode step, T = 1 with a long cache of keys.

There the work is to read K and V once, and the runs of queries of `vector.forward` would be
nearly empty. One piece of work owns a run of keys of one key/value head, for all queries that share
it, so that both K and V pass through the processor once per group of heads; long caches are dealt
among several pieces, as the shape alone decides. Each piece leaves the running maximum, sum and
weighted values of its keys, and a second pass merges them exactly, in order.

Scores are kept queries x keys here: lanes belong to keys.

References
----------
Dao et al. "Flash-Decoding for long-context inference" (2023).
"""

from typing import Any, NamedTuple

import numpy as np

from miniattn.kernels.attention.masking import HIDDEN, PARTIAL, tile_of
from miniattn.kernels.attention.online import (
    add_visible,
    overflows,
    power,
    raised,
    share_of,
    start_of,
    write_stats,
)
from miniattn.kernels.attention.operands import (
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
from miniattn.kernels.dense.panels import WIDE, fill, is_finite, pack, round_up, write_rows
from miniattn.kernels.dense.places import (
    Extent,
    Grid,
    Lines,
    by_column,
    by_row,
    line,
)
from miniattn.kernels.registers import (
    fma,
    horizontal_max,
    horizontal_sum,
    horizontal_sums,
    lanes,
    load,
    load_first,
    maximum,
    prefetch,
    product,
    registers,
    splat,
    store,
)

KEYS = 512  # of one tile
AHEAD = 64  # so many rows are asked for before they are needed: processors look ahead within a page


@task
def decode(sizes, factors, operands, queue, scratch):
    """Write out, lse and its parts, as `vector.forward.forward` does.

    ``problem.parts`` says among how many pieces of work the keys of one key/value head are dealt.
    What each knows of its keys stays in the operand SUMS, for `merge`. Arguments: as there.
    """
    each_piece(queue, _keys, Call(problem_of(sizes, factors), operands, scratch))


@task
def merge(sizes, factors, operands, queue, scratch):
    """Write out, lse and its parts from what the pieces of `decode` left."""
    each_piece(queue, _merge_head, Call(problem_of(sizes, factors), operands, scratch))


def plan(problem: Problem, lanes: int) -> tuple[int, int]:
    """Return the pieces of work of `decode`, and the elements of scratch memory of a thread."""
    return problem.B * problem.G * problem.parts, lay_out(problem, lanes, 0).end


def plan_merge(problem: Problem, lanes: int) -> tuple[int, int]:
    """Return the pieces of work of `merge`; it takes no scratch memory."""
    return problem.B * problem.H, 0


def states(problem: Problem, lanes: int) -> tuple[int, int, int]:
    """Return the shape of the memory between `decode` and `merge`."""
    queries = problem.H // problem.G * problem.T
    pieces = problem.B * problem.G * problem.parts
    return 1, pieces, queries * state_at(problem, lanes, 0).end


class State(NamedTuple):
    """What a piece of work knows of one query: its weighted values, their maximum and sum."""

    o: Any
    top: Any
    total: Any
    end: Any


@inner
def state_at(problem, w, start):
    """Return the `State` from ``start`` on: an address, or 0 to learn its size."""
    top = start + round_up(problem.Dv, w)
    return State(start, top, top + 1, top + w)


class Room(NamedTuple):
    """The scratch memory of one head's queries and a tile of keys."""

    q: Lines
    s: Any
    slopes: Any
    partial: Any
    """As many vectors of sums, still to be added up, as they have lanes."""
    v: Lines
    """Of a tile, where whole vectors of them cannot be read in place."""
    end: Any


@inner
def lay_out(problem, w, start):
    """Return the `Room` of a thread; arguments as in `vector.forward.lay_out`."""
    q = Lines(start, round_up(problem.D, w))
    s = q.start + problem.T * q.step
    slopes = s + problem.T * KEYS
    partial = slopes + problem.T * KEYS
    v = Lines(partial + w * w, round_up(problem.Dv, w))
    return Room(q, s, slopes, partial, v, v.start + KEYS * v.step)


@inner
def _merge_head(call, piece):
    """Write out, lse and its parts of the queries of one head."""
    problem, operands, like = call
    b, h = piece // problem.H, piece % problem.H
    first = (b * problem.G + key_head(problem, h)) * problem.parts
    member = h % (problem.H // problem.G)
    state = state_at(problem, lanes(like), 0).end
    factor = head_of(problem, operands, b, h, like).factor
    merged = registers(2, like)
    for i in range(problem.T):
        known = part_of(operands, SUMS, 0, first, like) + (member * problem.T + i) * state
        out = lines_of(operands, OUT, b, h, i, like).start
        if not _merge(problem, operands, out, known, factor, merged):
            operands[UNFIT] = 1
        write_stats(problem, operands, Run(b, h, i, 1), merged, merged + 1)


@inner
def _keys(call, piece):
    """Attend from all queries of a group to the keys of one piece of work."""
    problem, operands, scratch = call
    w, parts, tiles = lanes(scratch), problem.parts, (problem.S + KEYS - 1) // KEYS
    b, g, part = piece // parts // problem.G, piece // parts % problem.G, piece % parts
    states = part_of(operands, SUMS, 0, piece, scratch)
    state = state_at(problem, w, 0).end
    group, T = problem.H // problem.G, problem.T
    for query in range(group * T):
        fill(states + query * state, state, 0.0)
        if part == 0:  # a sink is part of one piece's sum
            first = start_of(operands, g * group + query // T, scratch)
        else:
            first = -np.inf, 0.0
        own = state_at(problem, w, states + query * state)
        own.top[0], own.total[0] = first
    stop = min(problem.S, (part + 1) * tiles // parts * KEYS)
    for j0 in range(part * tiles // parts * KEYS, stop, KEYS):
        m = min(KEYS, stop - j0)
        for member in range(group):
            own = Lines(states + member * T * state, state)
            _attend(call, Run(b, g * group + member, 0, T), j0, m, own)


@inner
def _attend(call, run, j0, m, states):
    """Attend from the queries of one head to the keys of a tile."""
    problem, operands, scratch = call
    D, Dv = problem.D, problem.Dv
    head, g = head_of(problem, operands, run.b, run.h, scratch), key_head(problem, run.h)
    tile = tile_of(head.rule, run, j0, m, KEYS, False)
    if tile.kind == HIDDEN:
        return
    room = lay_out(problem, lanes(scratch), scratch)
    s = room.s
    k = lines_of(operands, K, run.b, g, j0, scratch)
    v = lines_of(operands, V, run.b, g, j0, scratch)
    pack(room.q, lines_of(operands, Q, run.b, run.h, 0, scratch), run.n, D)
    multiply_rows(s, room.q, k, tile, D, room.partial)
    if overflows(s, head.rule, tile):
        operands[UNFIT] = 1
    finish_scores(s, head, tile, room.slopes)
    _exponentiate(problem, s, head.factor, tile, states)
    if head.dropout > 0.0:
        drop(s, head, tile)
    if tile.kind == PARTIAL and not is_finite(v, m, Dv):
        add_visible(by_row(states), Grid(s, KEYS, 1), by_column(v), Dv, head.rule, tile)
        return
    v_width = room.v.step
    if Dv != v_width:
        pack(room.v, v, m, Dv)
        v = room.v
    for i in range(run.n):
        add_rows(line(states, i), s + i * KEYS, v, v_width, m)


@inner
def multiply_rows(s, q, k, tile, D, partial):
    """Set ``s[i, j] = sum_d q[i, d] k[j, d]``, by vectors of keys."""
    w = lanes(s)
    whole = D - D % w
    for j in range(0, tile.m, w):
        for i in range(tile.n):
            query = line(q, i)
            for n in range(w):
                row = line(k, min(j + n, tile.m - 1))
                if i == 0:
                    for d in range(0, D, w):
                        prefetch(row + (AHEAD * k.step + d))
                total = splat(0.0, s)
                for d in range(0, whole, w):
                    total = fma(load(row + d), load(query + d), total)
                if whole < D:
                    tail = load_first(row + whole, D - whole)
                    total = fma(tail, load(query + whole), total)
                store(partial + n * w, total)
            store(s + (i * tile.width + j), horizontal_sums(partial))


@inner
def add_rows(o, weights, v, v_width, m):
    """Add ``sum_j weights[j] v[j, e]`` to ``o[e]``."""
    w, a, extent = lanes(o), Grid(weights, 0, 1), Extent(1, m)
    e = 0
    while e + WIDE * w <= v_width:
        product(1, WIDE, Lines(o + e, 0), a, Lines(v.start + e, v.step), extent, True)
        e += WIDE * w
    while e < v_width:
        product(1, 1, Lines(o + e, 0), a, Lines(v.start + e, v.step), extent, True)
        e += w


@inner
def _exponentiate(problem, s, factor, tile, states):
    """Replace scores by ``exp(s - m)`` and bring each query's state up to date."""
    w = lanes(s)
    for i in range(tile.n):
        row, own = s + i * tile.width, state_at(problem, w, line(states, i))
        for c in range(tile.m, round_up(tile.m, w)):
            row[c] = -np.inf
        peak = splat(-np.inf, s)
        for c in range(0, tile.m, w):
            peak = maximum(load(row + c), peak)
        # All lanes of these are the same.
        top = splat(own.top[0], s)
        top, base, decay = raised(top, splat(horizontal_max(peak), s), factor)
        added = splat(0.0, s)
        for c in range(0, tile.m, w):
            weight = power(load(row + c), base, factor)
            store(row + c, weight)
            added = added + weight
        own.top[0] = horizontal_max(top)
        own.total[0] = own.total[0] * horizontal_max(decay) + horizontal_sum(added)
        for e in range(0, problem.Dv, w):
            store(own.o + e, load(own.o + e) * decay)


@inner
def _merge(problem, operands, out, states, factor, merged):
    """Combine the states of one query over all parts, each relative to its own maximum.

    ``merged`` receives the maximum and the sum. Returns whether out is finite.
    """
    w, part = lanes(out), step_of(operands, SUMS, 1)
    top = splat(-np.inf, out)
    for n in range(problem.parts):
        own = state_at(problem, w, states + n * part)
        top, base, _ = raised(top, splat(own.top[0], out), factor)
    total = splat(0.0, out)
    for n in range(problem.parts):
        own = state_at(problem, w, states + n * part)
        decay = power(splat(own.top[0], out), base, factor)
        total = total + decay * own.total[0]
    merged[0], merged[1] = horizontal_max(top), horizontal_max(total)
    share, finite = share_of(merged[1], merged[0]), True
    for e in range(0, problem.Dv, w):
        value = splat(0.0, out)
        for n in range(problem.parts):
            own = state_at(problem, w, states + n * part)
            decay = power(splat(own.top[0], out), base, factor)
            value = fma(load(own.o + e), decay, value)
        store(merged + w, value)
        place, columns = Lines(out + e, 0), min(w, problem.Dv - e)
        finite = write_rows(place, Lines(merged + w, 0), 1, columns, share) and finite
    return finite
