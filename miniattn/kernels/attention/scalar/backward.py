"""Attention backward in plain loops: weights are made again, one pair at a time.

With delta_i = sum_e dout_ie out_ie, for each key j that query i sees::

    P = exp((s - m) - log l)        dS = P (dout_i·v_j - delta_i)
    dv_j += P dout_i        dq_i += scale dS k_j        dk_j += scale dS q_i

One piece of work owns dk and dv of one key/value head, and dq of the heads that share it.

References
----------
Dao et al. "FlashAttention" (2022), appendix B.2.
"""

from typing import Any, NamedTuple

from miniattn.kernels.attention.functions import dtables_of, score_by_function_backward
from miniattn.kernels.attention.online import Stats, dlse_of, read_stats, weight_and_dscore
from miniattn.kernels.attention.operands import (
    DBIAS,
    DK,
    DOUT,
    DQ,
    DV,
    OUT,
    UNFIT,
    grid_of,
    lines_of,
    step_of,
)
from miniattn.kernels.attention.pieces import Call, Run
from miniattn.kernels.attention.problem import Problem, problem_of
from miniattn.kernels.attention.scalar.pairs import (
    Query,
    add_multiple,
    clear,
    dropped,
    inner_product,
    pair_of,
    query_of,
    scale_and_check,
    score_of,
    sees,
)
from miniattn.kernels.compile.queue import each_piece
from miniattn.kernels.compile.settings import inner, task
from miniattn.kernels.dense.places import entry, line
from miniattn.kernels.registers import registers
from miniattn.kernels.registers.single import number, single


class Row(NamedTuple):
    """What backward knows of one query: dout, and m as it is subtracted, log2 l, and delta."""

    query: Query
    dout: Any
    base: Any
    log_sum: Any
    delta: Any


class Gradients(NamedTuple):
    """What becomes of one pair: its weight, with dropout, and the gradient of its score."""

    weight: Any
    dscore: Any
    slope: Any
    """Of the softcap: what dscore is multiplied by on its way to q and k."""
    before: Any
    """The score that a user's function was given."""


@task
def backward(sizes, factors, operands, queue, scratch):
    """Write dq, dk and dv; where finite numbers led to others, the operands are UNFIT."""
    each_piece(queue, _key_head, Call(problem_of(sizes, factors), operands, scratch))


@task
def bias_backward(sizes, factors, operands, queue, scratch):
    """Add dscores into dbias, which is zero and of the bias's own, un-broadcast shape.

    A piece of work owns one batch row and head of dbias.
    """
    each_piece(queue, _add_heads, Call(problem_of(sizes, factors), operands, scratch))


def plan(problem: Problem, lanes: int) -> tuple[int, int]:
    """Return the pieces of work of `backward`, and the elements of scratch memory of a thread."""
    return problem.B * problem.G, 2


