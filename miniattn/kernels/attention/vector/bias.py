"""The gradient of a bias: dscores, summed over everything that the bias was broadcast to."""

from typing import Any, NamedTuple

from miniattn.kernels.attention.masking import GROUP, HIDDEN, keys_seen
from miniattn.kernels.attention.operands import DBIAS, grid_of, step_of
from miniattn.kernels.attention.pieces import Call, run_of, runs_of
from miniattn.kernels.attention.problem import Problem, problem_of
from miniattn.kernels.attention.vector.forward import KEYS, QUERIES
from miniattn.kernels.attention.vector.queries import (
    first_tile,
    last_tile,
    lay_out,
    prepare,
    query_tile,
    score_gradients,
)
from miniattn.kernels.compile.queue import each_piece
from miniattn.kernels.compile.settings import inner, task
from miniattn.kernels.dense.places import entry
from miniattn.kernels.registers import (
    LANES,
    lanes,
    load,
    load_first,
    registers,
    store_first,
    transpose,
)


@task
def bias_backward(sizes, factors, operands, queue, scratch):
    """Add dscores into dbias, which is zero and of the bias's own, un-broadcast shape.

    Each piece of work owns one batch row, head and (where the bias has them) run of queries of
    dbias, and walks over everything that was broadcast from it, in order. That takes the first two
    products of `backward` again, only where a bias was given.
    """
    call = Call(problem_of(sizes, factors), operands, scratch)
    each_piece(queue, add_piece, Way(call, prepare, score_gradients))


class Way(NamedTuple):
    """A call, and how its dscores are made: by these two functions of `queries`, or their like."""

    call: Call
    prepare: Any
    score_gradients: Any


def plan(problem: Problem, lanes: int, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the pieces of work for a bias of four axes, and the scratch memory of a thread."""
    runs = runs_of(problem, QUERIES) if shape[2] > 1 else 1
    return shape[0] * shape[1] * runs, lay_out(problem, QUERIES, lanes, 0).end


@inner
def add_piece(way, piece):
    """Add what a piece of dbias was broadcast to."""
    problem, operands, scratch = way.call
    batch = problem.B if step_of(operands, DBIAS, 0) != 0 else 1
    heads = problem.H if step_of(operands, DBIAS, 1) != 0 else 1
    all_runs = runs_of(problem, QUERIES)
    runs = all_runs if step_of(operands, DBIAS, 2) != 0 else 1
    own, number = piece // runs, piece % runs
    for b in range(own // heads, problem.B, batch):
        for h in range(own % heads, problem.H, heads):
            dbias = grid_of(operands, DBIAS, b, h, scratch)
            for n in range(number, all_runs, runs):
                run = run_of(problem, b, h, n, QUERIES)
                queries = way.prepare(problem, operands, run, scratch)
                _add_run(problem, queries, dbias, way.score_gradients)


@inner
def _add_run(problem, queries, dbias, score_gradients):
    """Add the dscores of some queries to dbias."""
    w = lanes(dbias.start)
    stop = last_tile(problem, queries)
    for j0 in range(first_tile(queries), stop, KEYS):
        tile = query_tile(queries, j0, min(KEYS, stop - j0))
        if tile.kind == HIDDEN:
            continue
        score_gradients(problem, queries, tile)
        for c in range(0, queries.run.n, w):
            start, end = keys_seen(queries.head.rule, tile, c // GROUP * GROUP, GROUP)
            for r in range(start, end, w):
                _add_turned(dbias, queries.room.ds, tile, c, r, min(w, end - r))


@inner
def _add_turned(dbias, ds, tile, c, r, keys):
    """Add the dscores of a vector of queries and of as many keys, or fewer."""
    w = lanes(ds)
    turned = registers(LANES, ds)
    transpose(turned, w, ds + (r * tile.width + c), tile.width, keys)
    for i in range(min(w, tile.n - c)):
        p = entry(dbias, tile.i0 + c + i, tile.j0 + r)
        if dbias.across == 1:
            store_first(p, load_first(p, keys) + load(turned + i * w), keys)
        else:  # the bias is the same for all keys
            for j in range(keys):
                at = j * dbias.across
                p[at] = p[at] + turned[i * w + j]
