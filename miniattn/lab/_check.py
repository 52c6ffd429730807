"""Is it right? And if not: which line is the first wrong one, and what is the mistake?"""

import ast
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from miniattn import _checks
from miniattn._causes import Cause
from miniattn.lab import _diagnose
from miniattn.lab._exercise import Exercise, find
from miniattn.lab._exercises import ORDER
from miniattn.lab._record import Recorded, Run

SEEDS = (0, 1)  # of the numbers that are tried


@dataclass(frozen=True)
class Place:
    """One wrong entry, the one that is furthest off."""

    index: tuple[int, ...]
    got: float
    right: float

    @property
    def ratio(self) -> float:
        """What it is of the right value; NaN where that is 0."""
        return self.got / self.right if self.right else float("nan")


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes
    ----------
    exercise : str
        Which it is.
    verdict : str
        ``"passed"``, ``"wrong"``, ``"unwritten"``, or ``"error"``: it could not be run.
    problem : str
        In words what is wrong; empty where it passed.
    line, code : int, str
        The first wrong line, and what stands there; 0 where there is none.
    name, role : str
        What the line calls its result, and what the solution calls it.
    entry : Place, optional
        One wrong entry: index, got, right, ratio.
    count : tuple of int
        How many entries are wrong, and of how many.
    cause : Cause, optional
        What the mistake probably is.
    """

    exercise: str
    verdict: str
    problem: str = ""
    line: int = 0
    code: str = ""
    name: str = ""
    role: str = ""
    entry: Place | None = None
    count: tuple[int, int] = (0, 0)
    cause: Cause | None = None

    @property
    def passed(self) -> bool:
        """Whether all is right."""
        return self.verdict == "passed"

    def __str__(self) -> str:
        if self.passed:
            return f"{self.exercise}: right"
        lines = [f"{self.exercise}: {self.verdict}: {self.problem}"]
        if self.line:
            lines.append(f"  the first wrong line is line {self.line}:  {self.code}")
        if self.entry is not None:
            index = ", ".join(map(str, self.entry.index))
            what = f"{self.name}[{index}]" if index else self.name
            meant = f" (`{self.role}` of the solution)" if self.role not in ("", self.name) else ""
            ratio = f", ratio {self.entry.ratio:.6g}" if self.entry.right else ""
            lines.append(
                f"  {what}{meant}: got {self.entry.got:.6g}, right {self.entry.right:.6g}{ratio}"
                f"   ({self.count[0]} of {self.count[1]} entries are wrong)"
            )
        if self.cause is not None:
            lines.append(f"  likely cause: {self.cause}")
        return "\n".join(lines)

    __repr__ = __str__


def check(
    answer: str | Path | Callable[..., Any], name: str | None = None, *, dtype: Any = np.float64
) -> Report:
    """Compare an answer with the solution: result by result, then line by line.

    Parameters
    ----------
    answer : path, str or function
        A file, the source itself, or the function, which finds what its own module has.
    name : str, optional
        The exercise; by default the file says it, in the first word of its text.
    dtype : float64 or float32
        Of the numbers that are tried.

    Returns
    -------
    Report
        ``passed``, ``line``, ``entry``, ``cause``; in words when it is printed.

    Raises
    ------
    ValueError
        If there is no such exercise, or the answer does not say which it is.
    TypeError
        If the answer is neither a file, a source nor a function, or ``dtype`` is another one.

    Notes
    -----
    Strict on shapes, dtypes, results that share memory with inputs or with each other, and inputs
    that are written to. Of a wrong answer every line is compared: what it names as the solution
    does by name, all else by whether the right value in its place would mend the results. Then
    mistakes are made in the solution, one and two at a time, until one gives the same wrong
    numbers.

    Examples
    --------
    >>> from miniattn import lab
    >>> lab.check('''
    ... def softmax_backward(dy, y):
    ...     dot = (y * dy).sum(-1, keepdims=True)
    ...     return y * (dy + dot)''', "softmax")
    softmax: wrong: dx is wrong
      the first wrong line is line 4:  return y * (dy + dot)
      dx[2, 1]: got -1.2416, right -0.231716, ratio 5.35829   (12 of 12 entries are wrong)
      likely cause: `dot` is added where it is to be subtracted (sign)
    """
    source = _source(answer)
    exercise = find(_checks.choice("name", name or exercise_of(source, answer), ORDER))
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        return Report(
            exercise.name, "error", f"not Python: {error.msg}", error.lineno or 0, error.text or ""
        )
    scope = answer.__globals__ if inspect.isfunction(answer) else {}
    report = _checked(exercise, tree, scope, _checks.float_dtype("dtype", dtype))
    lines = source.splitlines()
    code = lines[report.line - 1].strip() if 0 < report.line <= len(lines) else ""
    return replace(report, code=code)


def exercise_of(source: str, answer: Any = "") -> str:
    """Return the name of the exercise that a file says it is."""
    try:
        text = ast.get_docstring(ast.parse(source)) or ""
    except SyntaxError:
        text = source.lstrip().removeprefix('"""')
    name = text.partition(":")[0].strip()
    stem = Path(answer).stem if isinstance(answer, Path) else ""
    for found in (name, stem):
        if found in ORDER:
            return found
    raise ValueError(f"name: expected the name of an exercise, got none in {name[:40]!r}")


