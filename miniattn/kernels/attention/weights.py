"""Attention weights, whole or pooled: the map that people look at.

Bin (r, c) of a map holds the mean over the queries of row bin r of the sum over the keys of column
bin c of the weights: how much of their attention these queries pay to these keys. With as many bins
as queries and keys it is the exact matrix of weights; with fewer, a map of any size is computed in
the memory of the bins. One piece of work owns whole rows of bins.

Each run of queries is walked over twice, first for the maxima and sums of its scores, as in
`vector.forward`, then for the weights themselves.
"""

from typing import Any, NamedTuple

import numpy as np

from miniattn.kernels.attention.masking import (
    GROUP,
    HIDDEN,
    end_of_keys,
    first_key,
    keys_seen,
    tile_of,
)
from miniattn.kernels.attention.online import base_of, overflows, power, start_of, within_limit
from miniattn.kernels.attention.operands import OUT, UNFIT, K, Q, lines_of
from miniattn.kernels.attention.pieces import Call, Run, bin_of, first_of, key_head
from miniattn.kernels.attention.problem import Problem, problem_of
from miniattn.kernels.attention.scores import finish_scores, head_of
from miniattn.kernels.attention.vector.forward import KEYS, QUERIES, exponentiate, row_width
from miniattn.kernels.attention.vector.products import multiply_keys
from miniattn.kernels.compile.queue import each_piece
from miniattn.kernels.compile.settings import inner, task
from miniattn.kernels.dense.panels import ROW_GROUP, fill, pack_transposed
from miniattn.kernels.dense.places import Lines, line, lines_from
from miniattn.kernels.registers import lanes, load, select, splat, store


@task
def attention_map(sizes, factors, operands, queue, scratch):
    """Add the map of each batch row and head to the operand OUT, which is zero.

    Where finite numbers led to others, the operands are UNFIT.

    OUT has the shape (B, H, rows, columns). The numbers of bins, ``problem.rows`` and
    ``problem.columns``, are at most T and S; bin r holds the queries
    ``r * T // rows <= i < (r + 1) * T // rows``. Arguments: as in `vector.forward.forward`.
    """
    call = Call(problem_of(sizes, factors), operands, scratch)
    each_piece(queue, add_rows, Way(call, _add_weights))


class Way(NamedTuple):
    """A call, and what adds the weights of a run of its queries to their bins."""

    call: Call
    add_weights: Any


