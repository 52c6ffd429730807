"""The weights of other normalizers than softmax, whole or pooled; see `attention.weights`."""

from miniattn.kernels.attention.operands import OUT, lines_of
from miniattn.kernels.attention.pieces import Call, Run
from miniattn.kernels.attention.problem import Problem, problem_of
from miniattn.kernels.attention.weights import Way, add_rows, add_to_bins, pieces_of
from miniattn.kernels.attention.whole.rows import lay_out, queries_of, weigh_keys
from miniattn.kernels.compile.queue import each_piece
from miniattn.kernels.compile.settings import inner, task
from miniattn.kernels.registers import lanes


@task
def attention_map(sizes, factors, operands, queue, scratch):
    """Add the map of each batch row and head to the operand OUT, which is zero."""
    call = Call(problem_of(sizes, factors), operands, scratch)
    each_piece(queue, add_rows, Way(call, _add_weights))


def plan(problem: Problem, lanes: int) -> tuple[int, int]:
    """Return the pieces of work of a call, and the elements of scratch memory of a thread."""
    rows = lay_out(problem, queries_of(problem), lanes, 0)
    return pieces_of(problem), rows.own + rows.q.step


@inner
def _add_weights(call, run):
    """Add the weights of a run of queries to their bins."""
    size = queries_of(call.problem)
    for i in range(0, run.n, size):
        some = Run(run.b, run.h, run.i0 + i, min(size, run.n - i))
        rows = lay_out(call.problem, some.n, lanes(call.scratch), call.scratch)
        weigh_keys(call, some, rows, _add_tile)


@inner
def _add_tile(call, run, rows, head, tile, weights):
    """Add the weights of a tile."""
    out = lines_of(call.operands, OUT, run.b, run.h, 0, weights)
    add_to_bins(call.problem, tile, weights, rows.own, out)
