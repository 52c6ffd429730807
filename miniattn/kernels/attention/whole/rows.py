"""The scores of some queries with all their keys, in scratch memory, and what becomes of them.

Softmax can be taken of scores as they come in; the threshold of sparsemax or entmax has to be
looked for, in five to ten passes over a row. So the scores of a run of queries stay where they are
until it is found: keys x queries as in `vector.forward`, hidden tiles left out. That takes 64 rows
of S numbers a thread, or 16 where rows are long, and never T x S. Sigmoid needs only a tile.
"""

from typing import Any, NamedTuple

import numpy as np

from miniattn.kernels.attention.masking import (
    FULL,
    GROUP,
    HIDDEN,
    end_of_keys,
    first_key,
    keys_seen,
    tile_of,
    visible,
)
from miniattn.kernels.attention.online import LIMIT, overflows, start_of, within_limit
from miniattn.kernels.attention.operands import UNFIT, K, Q, lines_of
from miniattn.kernels.attention.pieces import key_head
from miniattn.kernels.attention.problem import ENTMAX15, SIGMOID, SPARSEMAX
from miniattn.kernels.attention.scores import finish_scores, head_of
from miniattn.kernels.attention.vector.forward import KEYS, QUERIES, row_width
from miniattn.kernels.attention.vector.products import multiply_keys
from miniattn.kernels.attention.whole.normalizers import (
    argument,
    by_entmax15,
    by_sigmoid,
    by_sparsemax,
    measure_of,
    threshold,
)
from miniattn.kernels.compile.settings import inner
from miniattn.kernels.dense.panels import ROW_GROUP, fill, pack_transposed, round_up
from miniattn.kernels.dense.places import Lines
from miniattn.kernels.registers import (
    LANES,
    absolute,
    any_true,
    lanes,
    load,
    maximum,
    select,
    splat,
    store,
)

LONG = 2**13  # keys: 64 rows of more would not fit into a core's own cache
FEW_QUERIES = 16


class Rows(NamedTuple):
    """The scratch memory of ``n`` queries."""

    q: Lines
    """Turned; its step is the width of a row of scores: n and padding."""
    s: Any
    slopes: Any
    top: Any
    threshold: Any
    own: Any
    """Where the memory of whoever uses the weights begins."""


@inner
def queries_of(problem):
    """Return how many queries are one piece of work, by the shape alone."""
    return FEW_QUERIES if problem.S > LONG and problem.normalizer != SIGMOID else QUERIES


@inner
def _keys_held(problem):
    """Return of how many keys scores are held at once: a number of whole tiles."""
    return KEYS if problem.normalizer == SIGMOID else max(KEYS, round_up(problem.S, KEYS))


@inner
def lay_out(problem, n, w, start):
    """Return the `Rows` of ``n`` queries; arguments as in `vector.forward.lay_out`."""
    width = row_width(n, w)
    q = start
    s = q + width * problem.D
    slopes = s + width * (_keys_held(problem) + ROW_GROUP)
    top = slopes + width * (KEYS + ROW_GROUP)
    threshold = top + width
    return Rows(Lines(q, width), s, slopes, top, threshold, threshold + width)


@inner
def weigh_keys(call, run, rows, use):
    """Find the weights of a run of queries; hand each tile of them to ``use``.

    It is called as ``use(call, run, rows, head, tile, weights)``. Where finite numbers led to
    others, or scores to more than float32 can tell apart, the operands are UNFIT.
    """
    problem, operands, scratch = call
    width, head = rows.q.step, head_of(problem, operands, run.b, run.h, scratch)
    pack_transposed(rows.q, lines_of(operands, Q, run.b, run.h, run.i0, scratch), run.n, problem.D)
    sink = start_of(operands, run.h, scratch)[0]
    fill(rows.top, width, 0.0 if problem.normalizer == SIGMOID else sink)
    fill(rows.threshold, width, -1.0)
    held, stop = _keys_held(problem), end_of_keys(head.rule, run.i0 + run.n)
    for j0 in range(first_key(head.rule, run.i0, KEYS), stop, held):
        end, count = min(stop, j0 + held), 0
        for weighs in range(2):
            at = 0
            if weighs == 1:
                _settle(problem, rows, count, sink)
            for j in range(j0, end, KEYS):
                tile = tile_of(head.rule, run, j, min(KEYS, end - j), width, True)
                if tile.kind == HIDDEN:
                    continue
                s = rows.s + at * width
                at += tile.m
                if weighs == 0:
                    _score(call, head, tile, rows, s)
                else:
                    _weigh(problem, tile, rows.threshold, s)
                    use(call, run, rows, head, tile, s)
            count = at
    if not within_limit(problem, rows.top, run.n):
        operands[UNFIT] = 1