def _source(answer: Any) -> str:
    if isinstance(answer, Path):
        return answer.read_text(encoding="utf-8")
    if isinstance(answer, str):
        return answer if "\n" in answer else Path(answer).read_text(encoding="utf-8")
    if inspect.isfunction(answer):
        return textwrap.dedent(inspect.getsource(answer))
    raise TypeError(f"answer: expected a file, a source or a function, got {_checks.shown(answer)}")


def _checked(
    exercise: Exercise, tree: ast.Module, scope: dict[str, Any], dtype: np.dtype[Any]
) -> Report:
    names = [n.name for n in tree.body if isinstance(n, ast.FunctionDef)]
    if exercise.function not in names:
        problem = f"expected a function {exercise.function}, got {', '.join(names) or 'none'}"
        return Report(exercise.name, "error", problem)
    try:
        found = {**exercise.namespace(), **scope, "__name__": "answer"}
        learner = Recorded(tree, exercise.function, found)
    except Exception as error:
        return Report(exercise.name, "error", f"{type(error).__name__}: {error}")
    for seed in SEEDS:
        inputs = cast(exercise.inputs(seed), dtype)
        right = reference(exercise, inputs)
        report = _compared(exercise, learner, inputs, right, seed)
        if not report.passed:
            return report
    return Report(exercise.name, "passed")


def cast(inputs: dict[str, Any], dtype: np.dtype[Any]) -> dict[str, Any]:
    """Return arguments with their arrays of floats in another dtype."""
    return {
        name: value.astype(dtype)
        if isinstance(value, np.ndarray) and value.dtype.kind == "f"
        else value
        for name, value in inputs.items()
    }


def reference(exercise: Exercise, inputs: dict[str, Any]) -> tuple[Any, ...]:
    """Return what the solution makes of arguments."""
    with np.errstate(all="ignore"):
        found = exercise.namespace()[exercise.function](**inputs)
    return found if isinstance(found, tuple) else (found,)


def _compared(
    exercise: Exercise,
    learner: Recorded,
    inputs: dict[str, Any],
    right: tuple[Any, ...],
    seed: int,
) -> Report:
    run = learner.run(inputs)
    report = Report(exercise.name, "wrong")
    if isinstance(run.error, NotImplementedError):
        return _unwritten(exercise, inputs, right)
    if run.error is not None:
        report = replace(
            report,
            verdict="error",
            problem=f"{type(run.error).__name__}: {run.error}",
            line=run.line,
        )
        return _diagnosed(report, exercise, learner, inputs, run, right)
    if run.written is not None:
        name, line = run.written
        problem = f"the input {name} is written to; make a new array"
        return replace(report, problem=problem, line=line, name=name)
    problem = _misfit(exercise, run, right)
    if problem and "shape" not in problem:
        return replace(report, problem=problem, line=_diagnose.returning(learner.tree))
    tolerance = _diagnose.TOLERANCE[_dtype_of(inputs)]
    wrong = [
        name
        for name, got, want in zip(exercise.results, run.outputs, right, strict=False)
        if not _diagnose.same(got, want, tolerance)
    ]
    if not wrong:
        problem = _wrong_dtype(exercise, run, right) or _shared(exercise, run, learner.inputs)
        verdict, line = ("wrong", _diagnose.returning(learner.tree)) if problem else ("passed", 0)
        return replace(report, verdict=verdict, problem=problem, line=line)
    words = " and ".join([", ".join(wrong[:-1]), wrong[-1]] if len(wrong) > 1 else wrong)
    problem = problem or f"{words} {'are' if len(wrong) > 1 else 'is'} wrong"
    return _diagnosed(replace(report, problem=problem), exercise, learner, inputs, run, right)


