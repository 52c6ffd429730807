"""The first wrong line of an answer, and the mistake that makes its numbers."""

import ast
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from miniattn._causes import Cause, likely
from miniattn.lab._exercise import Exercise
from miniattn.lab._mistakes import Mistake, applied_after, mistakes, set_by
from miniattn.lab._reading import reads_alike
from miniattn.lab._record import Recorded, Run, statements

# Relative to a number, and to the largest of its array.
TOLERANCE = {"float64": (1e-7, 1e-10), "float32": (2e-3, 2e-5)}
# Pairs of mistakes that are made at most.
PAIRS = 4_000


class Case(NamedTuple):
    """An answer that was run, and what is right."""

    exercise: Exercise
    learner: Recorded
    inputs: dict[str, Any]
    run: Run
    right: tuple[Any, ...]


class Blame(NamedTuple):
    """The first wrong value: where it is made, what it is, and what it is to be."""

    line: int
    name: str
    role: str
    got: Any
    right: Any
    place: tuple[int, str] | None
    """Line and name in the solution, where it is one of its own lines."""


Group = tuple[int, str]


def same(got: Any, right: Any, tolerance: tuple[float, float]) -> bool:
    """Return whether two values have one shape and agree."""
    if np.shape(got) != np.shape(right):
        return False
    try:
        return bool(close(np.asarray(got, float), np.asarray(right, float), tolerance).all())
    except (TypeError, ValueError):
        return False


def close(got: Any, right: Any, tolerance: tuple[float, float]) -> Any:
    """Return where two arrays agree."""
    finite = np.abs(right[np.isfinite(right)])
    size = float(finite.max(initial=0.0))
    with np.errstate(all="ignore"):
        return np.isclose(
            got, right, rtol=tolerance[0], atol=tolerance[1] * size or 1e-300, equal_nan=True
        )


def first_wrong(case: Case) -> Blame | None:
    """Return the first line that is wrong although all that it uses is right.

    A value that has a name of the solution and another value is wrong. Any other value is wrong if
    the right one in its place mends a result: values of the solution, and parts of its lines, are
    tried for it.
    """
    tolerance = _tolerance(case)
    if _returns_another(case, tolerance):
        return _wrong_result(case)
    solution = _solution(case.exercise, inner=True)
    right = solution.run(case.inputs).groups()
    mine = case.run.groups()
    by_name = {name: values for (_, name), values in right.items()}
    suspects = list(_suspects(case, mine, right, tolerance))
    blamed: tuple[Group, Group] | None = None
    for is_right, _, place in sorted(suspects):
        if blamed is not None and not (
            is_right and place < blamed[0] and _may_be_before(case, place, blamed, mine, right)
        ):
            continue
        found = _role(case, place, mine[place], right)
        if found is not None:
            blamed = place, found
    if blamed is not None:
        place, found = blamed
        return _blame(place, mine[place], found, right[found], tolerance)
    for is_right, *_, place in sorted(suspects):
        name = place[1]
        if name in by_name and not is_right and len(by_name[name]) == len(mine[place]):
            found = next(p for p in right if p[1] == name)
            return _blame(place, mine[place], found, by_name[name], tolerance)
    return _wrong_result(case)


def _suspects(
    case: Case,
    mine: Mapping[Group, list[Any]],
    right: Mapping[Group, list[Any]],
    tolerance: tuple[float, float],
) -> Iterator[tuple[bool, int, Group]]:
    """Yield what is not right by its name: whether it is right under another, when it was made."""
    for place, values in mine.items():
        known = [wanted for (_, name), wanted in right.items() if name == place[1]]
        if any(_all_same(values, wanted, tolerance) for wanted in known):
            continue
        most = max(_agreeing(values, w, tolerance) for w in known or right.values())
        time = _times(case, place)[min(most, len(values) - 1)]
        is_right = any(_all_same(values, wanted, tolerance) for wanted in right.values())
        yield is_right and not known, time, place


def _returns_another(case: Case, tolerance: tuple[float, float]) -> bool:
    """Return whether a result is right, but another value is returned in its place."""
    tree = case.learner.tree
    value = next((n.value for n in ast.walk(tree) if isinstance(n, ast.Return)), None)
    parts = value.elts if isinstance(value, ast.Tuple) else [value]
    latest = {event.name: event.value for event in case.run.events}
    for part, got, want in zip(parts, case.run.outputs, case.right, strict=False):
        if isinstance(part, ast.Name) and not same(got, want, tolerance):
            others = (value for name, value in latest.items() if name != part.id)
            if part.id not in latest or any(same(value, want, tolerance) for value in others):
                return True
    return False


