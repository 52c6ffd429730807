"""Attention backward, by hand: weights are recomputed from m and log l, never stored.

With P the weights of one head, delta_i = sum_e dout_ie out_ie and dP = dout v^T::

    P = exp((S - m) - log l)
    dv = P^T dout        dS = P * (dP - delta)        dq = scale dS k        dk = scale dS^T q

One piece of work owns dk and dv of one key/value head (see `sums`). It walks over its runs of 64
queries, each of which owns its rows of dq, and over tiles of 64 keys: five products per tile, in
one pass. The first two make P and dS (see `queries`); the others are added here.

As in the forward direction, scores and their gradients are kept keys x queries. K and V are read
in place; q and dout are packed once per run of queries, transposed.

References
----------
Dao et al. "FlashAttention" (2022), appendix B.2; Dao. "FlashAttention-2" (2023), section 3.1.2.
"""

from miniattn.kernels.attention.functions import dtables_of, score_by_function_backward
from miniattn.kernels.attention.masking import HIDDEN, PARTIAL
from miniattn.kernels.attention.online import add_visible
from miniattn.kernels.attention.operands import DQ, UNFIT, lines_of
from miniattn.kernels.attention.pieces import Call, key_head
from miniattn.kernels.attention.problem import Problem, problem_of
from miniattn.kernels.attention.vector.forward import KEYS, QUERIES
from miniattn.kernels.attention.vector.products import add_to_keys, multiply_queries
from miniattn.kernels.attention.vector.queries import (
    first_tile,
    last_tile,
    lay_out,
    prepare,
    query_tile,
    score_gradients,
)
from miniattn.kernels.attention.vector.sums import Share, Sums, beside_sums, sum_runs
from miniattn.kernels.compile.queue import each_piece
from miniattn.kernels.compile.settings import inner, task
from miniattn.kernels.dense.panels import fill, is_finite, multiply_elements, pack, write_rows
from miniattn.kernels.dense.places import Grid, by_column, by_row, lines_from
from miniattn.kernels.registers import lanes


@task
def backward(sizes, factors, operands, queue, scratch):
    """Write dq, dk and dv; where finite numbers led to others, the operands are UNFIT.

    ``problem.parts`` says among how many pieces of work the runs of queries of one key/value head
    are dealt. Where they are several, they leave their sums to `sums.add_sums`. Arguments: as in
    `vector.forward.forward`.
    """
    call = Call(problem_of(sizes, factors), operands, scratch)
    room = beside_sums(call.problem, lanes(scratch), scratch)
    each_piece(queue, sum_runs, Share(call, QUERIES, _add_run, room))


def plan(problem: Problem, lanes: int) -> tuple[int, int]:
    """Return the pieces of work of `backward`, and the elements of scratch memory of a thread."""
    scratch = lay_out(problem, QUERIES, lanes, beside_sums(problem, lanes, 0)).end
    return problem.B * problem.G * problem.parts, scratch


@inner
def _add_run(call, run, sums, start):
    """Write dq of a run of queries, and add what it gives to dk and dv."""
    problem, operands, _ = call
    queries = prepare(problem, operands, run, start)
    _add_gradients(problem, queries, sums, dtables_of(operands, piece_of(problem, run)))
    dq = lines_of(operands, DQ, run.b, run.h, run.i0, start)
    if not write_rows(dq, queries.room.dq, run.n, problem.D, problem.scale):
        operands[UNFIT] = 1


@inner
def piece_of(problem, run):
    """Return the number of the piece of work that a run of queries belongs to."""
    part = run.i0 // QUERIES % problem.parts
    return (run.b * problem.G + key_head(problem, run.h)) * problem.parts + part


@inner
def _add_gradients(problem, queries, sums, dtables):
    """Add what some queries give to dk and dv, and leave the sums of their dq in their room."""
    dq = queries.room.dq
    fill(dq.start, queries.room.width * dq.step, 0.0)
    stop = last_tile(problem, queries)
    for j0 in range(first_tile(queries), stop, KEYS):
        tile = query_tile(queries, j0, min(KEYS, stop - j0))
        if tile.kind == HIDDEN:
            continue
        score_gradients(problem, queries, tile)
        add_tile(problem, queries, tile, sums, dtables)


@inner
def add_tile(problem, queries, tile, sums, dtables):
    """Add what a tile's weights and dscores give to dk, dv and dq, and to tables' gradients."""
    room, D, head, m = queries.room, problem.D, queries.head, tile.m
    rule = head.rule
    if head.scored:
        score_by_function_backward(room.ds, room.before, head.door, rule, tile, dtables)
    if head.softcap > 0.0:
        multiply_elements(room.ds, room.slopes, m * room.width)
    k, own = lines_from(queries.k, tile.j0), _sums_from(sums, tile.j0)
    if tile.kind == PARTIAL and not (queries.is_finite and is_finite(k, m, D)):
        _add_visible(problem, queries, tile, k, own)
        return
    if room.k.step != D:
        pack(room.k, k, m, D)
        k = room.k
    # tiled: dv[tile] += weight.T @ dout[rows]
    add_to_keys(own.dv, room.s, queries.dout, rule, tile)
    # tiled: dk[tile] += scale * (ds.T @ q[rows])
    add_to_keys(own.dk, room.ds, queries.q, rule, tile)
    # tiled: dq[rows] += scale * (ds @ k[tile])
    multiply_queries(room.dq, room.ds, k, rule, tile, True)


@inner
def _sums_from(sums, j):
    """Return the `Sums` from key ``j`` on."""
    return Sums(lines_from(sums.dk, j), lines_from(sums.dv, j), sums.end)


@inner
def _add_visible(problem, queries, tile, k, sums):
    """Add a tile pair by pair, where NaN or infinity must not pass through a hidden pair."""
    rule, room, D = queries.head.rule, queries.room, problem.D
    weights, dscores = Grid(room.s, 1, tile.width), Grid(room.ds, 1, tile.width)
    q, dout = by_row(queries.q), by_row(queries.dout)
    add_visible(by_column(sums.dv), weights, dout, problem.Dv, rule, tile)
    add_visible(by_column(sums.dk), dscores, q, D, rule, tile)
    add_visible(by_row(room.dq), dscores, by_column(k), D, rule, tile)
