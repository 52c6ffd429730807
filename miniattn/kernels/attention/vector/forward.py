"""Attention forward: ``out = softmax(cap(scale q k^T) + bias + mask) v`` without a T x S array.

One piece of work owns the output rows of 64 queries of one head. It walks over tiles of 64 keys and
keeps, for each query, the running maximum of its scores, the running sum of their exponentials and
the sum of values so weighted; when the maximum grows, the sums are rescaled (online softmax).

Scores of a tile are kept transposed, keys x queries: a vector holds the scores of one key for 16
queries, so that maxima, sums and rescaling are element-wise vector operations, and K is read in
place. The query block is packed once, transposed.

References
----------
Milakov, Gimelshein. "Online normalizer calculation for softmax" (2018), algorithm 3.
Dao. "FlashAttention-2" (2023), section 3.1.
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
    add_visible,
    far_from_overflow,
    overflows,
    power,
    raise_tops,
    share_of,
    write_stats,
)
from miniattn.kernels.attention.problem import (
    OUT,
    UNFIT,
    K,
    Problem,
    Q,
    V,
    lines_of,
    problem_of,
)
from miniattn.kernels.attention.scores import drop, finish_scores, head_of
from miniattn.kernels.attention.vector.products import multiply_keys, multiply_queries
from miniattn.kernels.compile.queue import take
from miniattn.kernels.compile.settings import inner, task
from miniattn.kernels.dense.panels import (
    ROW_GROUP,
    fill,
    is_finite,
    pack,
    pack_transposed,
    round_up,
    sum_of_squares,
    write_row,
)
from miniattn.kernels.registers import any_true, lanes, load, splat, store

QUERIES = 64  # of one piece of work
KEYS = 64  # of one tile


@task
def forward(sizes, factors, operands, queue, scratch):
    """Write out, lse (the log-sum-exp of each row of scores, -inf for an empty row) and its parts.

    Where finite numbers led to others, the operands are UNFIT.

    Parameters
    ----------
    sizes, factors
        What `problem.problem_of` takes apart.
    operands
        Addresses and strides of q, k, v, out, lse, bias and mask; see `problem.OPERANDS`.
    queue
        Of the pieces of work.
    scratch
        Memory of this thread alone.
    """
    problem = problem_of(sizes, factors)
    blocks = (problem.T + QUERIES - 1) // QUERIES
    piece = take(queue)
    while piece < problem.tasks:
        # Under a causal mask the last block is the longest: start with it.
        block = blocks - 1 - piece % blocks
        b, h = piece // blocks // problem.H, piece // blocks % problem.H
        _attend(problem, operands, b, h, block * QUERIES, scratch)
        piece = take(queue)


def plan(problem: Problem, lanes: int) -> tuple[int, int]:
    """Return the pieces of work of a call, and the elements of scratch memory of a thread."""
    pieces = problem.B * problem.H * -(-problem.T // QUERIES)
    return pieces, lay_out(problem, QUERIES, lanes, 0).end


class Room(NamedTuple):
    """The scratch memory of ``n`` queries."""

    width: int
    """Of a row of scores: n and padding."""
    v_width: int
    q: Any
    """Turned."""
    s: Any
    slopes: Any
    o: Any
    top: Any
    total: Any
    decay: Any
    v: Any
    """A tile of values, where whole vectors of them cannot be read in place."""
    end: Any


@inner
def lay_out(problem, n, w, start):
    """Return the `Room` of ``n`` queries, from ``start`` on, in vectors of ``w`` numbers.

    One layout tells kernels where things lie, from an address on, and `plan` how large all of it
    is: from 0 on.
    """
    width, v_width = row_width(n, w), round_up(problem.Dv, w)
    q = start
    s = q + width * problem.D
    slopes = s + width * (KEYS + ROW_GROUP)
    o = slopes + width * (KEYS + ROW_GROUP)
    top = o + width * v_width
    total = top + width
    decay = total + width
    v = decay + width
    end = v + KEYS * v_width
    return Room(width, v_width, q, s, slopes, o, top, total, decay, v, end)


@inner
def row_width(n, w):
    """Return the width of a row of scores of ``n`` queries: whole vectors and row groups."""
    return round_up(n, max(w, ROW_GROUP))


@inner
def _attend(problem, operands, b, h, i0, scratch):
    """Compute the output of queries ``i0 <= i < i0 + QUERIES`` of one head."""
    D, Dv = problem.D, problem.Dv
    n = min(QUERIES, problem.T - i0)
    room = lay_out(problem, n, lanes(scratch), scratch)
    width, v_width, s, slopes, o = room.width, room.v_width, room.s, room.slopes, room.o
    top, total, decay = room.top, room.total, room.decay
    g = h // (problem.H // problem.G)
    head = head_of(problem, operands, b, h, scratch)
    q, q_row = lines_of(operands, Q, b, h, i0, scratch)
    k, k_row = lines_of(operands, K, b, g, 0, scratch)
    v, v_row = lines_of(operands, V, b, g, 0, scratch)

    pack_transposed(room.q, width, q, q_row, n, D)
    narrow = n > D
    squares = sum_of_squares(q, q_row, n, D) if narrow else 0.0
    fill(top, width, -np.inf)
    fill(total, width, 0.0)
    fresh = True  # o holds nothing yet
    stop = end_of_keys(head.rule, i0 + n)
    # tiled: for j0 in range(0, len(k), KEYS):
    for j0 in range(first_key(head.rule, i0, KEYS), stop, KEYS):
        m = min(KEYS, stop - j0)
        tile = tile_of(head.rule, b, h, i0, n, j0, m, width, True)
        # tiled: if not visible[:, tile].any():
        if tile.kind == HIDDEN:
            continue
        k_tile = k + j0 * k_row
        # tiled: s = scores(q, k[tile], visible[:, tile], scale)
        multiply_keys(s, k_tile, k_row, room.q, D, head.rule, tile)
        bounded = narrow and far_from_overflow(k_tile, k_row, m, D, squares)
        if not bounded and overflows(s, head.rule, tile):
            operands[UNFIT] = 1
        finish_scores(s, head, tile, slopes)
        exponentiate(s, head, tile, top, total, decay)
        # tiled: o = decay[:, None] * o + weight @ v[tile]
        if not fresh:
            _rescale(o, n, v_width, decay)
        if head.dropout > 0.0:
            drop(s, head, tile)
        v_tile = v + j0 * v_row
        if tile.kind == PARTIAL and not is_finite(v_tile, v_row, m, Dv):
            if fresh:
                fill(o, width * v_width, 0.0)
            sums = Rows(o, v_width, 0)
            add_visible(sums, Rows(s, 1, width), Rows(v_tile, 0, v_row), Dv, head.rule, tile)
        else:
            row = v_row
            if Dv != v_width:
                pack(room.v, v_width, v_tile, v_row, m, Dv)
                v_tile, row = room.v, v_width
            multiply_queries(o, v_width, s, v_tile, row, head.rule, tile, not fresh)
        fresh = False
    if fresh:
        fill(o, width * v_width, 0.0)

    out, out_row = lines_of(operands, OUT, b, h, i0, scratch)
    if not _normalise(out, out_row, o, v_width, n, Dv, top, total):
        operands[UNFIT] = 1
    write_stats(problem, operands, b, h, i0, n, top, total)


@inner
def exponentiate(s, head, tile, top, total, decay):
    """Replace scores by ``exp(s - m)``; bring the maxima and sums up to date.

    What the bounds of the mask leave out is left alone. ``decay`` receives what older sums are
    multiplied by.
    """
    w, width, factor = lanes(s), tile.width, head.factor
    fill(s + tile.m * width, (round_up(tile.m, 4) - tile.m) * width, -np.inf)
    for c in range(0, width, w):
        start, stop = keys_seen(head.rule, tile, c // GROUP * GROUP, GROUP)
        # tiled: old, top = top, np.maximum(top, s.max(axis=1))
        base, ratio = raise_tops(s, head, tile, top, c, start, stop)
        store(decay + c, ratio)
        added = splat(0.0, s)
        for r in range(start, stop):
            p = s + (r * width + c)
            # tiled: weight = np.exp(s - base[:, None])
            weight = power(load(p), base, factor)
            store(p, weight)
            added = added + weight
        # tiled: total = decay * total + weight.sum(axis=1)
        store(total + c, load(total + c) * ratio + added)


@inner
def _rescale(o, n, v_width, decay):
    """Multiply the sums of each query by its ``decay``, where that is not 1."""
    w = lanes(o)
    for c in range(0, n, w):
        if any_true(load(decay + c) != 1.0):
            for i in range(c, min(c + w, n)):
                for e in range(0, v_width, w):
                    p = o + (i * v_width + e)
                    store(p, load(p) * decay[i])


@inner
def _normalise(out, out_row, o, v_width, n, Dv, top, total):
    """Write ``out = o / l``, 0 where a query saw nothing; return whether that is finite."""
    sums = splat(0.0, o)
    for i in range(n):
        # tiled: share = np.divide(1.0, total, where=seen, out=np.zeros_like(total))
        factor = share_of(total[i], top[i])
        sums = write_row(out + i * out_row, o + i * v_width, Dv, factor, sums)
    return not any_true(sums != sums)