def _tolerance(case: Case) -> tuple[float, float]:
    floats = [v for v in case.inputs.values() if isinstance(v, np.ndarray)]
    return TOLERANCE["float32" if any(v.dtype == np.float32 for v in floats) else "float64"]


def _solution(exercise: Exercise, *, inner: bool = False) -> Recorded:
    tree = ast.parse(exercise.source)
    return Recorded(tree, exercise.function, {"__name__": "solution"}, inner=inner)


def _all_same(a: list[Any], b: list[Any], tolerance: tuple[float, float]) -> bool:
    if len(a) != len(b):
        return False
    return all(same(x, y, tolerance) for x, y in zip(a, b, strict=True))


def _agreeing(mine: list[Any], right: list[Any], tolerance: tuple[float, float]) -> int:
    """Return how many values agree before the first that does not."""
    pairs = list(zip(mine, right, strict=False))
    return next((n for n, pair in enumerate(pairs) if not same(*pair, tolerance)), len(pairs))


def _times(case: Case, place: Group) -> list[int]:
    """Return when, of all that was written down, the values of a line and name were."""
    return [t for t, event in enumerate(case.run.events) if (event.line, event.name) == place]


def _role(
    case: Case, place: Group, mine: list[Any], right: Mapping[Group, list[Any]]
) -> Group | None:
    """Return what of the solution, put in the place of a value, mends the results."""
    shapes = [np.shape(value) for value in mine]

    def distance(other: Group) -> tuple[bool, bool]:
        return other[1] != place[1], [np.shape(v) for v in right[other]] != shapes

    for other in sorted(right, key=distance):
        values = right[other]
        if len(values) != len(mine) or _all_same(mine, values, (1e-7, 1e-10)):
            continue
        run = case.learner.run(case.inputs, {place: values})
        if run.error is None and _mended(case, run):
            return other
    return None


def _may_be_before(
    case: Case,
    place: Group,
    blamed: tuple[Group, Group],
    mine: Mapping[Group, list[Any]],
    right: Mapping[Group, list[Any]],
) -> bool:
    """Return whether a line may be to blame whose value is right in another place.

    It may where the line that was found reads as the solution does, name for name; or where that
    reads so with names for parts, and this line does not read as what its value is elsewhere.
    """
    if _reads_alike(case, *blamed, by_names=True):
        return True
    if not _reads_alike(case, *blamed):
        return False
    tolerance = _tolerance(case)
    equal = (role for role, values in right.items() if _all_same(mine[place], values, tolerance))
    return not any(_reads_alike(case, place, role) for role in equal)


def _reads_alike(case: Case, place: Group, role: Group, *, by_names: bool = False) -> bool:
    """Return whether a line reads as its part of the solution does."""
    tree = case.exercise.tree()
    names = (n.id for n in ast.walk(tree) if isinstance(n, ast.Name))
    known = frozenset(names) | case.inputs.keys()
    mine, right = _value_of(case.learner.tree, *place), _value_of(tree, *role)
    return reads_alike(mine, right, known, by_names=by_names)


def _value_of(tree: ast.AST, line: int, name: str) -> ast.expr:
    """Return what a line gives to a name; or the name itself, which may be that of a part."""
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name(id=found)]) if (node.lineno, found) == (line, name):
                return node.value
    return ast.parse(name, mode="eval").body


def _mended(case: Case, run: Run) -> bool:
    """Return whether a run gives the right results."""
    if len(run.outputs) != len(case.right):
        return False
    tolerance = _tolerance(case)
    pairs = zip(run.outputs, case.right, strict=True)
    return all(same(got, want, tolerance) for got, want in pairs)


def _blame(
    place: Group, mine: list[Any], found: Group, right: list[Any], tolerance: tuple[float, float]
) -> Blame:
    pairs = list(zip(mine, right, strict=False))
    got, want = next((p for p in pairs if not same(*p, tolerance)), pairs[-1])
    return Blame(place[0], place[1], found[1], got, want, found)


def _wrong_result(case: Case) -> Blame | None:
    """Return the first result that is wrong, at the line that returns it."""
    tolerance = _tolerance(case)
    results = zip(case.exercise.results, case.run.outputs, case.right, strict=False)
    for name, got, want in results:
        if not same(got, want, tolerance):
            lines = [n.lineno for n in statements(case.exercise.tree()) if name in set_by(n)]
            place = lines[-1], name
            return Blame(returning(case.learner.tree), name, name, got, want, place)
    return None


