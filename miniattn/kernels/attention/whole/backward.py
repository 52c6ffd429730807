"""Attention backward under sigmoid, sparsemax or entmax-1.5.

The walk, the products and the sums are those of `vector.backward`; weights and the gradients of
scores are made by `queries`. Runs are of 64 queries whatever their rows' length: no row is held.
"""

from miniattn.kernels.attention.functions import dtables_of
from miniattn.kernels.attention.masking import HIDDEN
from miniattn.kernels.attention.operands import DELTA, DQ, UNFIT, given, lines_of, part_of
from miniattn.kernels.attention.pieces import Call
from miniattn.kernels.attention.problem import Problem, problem_of
from miniattn.kernels.attention.vector import backward as vector
from miniattn.kernels.attention.vector import bias
from miniattn.kernels.attention.vector.backward import add_tile, piece_of
from miniattn.kernels.attention.vector.bias import Way, add_piece
from miniattn.kernels.attention.vector.forward import KEYS, QUERIES, row_width
from miniattn.kernels.attention.vector.queries import first_tile, last_tile, query_tile
from miniattn.kernels.attention.vector.sums import Share, beside_sums, sum_runs
from miniattn.kernels.attention.whole.queries import prepare, score_gradients
from miniattn.kernels.compile.queue import each_piece
from miniattn.kernels.compile.settings import inner, task
from miniattn.kernels.dense.panels import fill, write_rows
from miniattn.kernels.registers import lanes, load, store_first


@task
def backward(sizes, factors, operands, queue, scratch):
    """Do what `vector.backward.backward` does, and write the operand DELTA where it is given."""
    call = Call(problem_of(sizes, factors), operands, scratch)
    room = beside_sums(call.problem, lanes(scratch), scratch)
    each_piece(queue, sum_runs, Share(call, QUERIES, _add_run, room))


@task
def bias_backward(sizes, factors, operands, queue, scratch):
    """Do what `vector.bias.bias_backward` does."""
    call = Call(problem_of(sizes, factors), operands, scratch)
    each_piece(queue, add_piece, Way(call, prepare, score_gradients))


def plan(problem: Problem, lanes: int) -> tuple[int, int]:
    """Return the pieces of work of `backward`, and the elements of scratch memory of a thread."""
    pieces, scratch = vector.plan(problem, lanes)
    return pieces, scratch + row_width(QUERIES, lanes)


def plan_bias(problem: Problem, lanes: int, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the same of `bias_backward` for a bias of four axes."""
    pieces, scratch = bias.plan(problem, lanes, shape)
    return pieces, scratch + row_width(QUERIES, lanes)


@inner
def _add_run(call, run, sums, start):
    """Write dq of a run of queries, and add what it gives to dk and dv."""
    problem, operands, _ = call
    queries = prepare(problem, operands, run, start)
    room = queries.room
    if given(operands, DELTA):
        target = part_of(operands, DELTA, run.b, run.h, start) + run.i0
        for i in range(0, run.n, lanes(start)):
            store_first(target + i, load(room.stats.delta + i), run.n - i)
    fill(room.dq.start, room.width * room.dq.step, 0.0)
    stop = last_tile(problem, queries)
    for j0 in range(first_tile(queries), stop, KEYS):
        tile = query_tile(queries, j0, min(KEYS, stop - j0))
        if tile.kind != HIDDEN:
            score_gradients(problem, queries, tile)
            add_tile(problem, queries, tile, sums, dtables_of(operands, piece_of(problem, run)))
    dq = lines_of(operands, DQ, run.b, run.h, run.i0, start)
    if not write_rows(dq, room.dq, run.n, problem.D, problem.scale):
        operands[UNFIT] = 1
