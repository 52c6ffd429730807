"""Pieces of work: runs of queries of one head, and bins of a map."""

from typing import Any, NamedTuple

from miniattn.kernels.attention.problem import Problem
from miniattn.kernels.compile.settings import inner


class Call(NamedTuple):
    """What one thread knows of a call when it takes a piece of its work."""

    problem: Problem
    operands: Any
    scratch: Any
    """Memory of this thread alone."""


class Run(NamedTuple):
    """Queries ``i0 <= i < i0 + n`` of one head."""

    b: int
    h: int
    i0: int
    n: int


@inner
def runs_of(problem, size):
    """Return how many runs of ``size`` queries a head has; the last may be shorter."""
    return (problem.T + size - 1) // size


@inner
def run_of(problem, b, h, number, size):
    """Return a run of a head's queries by its number."""
    i0 = number * size
    return Run(b, h, i0, min(size, problem.T - i0))


@inner
def run_of_piece(problem, piece, size):
    """Return the run that is a piece of work, where each run is one.

    Under a causal mask the last run of a head takes longest: it comes first.
    """
    runs = runs_of(problem, size)
    head = piece // runs
    return run_of(problem, head // problem.H, head % problem.H, runs - 1 - piece % runs, size)


@inner
def key_head(problem, h):
    """Return the head of keys and values that query head ``h`` uses."""
    return h // (problem.H // problem.G)


# --- Bins of a map -------------------------------------------------------------------------------


@inner
def bin_of(i, count, bins):
    """Return in which of some bins the ``i``-th of ``count`` members is."""
    return ((i + 1) * bins - 1) // count


@inner
def first_of(which, count, bins):
    """Return the first of ``count`` members that is in a bin."""
    return which * count // bins
