"""The sums dk and dv of a key/value head: who adds to them, where they are, who writes them.

One piece of work of a backward kernel owns dk and dv of one key/value head and walks over the runs
of queries of all heads that share it. Where there are few such heads, the runs of one are dealt to
several pieces, as the shape alone decides; each has `Sums` of its own in the operand SUMS, which
`add_sums` then adds in order: the same bits for any number of threads. A single one keeps them in
scratch memory.
"""

from typing import Any, NamedTuple

from miniattn.kernels.attention.operands import DK, DV, SUMS, UNFIT, lines_of, part_of, step_of
from miniattn.kernels.attention.pieces import Call, run_of, runs_of
from miniattn.kernels.attention.problem import Problem, problem_of
from miniattn.kernels.attention.vector.forward import KEYS
from miniattn.kernels.compile.queue import each_piece
from miniattn.kernels.compile.settings import inner, task
from miniattn.kernels.dense.panels import add, fill, round_up, write_rows
from miniattn.kernels.dense.places import Lines, lines_from
from miniattn.kernels.registers import lanes


class Sums(NamedTuple):
    """The sums dk and dv of one key/value head, in rows of whole vectors."""

    dk: Lines
    dv: Lines
    end: Any


@inner
def sums_at(problem, w, start):
    """Return the `Sums` from ``start`` on: an address, or 0 to learn their size."""
    rows = round_up(problem.S, KEYS)
    dk = Lines(start, round_up(problem.D, w))
    dv = Lines(dk.start + rows * dk.step, round_up(problem.Dv, w))
    return Sums(dk, dv, dv.start + rows * dv.step)


@inner
def sums_size(problem, w):
    """Return the elements of the `Sums` of one key/value head."""
    return sums_at(problem, w, 0).end


@inner
def beside_sums(problem, w, start):
    """Return where a thread's other memory begins: behind its `Sums`, where a head has one part."""
    return sums_at(problem, w, start).end if problem.parts == 1 else start


class Share(NamedTuple):
    """How a backward kernel adds up its pieces of work: by runs of ``queries`` queries.

    ``add_run(call, run, sums, room)`` writes dq of a run, and adds what it gives to dk and dv.
    """

    call: Call
    queries: int
    add_run: Any
    room: Any


@inner
def sum_runs(share, piece):
    """Write dq of the runs of queries of a piece, and their part of dk and dv."""
    problem, operands, scratch = share.call
    w, parts, group = lanes(scratch), problem.parts, problem.H // problem.G
    b, g, part = piece // parts // problem.G, piece // parts % problem.G, piece % parts
    start = part_of(operands, SUMS, 0, piece, scratch) if parts > 1 else scratch
    fill(start, sums_size(problem, w), 0.0)
    for h in range(g * group, (g + 1) * group):
        for number in range(part, runs_of(problem, share.queries), parts):
            run = run_of(problem, b, h, number, share.queries)
            share.add_run(share.call, run, sums_at(problem, w, start), share.room)
    if parts == 1:
        _write(share.call, b, g, 0, problem.S, start)


@task
def add_sums(sizes, factors, operands, queue, scratch):
    """Write dk and dv from the sums that the parts of `sum_runs` left, added in order."""
    each_piece(queue, _add_parts, Call(problem_of(sizes, factors), operands, scratch))


@inner
def _add_parts(call, piece):
    """Write a tile's keys of dk and dv."""
    problem, operands, scratch = call
    tiles = (problem.S + KEYS - 1) // KEYS
    head, j0 = piece // tiles, piece % tiles * KEYS
    start = part_of(operands, SUMS, 0, head * problem.parts, scratch)
    b, g = head // problem.G, head % problem.G
    _write(call, b, g, j0, min(problem.S, j0 + KEYS), start)


def plan_sums(problem: Problem, lanes: int) -> tuple[int, int]:
    """Return the pieces of work of `add_sums`; it takes no scratch memory."""
    return problem.B * problem.G * -(-problem.S // KEYS), 0


@inner
def _write(call, b, g, j0, j1, start):
    """Write rows ``j0 <= j < j1`` of dk and dv: the `Sums` of all parts, added in order."""
    problem, operands, _ = call
    n, size = j1 - j0, step_of(operands, SUMS, 1)
    sums = sums_at(problem, lanes(start), start)
    dk, dv = lines_from(sums.dk, j0), lines_from(sums.dv, j0)
    for part in range(1, problem.parts):
        add(dk.start, dk.start + part * size, n * dk.step)
        add(dv.start, dv.start + part * size, n * dv.step)
    fits = write_rows(lines_of(operands, DK, b, g, j0, start), dk, n, problem.D, problem.scale)
    dv_out = lines_of(operands, DV, b, g, j0, start)
    if not (write_rows(dv_out, dv, n, problem.Dv, 1.0) and fits):
        operands[UNFIT] = 1
