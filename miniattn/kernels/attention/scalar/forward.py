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

from miniattn.kernels.attention.online import power, raised, share_of, write_stats
from miniattn.kernels.attention.problem import OUT, UNFIT, Problem, part_of, problem_of, step_of
from miniattn.kernels.attention.scalar.pairs import (
    add_multiple,
    clear,
    dropped,
    query_of,
    scale_and_check,
    score_of,
    sees,
)
from miniattn.kernels.compile.queue import take
from miniattn.kernels.compile.settings import inner, task
from miniattn.kernels.registers import fma
from miniattn.kernels.registers.single import number, single


@task
def forward(sizes, factors, operands, queue, scratch):
    """Write what `vector.forward.forward` does; arguments as there."""
    problem = problem_of(sizes, factors)
    piece = take(queue)
    while piece < problem.tasks:
        i, head = piece % problem.T, piece // problem.T
        _query(problem, operands, head // problem.H, head % problem.H, i, scratch)
        piece = take(queue)


def plan(problem: Problem, lanes: int) -> tuple[int, int]:
    """Return the pieces of work of a call, and the elements of scratch memory of a thread."""
    return problem.B * problem.H * problem.T, 2


@inner
def _query(problem, operands, b, h, i, scratch):
    """Compute the output of one query."""
    query = query_of(problem, operands, b, h, i, scratch)
    factor = query.head.factor
    out = part_of(operands, OUT, b, h, scratch) + i * step_of(operands, OUT, 2)
    top, total = scratch, scratch + 1
    top[0], total[0] = -np.inf, 0.0
    clear(out, problem.Dv)
    for j in range(problem.S):
        if not sees(query, j):
            continue
        score, _ = score_of(problem, operands, query, j)
        if number(score) == -np.inf:
            continue
        # tiled: old, top = top, np.maximum(top, s.max(axis=1))
        new, base, decay = raised(single(top[0], top), score, factor)
        # tiled: weight = np.exp(s - base[:, None])
        weight = power(score, base, factor)
        # tiled: total = decay * total + weight.sum(axis=1)
        total[0] = number(fma(decay, total[0], weight))
        top[0] = number(new)
        # tiled: o = decay[:, None] * o + weight @ v[tile]
        if number(decay) != 1.0:
            scale_and_check(out, number(decay), problem.Dv)
        v = query.v + j * query.v_row
        add_multiple(out, dropped(weight, query.head, i, j), v, problem.Dv)
    # tiled: share = np.divide(1.0, total, where=seen, out=np.zeros_like(total))
    if not scale_and_check(out, share_of(total[0], top[0]), problem.Dv):
        operands[UNFIT] = 1
    write_stats(problem, operands, b, h, i, 1, top, total)
