"""Attention forward in plain loops: for each query, for each visible key, one score at a time.

What a kernel of attention has to do, without what makes it fast. There are no tiles and no vector
registers; operands, masks and the online softmax are those of the other units::

    for each key j that query i sees:
        s = cap(scale q_i·k_j) + bias_ij
        m' = max(m, s)
        l = l exp(m - m') + exp(s - m')
        o = o exp(m - m') + exp(s - m') v_j
        m = m'
    out_i = o / l
    lse_i = m + log l

Tests compare every other unit with it. One piece of work owns the output row of one query.

References
----------
Milakov, Gimelshein. "Online normalizer calculation for softmax" (2018), algorithm 3.
"""

import numpy as np

from miniattn.kernels.attention.online import share_of, start_of, write_stats
from miniattn.kernels.attention.operands import OUT, UNFIT, lines_of
from miniattn.kernels.attention.pieces import Call, Run
from miniattn.kernels.attention.problem import Problem, problem_of
from miniattn.kernels.attention.scalar.pairs import (
    add_multiple,
    clear,
    dropped,
    query_of,
    scale_and_check,
    score_of,
    sees,
    take_in,
)
from miniattn.kernels.compile.queue import each_piece
from miniattn.kernels.compile.settings import inner, task
from miniattn.kernels.dense.places import line
from miniattn.kernels.registers.single import number


@task
def forward(sizes, factors, operands, queue, scratch):
    """Write what `vector.forward.forward` does; arguments as there."""
    each_piece(queue, _query, Call(problem_of(sizes, factors), operands, scratch))


def plan(problem: Problem, lanes: int) -> tuple[int, int]:
    """Return the pieces of work of a call, and the elements of scratch memory of a thread."""
    return problem.B * problem.H * problem.T, 2


@inner
def _query(call, piece):
    """Compute the output of one query."""
    problem, operands, scratch = call
    i, head = piece % problem.T, piece // problem.T
    b, h = head // problem.H, head % problem.H
    query = query_of(problem, operands, b, h, i, scratch)
    factor = query.head.factor
    out = lines_of(operands, OUT, b, h, i, scratch).start
    top, total = scratch, scratch + 1
    top[0], total[0] = start_of(operands, h, scratch)
    clear(out, problem.Dv)
    for j in range(problem.S):
        if not sees(query, j):
            continue
        score, _, _ = score_of(problem, operands, query, j)
        if number(score) == -np.inf:
            continue
        weight, decay = take_in(score, factor, top, total)
        # tiled: o = decay[:, None] * o + weight @ v[tile]
        if number(decay) != 1.0:
            scale_and_check(out, number(decay), problem.Dv)
        add_multiple(out, dropped(weight, query.head, i, j), line(query.v, j), problem.Dv)
    # tiled: share = np.divide(1.0, total, where=seen, out=np.zeros_like(total))
    if not scale_and_check(out, share_of(total[0], top[0]), problem.Dv):
        operands[UNFIT] = 1
    write_stats(problem, operands, Run(b, h, i, 1), top, total)