def returning(tree: ast.AST) -> int:
    """Return the last line of a function that returns something."""
    return max((n.lineno for n in ast.walk(tree) if isinstance(n, ast.Return)), default=0)


# The cause.


def cause(case: Case, blame: Blame) -> Cause | None:
    """Return the mistake that gives the same wrong numbers, if one or two do."""
    solution = _Mutable(case.exercise, case.inputs)
    first = solution.lines_before(blame)
    targets = list(solution.targets(case, blame))
    for target in targets:
        if found := solution.single(target, first):
            return found
    for target in targets[-1:]:  # the results, which any line may have spoilt
        if found := (first and solution.single(target, None)) or solution.late_masks(target):
            return found
    for target in targets:
        if found := solution.pairs(target, first):
            return found
    known = {**case.inputs, **solution.values}
    known = {name: v for name, v in known.items() if name not in (blame.name, blame.role)}
    return likely(np.asarray(blame.got), np.asarray(blame.right), known)


class _Target(NamedTuple):
    """The wrong numbers that a mistake is to give: of one line, or of the results."""

    place: Group | None
    values: list[Any]


class _Mutable:
    """The solution, in which mistakes can be made."""

    def __init__(self, exercise: Exercise, inputs: dict[str, Any]) -> None:
        self._module = ast.parse(exercise.source)
        nodes = [n for n in self._module.body if isinstance(n, ast.FunctionDef)]
        self._function = next(n for n in nodes if n.name == exercise.function)
        self._recorded = Recorded(self._module, exercise.function, {"__name__": "solution"})
        self._inputs = inputs
        right = self._recorded.run(inputs)
        self._right = right.groups()
        self.values = {**inputs, **{event.name: event.value for event in right.events}}

    def lines_before(self, blame: Blame) -> frozenset[int] | None:
        """The line of the solution that a wrong value belongs to."""
        return None if blame.place is None else frozenset([blame.place[0]])

    def targets(self, case: Case, blame: Blame) -> Iterator[_Target]:
        """Yield what is looked for: the wrong line's own numbers, then the results."""
        mine = case.run.groups().get((blame.line, blame.name))
        if blame.place in self._right and mine is not None:
            yield _Target(blame.place, mine)
        if case.run.error is None:
            yield _Target(None, list(case.run.outputs))

    def single(self, target: _Target, lines: frozenset[int] | None) -> Cause | None:
        """Return the one mistake that gives the target."""
        for mistake in mistakes(self._function, self.values, lines):
            old = mistake.apply()
            try:
                if self._gives(target):
                    return Cause(mistake.kind, mistake.text)
            finally:
                mistake.undo(old)
        return None

    def pairs(self, target: _Target, lines: frozenset[int] | None) -> Cause | None:
        """Return the two mistakes in a line that together give the target."""
        if lines is None:
            return None
        return self._first_pair(target, self._in_one_line(lines))

    def late_masks(self, target: _Target) -> Cause | None:
        """Return where a mask is applied that was left out before the softmax."""
        pairs = list(applied_after(self._function, self.values))
        for ignored, late in pairs:
            olds = ignored.apply(), late.apply()
            try:
                if self._gives(target):
                    return Cause(late.kind, late.text)
            finally:
                late.undo(olds[1])
                ignored.undo(olds[0])
        return None

    def _in_one_line(self, lines: frozenset[int]) -> Iterator[tuple[Mistake, Mistake]]:
        for first in list(mistakes(self._function, self.values, lines)):
            old = first.apply()
            try:
                for second in list(mistakes(self._function, self.values, lines)):
                    yield first, second
            finally:
                first.undo(old)

    def _first_pair(
        self, target: _Target, pairs: Iterator[tuple[Mistake, Mistake]]
    ) -> Cause | None:
        # The first of a pair is made by the iterator, for as long as it is its turn.
        for first, second in itertools.islice(pairs, PAIRS):
            old = second.apply()
            try:
                if self._gives(target):
                    return Cause(first.kind, f"{first.text}; and {second.text}")
            finally:
                second.undo(old)
        return None

    def _gives(self, target: _Target) -> bool:
        try:
            self._recorded.compile()
        except (SyntaxError, TypeError, ValueError):
            return False
        run = self._recorded.run(self._inputs)
        if target.place is None:
            found = list(run.outputs) if run.error is None else []
        else:
            found = run.groups().get(target.place, [])
        return _all_same(found, target.values, (1e-6, 1e-9))