def _dtype_of(inputs: dict[str, Any]) -> str:
    kinds = {v.dtype.name for v in inputs.values() if isinstance(v, np.ndarray)}
    return "float32" if "float32" in kinds else "float64"


def _unwritten(exercise: Exercise, inputs: dict[str, Any], right: tuple[Any, ...]) -> Report:
    given = ", ".join(f"{name} {_kind(value)}" for name, value in inputs.items())
    asked = ", ".join(
        f"{name} {_kind(value)}" for name, value in zip(exercise.results, right, strict=True)
    )
    problem = (
        f"{exercise.function} is not written yet. It is given {given}, and returns {asked}.\n"
        f"  {exercise.goal}\n  A first hint: {exercise.hints[0]}"
    )
    return Report(exercise.name, "unwritten", problem)


def _kind(value: Any) -> str:
    return str(value.shape) if isinstance(value, np.ndarray) else "(a number)"


def _misfit(exercise: Exercise, run: Run, right: tuple[Any, ...]) -> str:
    """Return what is wrong with the number, the kinds or the shapes of results, in words."""
    if len(run.outputs) != len(right):
        wanted = ", ".join(exercise.results)
        return f"expected {len(right)} results, {wanted}, got {len(run.outputs)}"
    for name, got, want in zip(exercise.results, run.outputs, right, strict=True):
        if got is None or not isinstance(got, np.ndarray | np.generic | float | int):
            return f"{name}: expected an array, got {_checks.shown(got)}"
        if np.shape(got) != np.shape(want):
            return f"{name}: expected shape {np.shape(want)}, got {np.shape(got)}"
    return ""


def _wrong_dtype(exercise: Exercise, run: Run, right: tuple[Any, ...]) -> str:
    for name, got, want in zip(exercise.results, run.outputs, right, strict=True):
        if isinstance(want, np.ndarray) and np.asarray(got).dtype != want.dtype:
            return f"{name}: expected dtype {want.dtype}, got {np.asarray(got).dtype}"
    return ""


def _shared(exercise: Exercise, run: Run, inputs: dict[str, Any]) -> str:
    """Return which result shares its memory with an input or another result, in words."""
    others = dict(inputs)
    for name, got in zip(exercise.results, run.outputs, strict=True):
        for other, value in others.items():
            both = isinstance(got, np.ndarray) and isinstance(value, np.ndarray)
            if both and np.shares_memory(got, value):
                return f"{name} shares its memory with {other}: a change of one changes the other"
        others[name] = got
    return ""


def _diagnosed(
    report: Report,
    exercise: Exercise,
    learner: Recorded,
    inputs: dict[str, Any],
    run: Run,
    right: tuple[Any, ...],
) -> Report:
    """Add the first wrong line, one wrong entry, and the likely cause."""
    case = _diagnose.Case(exercise, learner, inputs, run, right)
    blame = _diagnose.first_wrong(case)
    if blame is None:
        return report
    entry, count = _worst(blame.got, blame.right)
    return replace(
        report,
        line=blame.line,
        name=blame.name,
        role=blame.role,
        entry=entry,
        count=count,
        cause=_diagnose.cause(case, blame),
    )


def _worst(got: Any, right: Any) -> tuple[Place | None, tuple[int, int]]:
    """Return the entry that is furthest off, and how many are wrong, of how many."""
    got, right = np.asarray(got, float), np.asarray(right, float)
    if got.shape != right.shape or not got.size:
        return None, (0, 0)
    wrong = ~np.asarray(_diagnose.close(got, right, _diagnose.TOLERANCE["float64"]))
    with np.errstate(all="ignore"):
        error = np.where(wrong, np.nan_to_num(np.abs(got - right), nan=np.inf), -1.0)
    index = np.unravel_index(int(error.argmax()), error.shape)
    place = Place(tuple(map(int, index)), float(got[index]), float(right[index]))
    return place, (int(wrong.sum()), got.size)
