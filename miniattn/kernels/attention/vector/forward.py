"""Attention forward: ``out = softmax(cap(scale q k^T) + bias + mask) v`` without a T x S array.

One piece of work owns the output rows of 64 queries of one head. It walks over tiles of 64 keys and
keeps, for each query, the running maximum of its scores, the running sum of their exponentials and
the sum of values so weighted; when the maximum grows, the sums are rescaled (online softmax).

Scores of a tile are kept transposed, keys x queries: a vector holds the scores of one key for 16
queries, so that maxima, sums and rescaling are element-wise vector operations, and K is read in
place. The run of queries is packed once, transposed.

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
    add_visible,
    far_from_overflow,
    overflows,
    power,
    raise_tops,
    start_of,
    write_shares,
    write_stats,
)
from miniattn.kernels.attention.operands import OUT, UNFIT, K, Q, V, lines_of
from miniattn.kernels.attention.pieces import Call, key_head, run_of_piece, runs_of
from miniattn.kernels.attention.problem import Problem, problem_of
from miniattn.kernels.attention.scores import drop, finish_scores, head_of
from miniattn.kernels.attention.vector.products import multiply_keys, multiply_queries
from miniattn.kernels.compile.queue import each_piece
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
from miniattn.kernels.dense.places import Grid, Lines, by_column, by_row, line, lines_from
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
        Addresses and strides of q, k, v, out, lse, bias and mask; see `operands.OPERANDS`.
    queue
        Of the pieces of work.
    scratch
        Memory of this thread alone.
    """
    each_piece(queue, _attend, Call(problem_of(sizes, factors), operands, scratch))


def plan(problem: Problem, lanes: int) -> tuple[int, int]:
    """Return the pieces of work of a call, and the elements of scratch memory of a thread."""
    pieces = problem.B * problem.H * runs_of(problem, QUERIES)
    return pieces, lay_out(problem, QUERIES, lanes, 0).end


class Room(NamedTuple):
    """The scratch memory of ``n`` queries."""

    q: Lines
    """Turned; its step is the width of a row of scores: n and padding."""
    s: Any
    slopes: Any
    o: Lines
    top: Any
    total: Any
    decay: Any
    v: Lines
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
    return Room(
        q=Lines(q, width),
        s=s,
        slopes=slopes,
        o=Lines(o, v_width),
        top=top,
        total=total,
        decay=decay,
        v=Lines(v, v_width),
        end=v + KEYS * v_width,
    )


@inner
def row_width(n, w):
    """Return the width of a row of scores of ``n`` queries: whole vectors and row groups."""
    return round_up(n, max(w, ROW_GROUP))


@inner
def _attend(call, piece):
    """Compute the output of one run of queries."""
    problem, operands, scratch = call
    run, D, Dv = run_of_piece(problem, piece, QUERIES), problem.D, problem.Dv
    n, g = run.n, key_head(problem, run.h)
    room = lay_out(problem, n, lanes(scratch), scratch)
    width, s, o, top, total, decay = (
        room.q.step,
        room.s,
        room.o,
        room.top,
        room.total,
        room.decay,
    )
    head = head_of(problem, operands, run.b, run.h, scratch)
    q = lines_of(operands, Q, run.b, run.h, run.i0, scratch)
    k = lines_of(operands, K, run.b, g, 0, scratch)
    v = lines_of(operands, V, run.b, g, 0, scratch)

    pack_transposed(room.q, q, n, D)
    narrow = n > D
    squares = sum_of_squares(q, n, D) if narrow else 0.0
    start = start_of(operands, run.h, scratch)
    fill(top, width, start[0])
    fill(total, width, start[1])
    fresh = True  # o holds nothing yet
    stop = end_of_keys(head.rule, run.i0 + n)
    # tiled: for j0 in range(0, len(k), KEYS):
    for j0 in range(first_key(head.rule, run.i0, KEYS), stop, KEYS):
        m = min(KEYS, stop - j0)
        tile = tile_of(head.rule, run, j0, m, width, True)
        # tiled: if not visible[:, tile].any():
        if tile.kind == HIDDEN:
            continue
        k_tile = lines_from(k, j0)
        # tiled: s = scores(q, k[tile], visible[:, tile], scale)
        multiply_keys(s, k_tile, room.q.start, D, head.rule, tile)
        bounded = narrow and far_from_overflow(k_tile, m, D, squares)
        if not bounded and overflows(s, head.rule, tile):
            operands[UNFIT] = 1
        # Softcap, score, bias and mask: what a query may not see is -inf from here on.
        # tiled: return np.where(visible, scale * (q @ k.T), -np.inf)
        finish_scores(s, head, tile, room.slopes)
        exponentiate(s, head, tile, top, total, decay)
        # The online softmax: where this tile raised the maximum, what came before it shrinks.
        # tiled: o = decay[:, None] * o + weight @ v[tile]
        if not fresh:
            _rescale(o, n, decay)
        if head.dropout > 0.0:
            drop(s, head, tile)
        add_values(problem, room, s, head.rule, tile, lines_from(v, j0), fresh)
        fresh = False
    if fresh:
        fill(o.start, width * o.step, 0.0)

    out = lines_of(operands, OUT, run.b, run.h, run.i0, scratch)
    # tiled: share = np.divide(1.0, total, where=seen, out=np.zeros_like(total))
    write_shares(decay, total, top, n)
    # tiled: return share[:, None] * o, base, log_sum
    if not _normalise(out, o, n, Dv, decay):
        operands[UNFIT] = 1
    # lse = top + log(total), and the two apart, from which backward makes weights again.
    # tiled: log_sum = np.log(total, where=seen, out=np.full_like(total, np.inf))
    write_stats(problem, operands, run, top, total)


@inner
def add_values(problem, room, s, rule, tile, v, fresh):
    """Add a tile's values, by their weights ``s``, to o, or begin it where it is ``fresh``."""
    o, Dv = room.o, problem.Dv
    if tile.kind == PARTIAL and not is_finite(v, tile.m, Dv):
        if fresh:
            fill(o.start, tile.width * o.step, 0.0)
        add_visible(by_row(o), Grid(s, 1, tile.width), by_column(v), Dv, rule, tile)
        return
    if Dv != o.step:
        pack(room.v, v, tile.m, Dv)
        v = room.v
    multiply_queries(o, s, v, rule, tile, not fresh)


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
def _rescale(o, n, decay):
    """Multiply the sums of each query by its ``decay``, where that is not 1."""
    w = lanes(decay)
    for c in range(0, n, w):
        if any_true(load(decay + c) != 1.0):
            for i in range(c, min(c + w, n)):
                for e in range(0, o.step, w):
                    p = line(o, i) + e
                    store(p, load(p) * decay[i])


@inner
def _normalise(out, o, n, Dv, shares):
    """Write ``out = o / l``; return whether that is finite."""
    sums = splat(0.0, shares)
    for i in range(n):
        sums = write_row(line(out, i), line(o, i), Dv, shares[i], sums)
    return not any_true(sums != sums)
