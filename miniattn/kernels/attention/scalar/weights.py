"""Attention weights, whole or pooled, in plain loops: what `attention.weights` does, pair by pair.

One piece of work owns one row of bins, and walks over its queries: once over the keys that a query
sees for the maximum and the sum, as in `forward`, and once more for the weights.
"""

import numpy as np

from miniattn.kernels.attention.online import base_of, power, share_of, start_of, within_limit
from miniattn.kernels.attention.operands import OUT, UNFIT, lines_of
from miniattn.kernels.attention.pieces import Call, bin_of, first_of
from miniattn.kernels.attention.problem import Problem, problem_of
from miniattn.kernels.attention.scalar.pairs import query_of, score_of, sees, take_in
from miniattn.kernels.compile.queue import each_piece
from miniattn.kernels.compile.settings import inner, task
from miniattn.kernels.registers.single import number, single


@task
def attention_map(sizes, factors, operands, queue, scratch):
    """Add the map of each batch row and head to OUT, which is zero; as `weights.attention_map`."""
    each_piece(queue, _add_row, Call(problem_of(sizes, factors), operands, scratch))


def plan(problem: Problem, lanes: int) -> tuple[int, int]:
    """Return the pieces of work of a call, and the elements of scratch memory of a thread."""
    return problem.B * problem.H * problem.rows, 2


@inner
def _add_row(call, piece):
    """Add the weights of the queries of one row of bins."""
    problem, operands, scratch = call
    T, rows = problem.T, problem.rows
    head, row = piece // rows, piece % rows
    b, h = head // problem.H, head % problem.H
    out = lines_of(operands, OUT, b, h, row, scratch).start
    start, stop = first_of(row, T, rows), first_of(row + 1, T, rows)
    for i in range(start, stop):
        query = query_of(problem, operands, b, h, i, scratch)
        _add_weights(problem, operands, query, scratch, out, stop - start)


@inner
def _add_weights(problem, operands, query, scratch, out, members):
    """Add the weights of one query to a row of bins; it is one of so many ``members``."""
    top, total = scratch, scratch + 1
    top[0], total[0] = start_of(operands, query.h, scratch)
    for j in range(problem.S):
        if sees(query, j):
            score, _, _ = score_of(problem, operands, query, j)
            take_in(score, query.head.factor, top, total)
    if not within_limit(problem, top, 1):
        operands[UNFIT] = 1
    base, share = base_of(single(top[0], top)), share_of(total[0], top[0])
    for j in range(problem.S):
        if sees(query, j):
            score, _, _ = score_of(problem, operands, query, j)
            if number(score) != -np.inf:
                weight = number(power(score, base, query.head.factor)) * share
                place = out + bin_of(j, problem.S, problem.columns)
                place[0] = place[0] + weight / members
