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

from miniattn.kernels.attention.online import dlse_of, read_stats, weight_and_dscore
from miniattn.kernels.attention.problem import (
    DBIAS,
    DK,
    DOUT,
    DQ,
    DV,
    OUT,
    UNFIT,
    Problem,
    part_of,
    problem_of,
    step_of,
)
from miniattn.kernels.attention.scalar.pairs import (
    Query,
    add_multiple,
    clear,
    dropped,
    inner_product,
    query_of,
    scale_and_check,
    score_of,
    sees,
)
from miniattn.kernels.compile.queue import take
from miniattn.kernels.compile.settings import inner, task
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


@task
def backward(sizes, factors, operands, queue, scratch):
    """Write dq, dk and dv; where finite numbers led to others, the operands are UNFIT."""
    problem = problem_of(sizes, factors)
    piece = take(queue)
    while piece < problem.tasks:
        _key_head(problem, operands, piece // problem.G, piece % problem.G, scratch)
        piece = take(queue)


@task
def bias_backward(sizes, factors, operands, queue, scratch):
    """Add dscores into dbias, which is zero and of the bias's own, un-broadcast shape.

    A piece of work owns one batch row and head of dbias.
    """
    problem = problem_of(sizes, factors)
    batch = problem.B if step_of(operands, DBIAS, 0) != 0 else 1
    heads = problem.H if step_of(operands, DBIAS, 1) != 0 else 1
    piece = take(queue)
    while piece < problem.tasks:
        for b in range(piece // heads, problem.B, batch):
            for h in range(piece % heads, problem.H, heads):
                _add_to_bias(problem, operands, b, h, scratch)
        piece = take(queue)


def plan(problem: Problem, lanes: int) -> tuple[int, int]:
    """Return the pieces of work of `backward`, and the elements of scratch memory of a thread."""
    return problem.B * problem.G, 2


def plan_bias(problem: Problem, lanes: int, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the pieces of work of `bias_backward` for a bias of four axes, and scratch memory."""
    return shape[0] * shape[1], 2


@inner
def _key_head(problem, operands, b, g, scratch):
    """Write dk and dv of one key/value head, and dq of its queries."""
    D, Dv = problem.D, problem.Dv
    dk, dv = part_of(operands, DK, b, g, scratch), part_of(operands, DV, b, g, scratch)
    dk_row, dv_row = step_of(operands, DK, 2), step_of(operands, DV, 2)
    for j in range(problem.S):
        clear(dk + j * dk_row, D)
        clear(dv + j * dv_row, Dv)
    group = problem.H // problem.G
    for h in range(g * group, (g + 1) * group):
        dq, dq_row = part_of(operands, DQ, b, h, scratch), step_of(operands, DQ, 2)
        for i in range(problem.T):
            row = _row_of(problem, operands, b, h, i, scratch)
            _query(problem, operands, row, dq + i * dq_row, dk, dk_row, dv, dv_row)
    fits = True
    for j in range(problem.S):
        fits = scale_and_check(dk + j * dk_row, problem.scale, D) and fits
        fits = scale_and_check(dv + j * dv_row, 1.0, Dv) and fits
    if not fits:
        operands[UNFIT] = 1


@inner
def _row_of(problem, operands, b, h, i, scratch):
    """Return what there is of query ``i`` of a head."""
    dout = part_of(operands, DOUT, b, h, scratch) + i * step_of(operands, DOUT, 2)
    out = part_of(operands, OUT, b, h, scratch) + i * step_of(operands, OUT, 2)
    base, log_sum = scratch, scratch + 1
    read_stats(operands, b, h, i, 1, 1, base, log_sum)
    # tiled: delta = (dout[rows] * out[rows]).sum(axis=1)
    delta = inner_product(dout, out, problem.Dv) - dlse_of(operands, b, h, i, scratch)
    query = query_of(problem, operands, b, h, i, scratch)
    return Row(query, dout, single(base[0], base), single(log_sum[0], base), delta)


@inner
def _query(problem, operands, row, dq, dk, dk_row, dv, dv_row):
    """Write dq of one query, and add what it gives to dk and dv."""
    query, D, Dv = row.query, problem.D, problem.Dv
    clear(dq, D)
    for j in range(problem.S):
        if sees(query, j):
            pair = _gradients(problem, operands, row, j)
            ds = pair.dscore * pair.slope
            # tiled: dv[tile] += weight.T @ dout[rows]
            add_multiple(dv + j * dv_row, pair.weight, row.dout, Dv)
            # tiled: dq[rows] += scale * (ds @ k[tile])
            add_multiple(dq, ds, query.k + j * query.k_row, D)
            # tiled: dk[tile] += scale * (ds.T @ q[rows])
            add_multiple(dk + j * dk_row, ds, query.q, D)
    if not scale_and_check(dq, problem.scale, D):
        operands[UNFIT] = 1


@inner
def _gradients(problem, operands, row, j):
    """Return the `Gradients` of a query and a key that it sees."""
    query = row.query
    # tiled: s = scores(q[rows], k[tile], seen, scale)
    score, slope = score_of(problem, operands, query, j)
    # tiled: dweight = dout[rows] @ v[tile].T
    dweight = inner_product(row.dout, query.v + j * query.v_row, problem.Dv)
    dweight = dropped(dweight, query.head, query.i, j)
    # A bias may still hide the key.
    weight, dscore = weight_and_dscore(
        score, dweight, row.base, row.log_sum, row.delta, query.head.factor, True
    )
    return Gradients(dropped(weight, query.head, query.i, j), dscore, slope)


@inner
def _add_to_bias(problem, operands, b, h, scratch):
    """Add the dscores of one head to the part of dbias that it was given."""
    dbias = part_of(operands, DBIAS, b, h, scratch)
    i_step, j_step = step_of(operands, DBIAS, 2), step_of(operands, DBIAS, 3)
    for i in range(problem.T):
        row = _row_of(problem, operands, b, h, i, scratch)
        for j in range(problem.S):
            if sees(row.query, j):
                at = i * i_step + j * j_step
                dbias[at] = dbias[at] + number(_gradients(problem, operands, row, j).dscore)
