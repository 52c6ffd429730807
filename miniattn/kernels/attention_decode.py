"""Attention forward for very few queries: the decode step, T = 1 with a long cache of keys.

There the work is to read K and V once, and the blocks of queries of `attention_forward` would be
nearly empty. One piece of work owns a run of keys of one key/value head, for all queries that share
it, so that both K and V pass through the processor once per group of heads; long caches are dealt
among several pieces, as the shape alone decides. Each piece leaves the running maximum, sum and
weighted values of its keys, and a second pass merges them exactly, in order.

Scores are kept queries x keys here: lanes belong to keys.

References
----------
Dao et al. "Flash-Decoding for long-context inference" (2023).
"""

import math

import numpy as np

from miniattn.kernels._runtime import inner, task
from miniattn.kernels.arguments import (
    LSE,
    OUT,
    SUMS,
    K,
    Problem,
    Q,
    V,
    part_of,
    problem_of,
    step_of,
)
from miniattn.kernels.masking import (
    HIDDEN,
    PARTIAL,
    tile_of,
    visible,
)
from miniattn.kernels.queue import take
from miniattn.kernels.scores import LN_2, drop, finish_scores, head_of
from miniattn.kernels.simd import (
    exp2_nonpositive,
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
    splat,
    store,
    store_first,
)
from miniattn.kernels.tiles import WIDE, fill, is_finite, pack, round_up

KEYS = 512  # of one tile
AHEAD = 64  # so many rows are asked for before they are needed: processors look ahead within a page


@task
def decode(sizes, factors, operands, queue, scratch):
    """Write out and lse, as `attention_forward.forward` does.

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
    """Write out and lse from what the pieces of `decode` left."""
    problem = problem_of(sizes, factors)
    piece = take(queue)
    while piece < problem.tasks:
        _merge_head(problem, operands, piece, scratch)
        piece = take(queue)


def plan(problem: Problem, lanes: int) -> tuple[int, int]:
    """Return the pieces of work of `decode`, and the elements of scratch memory of a thread."""
    d_width, v_width = (round_up(n, lanes) for n in (problem.D, problem.Dv))
    # Queries, a tile of scores and one of slopes, partial sums, a packed tile of V.
    scratch = problem.T * (d_width + 2 * KEYS) + lanes * lanes + KEYS * v_width
    return problem.B * problem.G * problem.parts, scratch


def plan_merge(problem: Problem, lanes: int) -> tuple[int, int]:
    """Return the pieces of work of `merge`; it takes no scratch memory."""
    return problem.B * problem.H, 0


def states(problem: Problem, lanes: int) -> tuple[int, int, int]:
    """Return the shape of the memory between `decode` and `merge`."""
    queries = problem.H // problem.G * problem.T
    pieces = problem.B * problem.G * problem.parts
    return 1, pieces, queries * (round_up(problem.Dv, lanes) + lanes)


@inner
def _merge_head(problem, operands, piece, like):
    """Write out and lse of the queries of one head."""
    b, h = piece // problem.H, piece % problem.H
    group, parts = problem.H // problem.G, problem.parts
    first = (b * problem.G + h // group) * parts
    state = round_up(problem.Dv, lanes(like)) + lanes(like)
    for i in range(problem.T):
        known = part_of(operands, SUMS, 0, first, like) + (h % group * problem.T + i) * state
        out = part_of(operands, OUT, b, h, like) + i * step_of(operands, OUT, 2)
        lse = part_of(operands, LSE, b, h, like) + i
        _merge(out, lse, known, step_of(operands, SUMS, 1), parts, problem.Dv, state)


@inner
def _keys(problem, operands, b, g, start, stop, states, scratch):
    """Attend from all queries of a group to keys ``start <= j < stop``."""
    w = lanes(scratch)
    T, D, Dv = problem.T, problem.D, problem.Dv
    d_width, v_width = round_up(D, w), round_up(Dv, w)
    k_row, v_row, q_row = step_of(operands, K, 2), step_of(operands, V, 2), step_of(operands, Q, 2)
    k, v = part_of(operands, K, b, g, scratch), part_of(operands, V, b, g, scratch)
    q_packed = scratch
    s = q_packed + T * d_width
    slopes = s + T * KEYS
    partial = slopes + T * KEYS
    v_packed = partial + w * w
    state = v_width + w
    group = problem.H // problem.G
    for query in range(group * T):
        fill(states + query * state, state, 0.0)
        states[query * state + v_width] = -np.inf
    for j0 in range(start, stop, KEYS):
        m = min(KEYS, stop - j0)
        for member in range(group):
            h = g * group + member
            head = head_of(problem, operands, b, h, scratch)
            tile = tile_of(head.rule, b, h, 0, T, j0, m, KEYS, False)
            if tile.kind == HIDDEN:
                continue
            q = part_of(operands, Q, b, h, scratch)
            k_tile, v_tile = k + j0 * k_row, v + j0 * v_row
            pack(q_packed, d_width, q, q_row, T, D)
            multiply_rows(
                s,
                q_packed,
                d_width,
                k_tile,
                k_row,
                tile,
                D,
                partial,
            )
            finish_scores(s, head, tile, slopes)
            own = states + member * T * state
            _exponentiate(s, head.factor, tile, own, state)
            if head.dropout > 0.0:
                drop(s, head, tile)
            if tile.kind == PARTIAL and not is_finite(v_tile, v_row, m, Dv):
                _add_visible(own, state, s, v_tile, v_row, Dv, head.rule, tile)
                continue
            if Dv != v_width:
                pack(v_packed, v_width, v_tile, v_row, m, Dv)
                v_tile = v_packed
            width = v_width if Dv != v_width else v_row
            for i in range(T):
                add_rows(own + i * state, s + i * KEYS, v_tile, width, v_width, m)


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
def _exponentiate(s, factor, tile, states, state):
    """Replace scores by ``exp2(factor score - top)`` and bring each query's state up to date."""
    w = lanes(s)
    v_width = state - w
    for i in range(tile.n):
        row, own = s + i * tile.width, states + i * state
        for c in range(tile.m, round_up(tile.m, w)):
            row[c] = -np.inf
        top = splat(-np.inf, s)
        for c in range(0, tile.m, w):
            top = maximum(load(row + c), top)
        peak = horizontal_max(maximum(top * factor, splat(own[v_width], s)))
        base = peak if peak != -np.inf else 0.0
        added = splat(0.0, s)
        for c in range(0, tile.m, w):
            weight = exp2_nonpositive(fma(load(row + c), factor, -splat(base, s)))
            store(row + c, weight)
            added = added + weight
        decay = exp2_nonpositive(splat(own[v_width] - base, s))
        own[v_width] = peak
        own[v_width + 1] = own[v_width + 1] * horizontal_max(decay) + horizontal_sum(added)
        for e in range(0, v_width, w):
            store(own + e, load(own + e) * decay)