@inner
def _score(call, head, tile, rows, s):
    """Write the scores of a tile, -inf where hidden."""
    problem, operands, _ = call
    k = lines_of(operands, K, tile.b, key_head(problem, tile.h), tile.j0, s)
    multiply_keys(s, k, rows.q.start, problem.D, head.rule, tile)
    if _is_unfit(problem, s, head.rule, tile):
        operands[UNFIT] = 1
    finish_scores(s, head, tile, rows.slopes)
    for c in range(0, tile.width, lanes(s)):
        start, stop = keys_seen(head.rule, tile, c // GROUP * GROUP, GROUP)
        for r in range(start):
            store(s + (r * tile.width + c), splat(-np.inf, s))
        for r in range(stop, tile.m):
            store(s + (r * tile.width + c), splat(-np.inf, s))


@inner
def _is_unfit(problem, s, rule, tile):
    """Return whether a visible product says more than its dtype can.

    Under a threshold scores far below the largest don't matter. A sigmoid is told of each score
    itself, so that none may be beyond the LIMIT.
    """
    if problem.normalizer != SIGMOID:
        return overflows(s, rule, tile)
    if lanes(s) != LANES:  # nobody could do it better
        return False
    most = LIMIT / abs(problem.scale)
    peak = splat(0.0, s)
    for c in range(0, tile.width, lanes(s)):
        start, stop = keys_seen(rule, tile, c // GROUP * GROUP, GROUP)
        for r in range(start, stop):
            x = absolute(load(s + (r * tile.width + c)))
            peak = select(x <= peak, peak, x)  # NaN stays
    if tile.kind == FULL or not any_true(~(peak <= most)):
        return any_true(~(peak <= most))
    for i in range(tile.n):
        for j in range(tile.m):
            if visible(rule, tile.i0 + i, tile.j0 + j) and not abs(s[j * tile.width + i]) <= most:
                return True
    return False


@inner
def _settle(problem, rows, n, sink):
    """Turn ``n`` rows of scores into z, and find the threshold of each query."""
    s, width, whole = rows.s, rows.q.step, round_up(n, 4)
    fill(s + n * width, (whole - n) * width, -np.inf)
    for c in range(0, width, lanes(s)):
        top = load(rows.top + c)
        if problem.normalizer != SIGMOID:
            for r in range(n):
                top = maximum(top, load(s + (r * width + c)))
            store(rows.top + c, top)
        factor = measure_of(problem)
        for r in range(n):
            p = s + (r * width + c)
            store(p, argument(load(p), top, factor))
        own = argument(splat(sink, s), top, factor)
        store(rows.threshold + c, threshold(s + c, whole, width, own, problem))


@inner
def _weigh(problem, tile, thresholds, s):
    """Replace a tile of z by weights."""
    if problem.normalizer == SIGMOID:
        _weigh_by(tile, thresholds, s, by_sigmoid)
    elif problem.normalizer == SPARSEMAX:
        _weigh_by(tile, thresholds, s, by_sparsemax)
    elif problem.normalizer == ENTMAX15:
        _weigh_by(tile, thresholds, s, by_entmax15)


@inner
def _weigh_by(tile, thresholds, s, formula):
    for c in range(0, tile.width, lanes(s)):
        t = load(thresholds + c)
        for r in range(tile.m):
            p = s + (r * tile.width + c)
            store(p, formula(load(p), t)[0])
