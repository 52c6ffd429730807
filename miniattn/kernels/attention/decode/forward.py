"""Attention forward for very few queries: the decode step, T = 1 with a long cache of keys.

There the work is to read K and V once, and the blocks of queries of `vector.forward` would be
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
    Rows,
    add_visible,
    overflows,
    power,
    raised,
    share_of,
    write_stats,
)
from miniattn.kernels.attention.problem import (
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
from miniattn.kernels.dense.panels import WIDE, fill, is_finite, pack, round_up, write_rows
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
    problem = problem_of(sizes, factors)
    parts, tiles = problem.parts, (problem.S + KEYS - 1) // KEYS
    piece = take(queue)
    while piece < problem.tasks:
        b, g = piece // parts // problem.G, piece // parts % problem.G
        start = piece % parts * tiles // parts * KEYS
        stop = min(problem.S, (piece % parts + 1) * tiles // parts * KEYS)
        states = part_of(operands, SUMS, 0, piece, scratch)
        _keys(problem, operands, b, g, start, stop, states, scratch)
        piece = take(queue)


@task
def merge(sizes, factors, operands, queue, scratch):
    """Write out, lse and its parts from what the pieces of `decode` left."""
    problem = problem_of(sizes, factors)
    piece = take(queue)
    while piece < problem.tasks:
        _merge_head(problem, operands, piece, scratch)
        piece = take(queue)


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
    """A square of sums that are still to be added up."""
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
def _merge_head(problem, operands, piece, like):
    """Write out, lse and its parts of the queries of one head."""
    b, h = piece // problem.H, piece % problem.H
    group = problem.H // problem.G
    first = (b * problem.G + h // group) * problem.parts
    state = state_at(problem, lanes(like), 0).end
    factor = head_of(problem, operands, b, h, like).factor
    merged = registers(2, like)
    for i in range(problem.T):
        known = part_of(operands, SUMS, 0, first, like) + (h % group * problem.T + i) * state
        out, _ = lines_of(operands, OUT, b, h, i, like)
        if not _merge(problem, operands, out, known, factor, merged):
            operands[UNFIT] = 1
        write_stats(problem, operands, b, h, i, 1, merged, merged + 1)


@inner
def _keys(problem, operands, b, g, start, stop, states, scratch):
    """Attend from all queries of a group to keys ``start <= j < stop``."""
    w = lanes(scratch)
    T, D, Dv = problem.T, problem.D, problem.Dv
    room = lay_out(problem, w, scratch)
    s, v_width = room.s, room.v.step
    k, k_row = lines_of(operands, K, b, g, 0, scratch)
    v, v_row = lines_of(operands, V, b, g, 0, scratch)
    state = state_at(problem, w, 0).end
    group = problem.H // problem.G
    for query in range(group * T):
        fill(states + query * state, state, 0.0)
        state_at(problem, w, states + query * state).top[0] = -np.inf
    for j0 in range(start, stop, KEYS):
        m = min(KEYS, stop - j0)
        for member in range(group):
            h = g * group + member
            head = head_of(problem, operands, b, h, scratch)
            tile = tile_of(head.rule, b, h, 0, T, j0, m, KEYS, False)
            if tile.kind == HIDDEN:
                continue
            q, q_row = lines_of(operands, Q, b, h, 0, scratch)
            k_tile, v_tile = k + j0 * k_row, v + j0 * v_row
            pack(room.q.start, room.q.step, q, q_row, T, D)
            multiply_rows(s, room.q.start, room.q.step, k_tile, k_row, tile, D, room.partial)
            if overflows(s, head.rule, tile):
                operands[UNFIT] = 1
            finish_scores(s, head, tile, room.slopes)
            own = states + member * T * state
            _exponentiate(problem, s, head.factor, tile, own)
            if head.dropout > 0.0:
                drop(s, head, tile)
            if tile.kind == PARTIAL and not is_finite(v_tile, v_row, m, Dv):
                sums = Rows(own, state, 0)
                add_visible(sums, Rows(s, KEYS, 1), Rows(v_tile, 0, v_row), Dv, head.rule, tile)
                continue
            if Dv != v_width:
                pack(room.v.start, v_width, v_tile, v_row, m, Dv)
                v_tile = room.v.start
            width = v_width if Dv != v_width else v_row
            for i in range(T):
                o = state_at(problem, w, own + i * state).o
                add_rows(o, s + i * KEYS, v_tile, width, v_width, m)


@inner
def multiply_rows(s, q, d_width, k, k_row, tile, D, partial):
    """Set ``s[i, j] = sum_d q[i, d] k[j, d]``, by vectors of keys."""
    w = lanes(s)
    whole = D - D % w
    for j in range(0, tile.m, w):
        for i in range(tile.n):
            for n in range(w):
                at = min(j + n, tile.m - 1)
                row = k + at * k_row
                if i == 0:
                    for d in range(0, D, w):
                        prefetch(row + (AHEAD * k_row + d))
                total = splat(0.0, s)
                for d in range(0, whole, w):
                    total = fma(load(row + d), load(q + (i * d_width + d)), total)
                if whole < D:
                    tail = load_first(row + whole, D - whole)
                    total = fma(tail, load(q + (i * d_width + whole)), total)
                store(partial + n * w, total)
            store(s + (i * tile.width + j), horizontal_sums(partial))


@inner
def add_rows(o, weights, v, v_row, v_width, m):
    """Add ``sum_j weights[j] v[j, e]`` to ``o[e]``."""
    w = lanes(o)
    e = 0
    while e + WIDE * w <= v_width:
        product(1, WIDE, o + e, 0, weights, 0, 1, v + e, v_row, m, 1, True)
        e += WIDE * w
    while e < v_width:
        product(1, 1, o + e, 0, weights, 0, 1, v + e, v_row, m, 1, True)
        e += w


@inner
def _exponentiate(problem, s, factor, tile, states):
    """Replace scores by ``exp(s - m)`` and bring each query's state up to date."""
    w, size = lanes(s), state_at(problem, lanes(s), 0).end
    for i in range(tile.n):
        row, own = s + i * tile.width, state_at(problem, w, states + i * size)
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
        fits = write_rows(out + e, 0, merged + w, 0, 1, min(w, problem.Dv - e), share)
        finite = finite and fits
    return finite