@inner
def _add_visible(states, state, s, v, v_row, Dv, rule, tile):
    """Add weighted values key by key, for a tile whose values hold NaN or infinity."""
    for i in range(tile.n):
        for j in range(tile.m):
            if visible(rule, tile.i0 + i, tile.j0 + j):
                for e in range(Dv):
                    at = i * state + e
                    states[at] = states[at] + s[i * tile.width + j] * v[j * v_row + e]


@inner
def _merge(out, lse, states, part, parts, Dv, state):
    """Combine the states of one query over all parts, each relative to its own maximum."""
    w = lanes(out)
    v_width = state - w
    top = states[v_width]
    for n in range(1, parts):
        other = states[n * part + v_width]
        top = other if other > top else top
    base = top if top != -np.inf else 0.0
    total = 0.0
    for n in range(parts):
        own = states + n * part
        # As below, and not `math.exp2`, which older versions of Numba do not compile.
        decay = exp2_nonpositive(splat(own[v_width] - base, out))
        total += horizontal_max(decay) * own[v_width + 1]
    for e in range(0, Dv, w):
        value = splat(0.0, out)
        for n in range(parts):
            own = states + n * part
            factor = exp2_nonpositive(splat(own[v_width] - base, out))
            value = fma(load(own + e), factor, value)
        value = value * (1.0 / total if total != 0.0 else 0.0)
        if e + w <= Dv:
            store(out + e, value)
        else:
            store_first(out + e, value, Dv - e)
    lse[0] = (top + math.log2(total)) * LN_2 if total != 0.0 else -np.inf
