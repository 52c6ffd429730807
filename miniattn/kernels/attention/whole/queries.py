"""The gradients of scores where softmax didn't make the weights; see `normalizers`.

Weights are made again from a row's largest score and its threshold. What holds the sum of a row at
1, ``delta = Σ_j u_j dP_j / Σ_j u_j``, is no product of dout and out, as softmax's is: it takes a
walk over the keys of its own, with two products a tile.
"""

import numpy as np

from miniattn.kernels.attention.masking import GROUP, HIDDEN, keys_seen
from miniattn.kernels.attention.online import start_of, stats_from
from miniattn.kernels.attention.problem import ENTMAX15, SIGMOID, SPARSEMAX
from miniattn.kernels.attention.scores import drop
from miniattn.kernels.attention.vector.forward import KEYS
from miniattn.kernels.attention.vector.queries import (
    first_tile,
    last_tile,
    pad_keys,
    query_tile,
    scores_and_dweights,
)
from miniattn.kernels.attention.vector.queries import prepare as prepare_queries
from miniattn.kernels.attention.whole.normalizers import (
    argument,
    by_entmax15,
    by_sigmoid,
    by_sparsemax,
    measure_of,
)
from miniattn.kernels.compile.settings import inner
from miniattn.kernels.dense.panels import fill
from miniattn.kernels.registers import lanes, load, select, splat, store


@inner
def prepare(problem, operands, run, start):
    """Return `vector.queries.prepare`, with the deltas of these normalizers.

    A row's width of memory behind the room of the queries is used on the way.
    """
    queries = prepare_queries(problem, operands, run, start)
    room = queries.room
    fill(room.stats.delta, room.width, 0.0)
    if problem.normalizer == SPARSEMAX:
        _find_deltas(problem, operands, queries, by_sparsemax)
    elif problem.normalizer == ENTMAX15:
        _find_deltas(problem, operands, queries, by_entmax15)
    return queries


@inner
def _find_deltas(problem, operands, queries, formula):
    """Compute delta for each query."""
    room, w = queries.room, lanes(queries.room.s)
    delta, total = room.stats.delta, room.end
    sink, factor = start_of(operands, queries.run.h, room.s)[0], measure_of(problem)
    for c in range(0, room.width, w):
        base, t, _ = stats_from(room.stats, c)
        store(total + c, formula(argument(splat(sink, delta), load(base), factor), load(t))[1])
    stop = last_tile(problem, queries)
    for j0 in range(first_tile(queries), stop, KEYS):
        tile = query_tile(queries, j0, min(KEYS, stop - j0))
        if tile.kind != HIDDEN:
            scores_and_dweights(problem, queries, tile)
            _add_slopes(problem, queries, tile, total, formula)
    for c in range(0, room.width, w):
        share = load(total + c)
        store(delta + c, select(share == 0.0, 0.0, load(delta + c) / share))


@inner
def _add_slopes(problem, queries, tile, total, formula):
    """Add a tile's slopes to ``total``, and their products with dweights to delta."""
    room, factor = queries.room, measure_of(problem)
    for c in range(0, tile.width, lanes(room.s)):
        start, stop = keys_seen(queries.head.rule, tile, c // GROUP * GROUP, GROUP)
        base, t, delta = stats_from(room.stats, c)
        top, least = load(base), load(t)
        slopes = products = splat(0.0, room.s)
        for r in range(start, stop):
            at = r * tile.width + c
            score, dweight = load(room.s + at), load(room.ds + at)
            slope = formula(argument(score, top, factor), least)[1]
            slopes = slopes + slope
            products = products + select(score == -np.inf, 0.0, slope * dweight)
        store(total + c, load(total + c) + slopes)
        store(delta, load(delta) + products)


@inner
def score_gradients(problem, queries, tile):
    """Do what `vector.queries.score_gradients` does."""
    scores_and_dweights(problem, queries, tile)
    if problem.normalizer == SIGMOID:
        _weigh(problem, queries, tile, by_sigmoid)
    elif problem.normalizer == SPARSEMAX:
        _weigh(problem, queries, tile, by_sparsemax)
    elif problem.normalizer == ENTMAX15:
        _weigh(problem, queries, tile, by_entmax15)
    if queries.head.dropout > 0.0:
        drop(queries.room.s, queries.head, tile)
    pad_keys(queries.room, tile)


@inner
def _weigh(problem, queries, tile, formula):
    """Turn scores into weights, and dweights into dscores."""
    room, factor = queries.room, measure_of(problem)
    s, ds = room.s, room.ds
    for c in range(0, tile.width, lanes(s)):
        start, stop = keys_seen(queries.head.rule, tile, c // GROUP * GROUP, GROUP)
        base, t, delta = stats_from(room.stats, c)
        top, least, mean = load(base), load(t), load(delta)
        for r in range(start, stop):
            at = r * tile.width + c
            score, dweight = load(s + at), load(ds + at)
            weight, slope = formula(argument(score, top, factor), least)
            store(s + at, weight)
            store(ds + at, select(score == -np.inf, 0.0, slope * (dweight - mean)))