def plan_bias(problem: Problem, lanes: int, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the pieces of work of `bias_backward` for a bias of four axes, and scratch memory."""
    return shape[0] * shape[1], 2


@inner
def _key_head(call, piece):
    """Write dk and dv of one key/value head, and dq of its queries."""
    problem, operands, scratch = call
    b, g, group = piece // problem.G, piece % problem.G, problem.H // problem.G
    dk = lines_of(operands, DK, b, g, 0, scratch)
    dv = lines_of(operands, DV, b, g, 0, scratch)
    for j in range(problem.S):
        clear(line(dk, j), problem.D)
        clear(line(dv, j), problem.Dv)
    for h in range(g * group, (g + 1) * group):
        for i in range(problem.T):
            row = _row_of(problem, operands, b, h, i, scratch)
            dq = lines_of(operands, DQ, b, h, i, scratch).start
            _query(problem, operands, row, dq, dk, dv, dtables_of(operands, piece))
    fits = True
    for j in range(problem.S):
        fits = scale_and_check(line(dk, j), problem.scale, problem.D) and fits
        fits = scale_and_check(line(dv, j), 1.0, problem.Dv) and fits
    if not fits:
        operands[UNFIT] = 1


@inner
def _row_of(problem, operands, b, h, i, scratch):
    """Return what there is of query ``i`` of a head."""
    dout = lines_of(operands, DOUT, b, h, i, scratch).start
    out = lines_of(operands, OUT, b, h, i, scratch).start
    base, log_sum = scratch, scratch + 1
    read_stats(operands, Run(b, h, i, 1), 1, Stats(base, log_sum, base))
    # tiled: delta = (dout[rows] * out[rows]).sum(axis=1)
    delta = inner_product(dout, out, problem.Dv) - dlse_of(operands, b, h, i, scratch)
    query = query_of(problem, operands, b, h, i, scratch)
    return Row(query, dout, single(base[0], base), single(log_sum[0], base), delta)


@inner
def _query(problem, operands, row, dq, dk, dv, dtables):
    """Write dq of one query, and add what it gives to dk and dv."""
    query, D, Dv = row.query, problem.D, problem.Dv
    clear(dq, D)
    for j in range(problem.S):
        if sees(query, j):
            pair = _gradients(problem, operands, row, j)
            ds = _before_function(query, j, pair, dtables) * pair.slope
            # tiled: dv[tile] += weight.T @ dout[rows]
            add_multiple(line(dv, j), pair.weight, row.dout, Dv)
            # tiled: dq[rows] += scale * (ds @ k[tile])
            add_multiple(dq, ds, line(query.k, j), D)
            # tiled: dk[tile] += scale * (ds.T @ q[rows])
            add_multiple(line(dk, j), ds, query.q, D)
    if not scale_and_check(dq, problem.scale, D):
        operands[UNFIT] = 1


@inner
def _before_function(query, j, pair, dtables):
    """Return the gradient of the score that a user's function was given; add to its tables'."""
    if query.head.scored:
        place, before = registers(1, query.q), registers(1, query.q)
        place[0], before[0] = number(pair.dscore), number(pair.before)
        tile = pair_of(query, j)
        score_by_function_backward(place, before, query.head.door, query.head.rule, tile, dtables)
        return single(place[0], query.q)
    return pair.dscore


@inner
def _gradients(problem, operands, row, j):
    """Return the `Gradients` of a query and a key that it sees."""
    query = row.query
    # tiled: s = scores(q[rows], k[tile], seen, scale)
    score, slope, before = score_of(problem, operands, query, j)
    # tiled: dweight = dout[rows] @ v[tile].T
    dweight = inner_product(row.dout, line(query.v, j), problem.Dv)
    dweight = dropped(dweight, query.head, query.i, j)
    # A bias may still hide the key.
    weight, dscore = weight_and_dscore(
        score, dweight, row.base, row.log_sum, row.delta, query.head.factor, True
    )
    return Gradients(dropped(weight, query.head, query.i, j), dscore, slope, before)


@inner
def _add_heads(call, piece):
    """Add the dscores of all heads to which a piece of the bias was broadcast."""
    problem, operands, scratch = call
    batch = problem.B if step_of(operands, DBIAS, 0) != 0 else 1
    heads = problem.H if step_of(operands, DBIAS, 1) != 0 else 1
    for b in range(piece // heads, problem.B, batch):
        for h in range(piece % heads, problem.H, heads):
            _add_to_bias(problem, operands, b, h, scratch)


@inner
def _add_to_bias(problem, operands, b, h, scratch):
    """Add the dscores of one head to the part of dbias that it was given."""
    dbias = grid_of(operands, DBIAS, b, h, scratch)
    for i in range(problem.T):
        row = _row_of(problem, operands, b, h, i, scratch)
        for j in range(problem.S):
            if sees(row.query, j):
                place = entry(dbias, i, j)
                place[0] = place[0] + number(_gradients(problem, operands, row, j).dscore)
