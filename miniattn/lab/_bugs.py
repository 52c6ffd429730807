"""Wrong answers, planted by a seed: to be found by a learner, and to measure the checker by."""

import ast
from typing import Any, NamedTuple

import numpy as np

from miniattn import _checks
from miniattn.lab import _diagnose
from miniattn.lab._check import check, reference
from miniattn.lab._exercise import Exercise, find
from miniattn.lab._exercises import ORDER
from miniattn.lab._mistakes import Mistake, mistakes
from miniattn.lab._record import Recorded, changed_lines
from miniattn.lab._variants import variant


class Bug(NamedTuple):
    """A wrong answer, and what is wrong with it."""

    exercise: str
    source: str
    line: int
    kind: str
    text: str


def plant(seed: int, name: str | None = None) -> Bug:
    """Return a wrong answer: a solution in other words, with one mistake in it.

    Parameters
    ----------
    seed : int
        The same one gives the same bug.
    name : str, optional
        The exercise; by default the seed chooses.

    Examples
    --------
    >>> from miniattn import lab
    >>> bug = lab.plant(3, "softmax")
    >>> lab.check(bug.source).line == bug.line
    True
    """
    rng = np.random.default_rng(_checks.integer("seed", seed, least=0))
    if name is not None:
        _checks.choice("name", name, ORDER)
    for _ in range(200):
        exercise = find(name or ORDER[rng.integers(len(ORDER))])
        bug = _planted(exercise, variant(exercise, rng, changes=2), rng)
        if bug is not None:
            return bug
    raise AssertionError("no mistake was found that shows")  # pragma: no cover


def _planted(exercise: Exercise, source: str, rng: np.random.Generator) -> Bug | None:
    """Return a source with a mistake of a random kind that changes its results."""
    module = ast.parse(source)
    functions = [n for n in module.body if isinstance(n, ast.FunctionDef)]
    function = next(n for n in functions if n.name == exercise.function)
    values = _values(exercise, source)
    found = [m for m in mistakes(function, values) if not isinstance(m.new, ast.Pass)]
    kinds = sorted({mistake.kind for mistake in found})
    kind = kinds[rng.integers(len(kinds))]
    of_kind = [mistake for mistake in found if mistake.kind == kind]
    mistake = of_kind[rng.integers(len(of_kind))]
    before = ast.unparse(module).splitlines()
    changed = _with(mistake, module)
    lines = changed_lines(before, changed.splitlines())
    if len(lines) != 1 or not _shows(exercise, changed):
        return None
    return Bug(exercise.name, changed, lines[0], mistake.kind, mistake.text)


def _with(mistake: Mistake, module: ast.Module) -> str:
    old = mistake.apply()
    try:
        return ast.unparse(module) + "\n"
    finally:
        mistake.undo(old)


def _values(exercise: Exercise, source: str) -> dict[str, Any]:
    scope = {**exercise.namespace(), "__name__": "answer"}
    inputs = exercise.inputs()
    run = Recorded(ast.parse(source), exercise.function, scope).run(inputs)
    return {**inputs, **{event.name: event.value for event in run.events}}


def _shows(exercise: Exercise, source: str) -> bool:
    """Return whether results are there, and other ones by far more than by rounding."""
    scope = {**exercise.namespace(), "__name__": "answer"}
    try:
        run = Recorded(ast.parse(source), exercise.function, scope).run(exercise.inputs())
    except (SyntaxError, TypeError, ValueError):
        return False
    right = reference(exercise, exercise.inputs())
    if run.error is not None or run.written or len(run.outputs) != len(right):
        return False
    pairs = list(zip(run.outputs, right, strict=True))
    if any(np.shape(a) != np.shape(b) for a, b in pairs):
        return False
    return not all(_diagnose.same(a, b, (1e-4, 1e-4)) for a, b in pairs)


class Score(NamedTuple):
    """How the checker does on bugs: shares of lines and causes that it finds."""

    lines: float
    causes: float
    missed: tuple[Bug, ...]
    """Those of which the line or the cause was not found."""


def score(count: int = 100, seed: int = 0) -> Score:
    """Plant ``count`` bugs and have the checker find them.

    Examples
    --------
    >>> from miniattn import lab
    >>> lab.score(3).lines
    1.0
    """
    lines = causes = 0
    missed = []
    for n in range(_checks.integer("count", count, least=1)):
        bug = plant(1_000 * seed + n)
        report = check(bug.source)
        line = report.line == bug.line
        cause = report.cause is not None and report.cause.kind == bug.kind
        lines, causes = lines + line, causes + cause
        if not (line and cause):
            missed.append(bug)
    return Score(lines / count, causes / count, tuple(missed))