@inner
def add_rows(way, piece):
    """Add the weights of the queries of some rows of bins."""
    problem, bins = way.call.problem, _bins(way.call.problem)
    groups = (problem.rows + bins - 1) // bins
    b, h = piece // groups // problem.H, piece // groups % problem.H
    first = piece % groups * bins
    stop = min(problem.rows, first + bins) * problem.T // problem.rows
    for i0 in range(first * problem.T // problem.rows, stop, QUERIES):
        way.add_weights(way.call, Run(b, h, i0, min(QUERIES, stop - i0)))


@inner
def _bins(problem):
    """Return how many rows of bins are one piece of work: about QUERIES queries."""
    return max(1, QUERIES * problem.rows // max(1, problem.T))


def plan(problem: Problem, lanes: int) -> tuple[int, int]:
    """Return the pieces of work of a call, and the elements of scratch memory of a thread."""
    return pieces_of(problem), lay_out(problem, QUERIES, lanes, 0).end


def pieces_of(problem: Problem) -> int:
    """Return the pieces of work of a map."""
    bins: int = _bins(problem)
    return problem.B * problem.H * -(-problem.rows // bins)


class Room(NamedTuple):
    """The scratch memory of ``n`` queries."""

    q: Lines
    """Turned; its step is the width of a row of scores: n and padding."""
    s: Any
    slopes: Any
    top: Any
    total: Any
    decay: Any
    sums: Any
    """Of the weights of one bin's keys."""
    end: Any


@inner
def lay_out(problem, n, w, start):
    """Return the `Room` of ``n`` queries; arguments as in `vector.forward.lay_out`."""
    width = row_width(n, w)
    q = start
    s = q + width * problem.D
    slopes = s + width * (KEYS + ROW_GROUP)
    top = slopes + width * (KEYS + ROW_GROUP)
    total = top + width
    decay = total + width
    sums = decay + width
    return Room(Lines(q, width), s, slopes, top, total, decay, sums, sums + width)


@inner
def _add_weights(call, run):
    """Add the weights of a run of queries to their bins."""
    problem, operands, scratch = call
    b, h, i0, n = run
    room = lay_out(problem, n, lanes(scratch), scratch)
    width, s, top, total = room.q.step, room.s, room.top, room.total
    head = head_of(problem, operands, b, h, scratch)
    k = lines_of(operands, K, b, key_head(problem, h), 0, scratch)
    out = lines_of(operands, OUT, b, h, 0, scratch)

    pack_transposed(room.q, lines_of(operands, Q, b, h, i0, scratch), n, problem.D)
    first = start_of(operands, h, scratch)
    fill(top, width, first[0])
    fill(total, width, first[1])
    stop = end_of_keys(head.rule, i0 + n)
    for adds in range(2):
        if adds == 1 and not within_limit(problem, top, n):
            operands[UNFIT] = 1
        for j0 in range(first_key(head.rule, i0, KEYS), stop, KEYS):
            m = min(KEYS, stop - j0)
            tile = tile_of(head.rule, run, j0, m, width, True)
            if tile.kind == HIDDEN:
                continue
            multiply_keys(s, lines_from(k, j0), room.q.start, problem.D, head.rule, tile)
            if adds == 0 and overflows(s, head.rule, tile):
                operands[UNFIT] = 1
            finish_scores(s, head, tile, room.slopes)
            if adds == 0:
                exponentiate(s, head, tile, top, total, room.decay)
                continue
            _weigh(s, head, tile, top, total)
            add_to_bins(problem, tile, s, room.sums, out)


@inner
def add_to_bins(problem, tile, s, sums, out):
    """Add the weights of a tile to the map, one bin of keys after the other."""
    T, S, rows, columns = problem.T, problem.S, problem.rows, problem.columns
    start, stop = tile.j0, tile.j0 + tile.m
    while start < stop:
        column = bin_of(start, S, columns)
        end = min(stop, first_of(column + 1, S, columns))
        _sum_keys(sums, s + (start - tile.j0) * tile.width, end - start, tile.width)
        for i in range(tile.n):
            row = bin_of(tile.i0 + i, T, rows)
            place = line(out, row) + column
            place[0] = place[0] + sums[i] / (first_of(row + 1, T, rows) - first_of(row, T, rows))
        start = end


@inner
def _weigh(s, head, tile, top, total):
    """Replace scores by weights, 0 for what the bounds of the mask leave out."""
    w, width, factor = lanes(s), tile.width, head.factor
    for c in range(0, width, w):
        start, stop = keys_seen(head.rule, tile, c // GROUP * GROUP, GROUP)
        peak, whole = load(top + c), load(total + c)
        base = base_of(peak)
        share = select(whole == 0.0, 0.0, 1.0 / whole)
        for r in range(start):
            store(s + (r * width + c), splat(0.0, s))
        for r in range(stop, tile.m):
            store(s + (r * width + c), splat(0.0, s))
        for r in range(start, stop):
            p = s + (r * width + c)
            score = load(p)
            weight = power(score, base, factor) * share
            store(p, select(score == -np.inf, 0.0, weight))  # also in a row that NaN has spoilt


@inner
def _sum_keys(sums, s, m, width):
    """Set ``sums[i] = sum_r s[r, i]`` for ``m`` rows."""
    w = lanes(s)
    for c in range(0, width, w):
        total = splat(0.0, s)
        for r in range(m):
            total = total + load(s + (r * width + c))
        store(sums + c, total)
