"""Which part of a module is wrong, and why: each is judged alone, from the output on."""

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from miniattn._causes import Cause, likely, ratio
from miniattn._gradreport import AGREES, Entry, GradcheckError, GradcheckReport, ModuleCheck
from miniattn._gradsubject import Subject, Way

# Entries of each array that are looked at, to tell whether a part is wrong.
SAMPLES = 6
# Numbers that a part may have to be looked at in full, to tell why.
WHOLE = 600


class Call(NamedTuple):
    """A call of a module's forward: its path, and what it was given."""

    path: str
    module: Any
    inputs: dict[str, Any]
    options: dict[str, Any]


def judged(
    module: Any, subject: Subject, way: Way, seed: int
) -> tuple[tuple[ModuleCheck, ...], Cause | None]:
    """Return what each part of a module does alone, as backward comes by, and why one is wrong.

    A module that holds a wrong part is not judged; the whole is wrong if all its parts are right.
    """
    with _recorded(module) as calls:
        subject.run()
    checks: list[ModuleCheck] = []
    cause: Cause | None = None
    for call in (*reversed(calls), Call("", module, dict(subject.inputs), dict(subject.options))):
        wrong = [check for check in checks if check.verdict == "failed"]
        inside = [c.path for c in wrong if not call.path or c.path.startswith(f"{call.path}.")]
        if inside:
            kind = type(call.module).__name__
            checks.append(ModuleCheck(call.path, kind, "holds a wrong part", float("nan")))
            continue
        check = _judge(call, Way(SAMPLES if call.path else way.samples, *way[1:]), seed)
        if check is not None:
            checks.append(check)
            if check.verdict == "failed" and not wrong:
                cause = _cause_of(call, way, seed)
    return tuple(checks), cause


def why(subject: Subject, entries: tuple[Entry, ...], tolerance: float) -> Cause | None:
    """Return the likely cause, of the first wrong gradient of which one can be told."""
    wrong = (e.name for e in entries if e.decided and not e.error <= tolerance)
    for name in dict.fromkeys(wrong):
        if name in subject.replaced:
            text = "the gradient that is there is overwritten, where it is to be added to"
            return Cause("overwritten", f"d{name}: {text}")
        found = _why(name, [entry for entry in entries if entry.name == name], subject)
        if found is not None:
            return Cause(found.kind, f"d{name}: {found.text}")
    return None


def _cause_of(call: Call, way: Way, seed: int) -> Cause | None:
    """Return why a part is wrong, looked at in full if it is not too large."""
    from miniattn._gradjoins import joined  # it loads the modules

    try:
        subject = Subject(call.module, call.inputs, None, call.options)
        total = sum(array.size for _, array in subject.targets)
        few = None if total <= WHOLE else WHOLE // len(subject.targets)
        entries = subject.compared(Way(few, *way[1:]), np.random.default_rng(seed))
        return joined(call.module, subject, way, seed) or why(subject, entries, way.tolerance)
    except GradcheckError as error:
        return Cause("shape", str(error))


def _judge(call: Call, way: Way, seed: int) -> ModuleCheck | None:
    """Return what a part does alone; None where nothing can be moved or results are no arrays."""
    kind = type(call.module).__name__
    passed = ModuleCheck(call.path, kind, "passed", 0.0)
    try:
        subject = Subject(call.module, call.inputs, None, call.options)
        entries = subject.compared(way, np.random.default_rng(seed))
    except GradcheckError:
        return ModuleCheck(call.path, kind, "failed", float("inf"), "a missing gradient")
    except (TypeError, ValueError, AttributeError):
        return None
    return _worst(entries, way.tolerance, passed) if entries else None


def _worst(entries: tuple[Entry, ...], tolerance: float, check: ModuleCheck) -> ModuleCheck:
    """Return a check with the verdict, and of a wrong one the first wrong gradient."""
    report = GradcheckReport(entries, tolerance)
    if report.verdict != "failed":
        return ModuleCheck(check.path, check.kind, report.verdict, report.error)
    name = _first_wrong(entries, tolerance)
    mine = [entry for entry in entries if entry.name == name]
    got, right = (np.array([getattr(e, k) for e in mine]) for k in ("analytic", "numeric"))
    error = max(entry.error for entry in mine)
    return ModuleCheck(check.path, check.kind, "failed", error, f"d{name}", ratio(got, right))


def _first_wrong(entries: tuple[Entry, ...], tolerance: float) -> str:
    return next(e.name for e in entries if e.decided and not e.error <= tolerance)


def _why(name: str, mine: list[Entry], subject: Subject) -> Cause | None:
    """Return why a gradient is wrong, by its numbers and by what is known beside it."""
    shape = dict(subject.targets)[name].shape
    got, right = (np.array([getattr(e, k) for e in mine]) for k in ("analytic", "numeric"))
    known = {other: value for other, value in subject.known().items() if other != name}
    if len(mine) == int(np.prod(shape)):
        return likely(got.reshape(shape), right.reshape(shape), known, agrees=AGREES)
    index = tuple(np.array([entry.index for entry in mine]).T)
    return likely(got, right, dict(_at(known, shape, index)), agrees=AGREES)


def _at(known: dict[str, Any], shape: tuple[int, ...], index: Any) -> Iterator[tuple[str, Any]]:
    """Yield what is known at a choice of places of an array, where it broadcasts to its shape."""
    for name, value in known.items():
        if not isinstance(value, np.ndarray):
            yield name, value
            continue
        try:
            yield name, np.broadcast_to(value, shape)[index]
        except (ValueError, IndexError):
            continue


@contextmanager
def _recorded(module: Any) -> Iterator[list[Call]]:
    """Write down the calls of a module's parts, in the order in which they begin."""
    calls: list[Call] = []
    parts = [(path, part) for path, part in module.named_modules() if part is not module]
    for path, part in parts:
        object.__setattr__(part, "forward", _noting(path, part, calls))
    try:
        yield calls
    finally:
        for _, part in parts:
            object.__delattr__(part, "forward")


def _noting(path: str, part: Any, calls: list[Call]) -> Any:
    forward = part.forward
    signature = inspect.signature(forward)

    def noting(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        inputs: dict[str, Any] = {}
        options: dict[str, Any] = {}
        for name, value in given.arguments.items():
            # Extra options are by their names already, those of **options are together in one.
            several = value if isinstance(value, dict) else {name: value}
            for key, each in several.items():
                moved = isinstance(each, np.ndarray) and each.dtype.kind in "fiu"
                (inputs if moved else options)[key] = copy.deepcopy(each)
        calls.append(Call(path, part, inputs, options))
        return forward(*args, **kwargs)

    return noting
