"""Attention forward under sigmoid, sparsemax or entmax-1.5, without a T x S array.

One piece of work owns the output rows of 64 queries of one head. Their scores with all keys are
made and held, their weights are found (see `rows`), and values are added by them, tile by tile.
What is left of a row for backward are its largest score and its threshold: STATS.

References
----------
Gonçalves et al. "AdaSplash: adaptive sparse flash attention" (2025), section 3.
"""

from typing import Any, NamedTuple

from miniattn.kernels.attention.operands import OUT, UNFIT, V, lines_of, stats_of
from miniattn.kernels.attention.pieces import Call, key_head, run_of_piece, runs_of
from miniattn.kernels.attention.problem import Problem, problem_of
from miniattn.kernels.attention.scores import drop
from miniattn.kernels.attention.vector.forward import KEYS, add_values
from miniattn.kernels.attention.whole.rows import lay_out, queries_of, weigh_keys
from miniattn.kernels.compile.queue import each_piece
from miniattn.kernels.compile.settings import inner, task
from miniattn.kernels.dense.panels import fill, round_up, write_rows
from miniattn.kernels.dense.places import Lines
from miniattn.kernels.registers import lanes, load, store_first


@task
def forward(sizes, factors, operands, queue, scratch):
    """Write out, the largest score of each row and its threshold; no lse, which there is none of.

    Where finite numbers led to others, the operands are UNFIT. Arguments: as in
    `vector.forward.forward`.
    """
    each_piece(queue, _attend, Call(problem_of(sizes, factors), operands, scratch))


def plan(problem: Problem, lanes: int) -> tuple[int, int]:
    """Return the pieces of work of a call, and the elements of scratch memory of a thread."""
    n = queries_of(problem)
    rows = lay_out(problem, n, lanes, 0)
    pieces = problem.B * problem.H * runs_of(problem, n)
    return pieces, _sums_at(problem, rows.q.step, lanes, rows.own).end


class Sums(NamedTuple):
    """The sums of values of some queries."""

    o: Lines
    v: Lines
    """A tile of values, where whole vectors of them cannot be read in place."""
    end: Any


@inner
def _sums_at(problem, width, w, start):
    """Return the `Sums` from ``start`` on."""
    step = round_up(problem.Dv, w)
    v = start + width * step
    return Sums(Lines(start, step), Lines(v, step), v + KEYS * step)


@inner
def _attend(call, piece):
    """Compute the output of one run of queries."""
    problem, operands, scratch = call
    size = queries_of(problem)
    run = run_of_piece(problem, piece, size)
    rows = lay_out(problem, run.n, lanes(scratch), scratch)
    sums = _sums_at(problem, rows.q.step, lanes(scratch), rows.own)
    fill(sums.o.start, rows.q.step * sums.o.step, 0.0)
    weigh_keys(call, run, rows, _add_tile)
    out = lines_of(operands, OUT, run.b, run.h, run.i0, scratch)
    if not write_rows(out, sums.o, run.n, problem.Dv, 1.0):
        operands[UNFIT] = 1
    tops = stats_of(operands, 0, run.b, run.h, scratch) + run.i0
    thresholds = stats_of(operands, 1, run.b, run.h, scratch) + run.i0
    for i in range(0, run.n, lanes(scratch)):
        store_first(tops + i, load(rows.top + i), run.n - i)
        store_first(thresholds + i, load(rows.threshold + i), run.n - i)


@inner
def _add_tile(call, run, rows, head, tile, weights):
    """Add a tile's values by their weights."""
    problem, operands, _ = call
    sums = _sums_at(problem, rows.q.step, lanes(weights), rows.own)
    if head.dropout > 0.0:
        drop(weights, head, tile)
    v = lines_of(operands, V, run.b, key_head(problem, run.h), tile.j0, weights)
    add_values(problem, sums, weights, head.rule, tile, v, False)
