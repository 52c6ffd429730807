"""What a gradient check found, in numbers and in words."""

from dataclasses import dataclass

import numpy as np

from miniattn._causes import Cause

# Entries smaller than this share of the largest gradient are measured against that share: central
# differences do not resolve them to six digits of their own.
RESOLUTION = 1e-3
# Differences agree with a wrong gradient's right one to about this share.
AGREES = 1e-5
# Names that go on one line; more are shown a line for each module.
NAMES = 6


@dataclass(frozen=True)
class Entry:
    """One checked number: where it is, and its derivative found in both ways.

    ``decided`` is False where the two disagree and differences tell nothing.
    """

    name: str
    index: tuple[int, ...]
    analytic: float
    numeric: float
    error: float
    decided: bool = True

    def __str__(self) -> str:
        where = f"{self.name}[{', '.join(map(str, self.index))}]" if self.index else self.name
        return (
            f"{where}: backward gives {self.analytic:.9g}, central differences give "
            f"{self.numeric:.9g} (relative error {self.error:.1e})"
        )


@dataclass(frozen=True)
class ModuleCheck:
    """What a check of one module alone found, with what it was given in the call of the whole.

    ``ratio`` is by how much the wrong gradient, ``name``, is too long: its share along the right
    one. NaN and "" where nothing is wrong.
    """

    path: str
    kind: str
    verdict: str
    error: float
    name: str = ""
    ratio: float = float("nan")

    def __str__(self) -> str:
        where = f"{self.path or 'the whole'} ({self.kind})"
        if self.verdict != "failed":
            return f"{where}: {'ok' if self.verdict == 'passed' else self.verdict}"
        return f"{where}: WRONG, {self.name} by {self.error:.1e}, ratio {self.ratio:.4g}"


@dataclass(frozen=True)
class GradcheckReport:
    """What a gradient check found.

    Attributes
    ----------
    entries : tuple of Entry
        Every number that was checked: (name, index, analytic, numeric, error, decided).
    tolerance : float
        The largest error that passes.
    modules : tuple of ModuleCheck
        Of a module that failed: what each of its parts did alone, from the output to the input.
    cause : Cause, optional
        What the mistake probably is, ``kind`` and ``text``, where the check failed and it can be
        told.
    """

    entries: tuple[Entry, ...]
    tolerance: float
    modules: tuple[ModuleCheck, ...] = ()
    cause: Cause | None = None

    @property
    def first_wrong(self) -> ModuleCheck | None:
        """The first part, from the output on, that is wrong alone; its own parts are right."""
        return next((check for check in self.modules if check.verdict == "failed"), None)

    @property
    def verdict(self) -> str:
        """``"passed"``, ``"failed"``, or ``"undecided"``: nothing wrong is seen, but not by all."""
        if any(entry.decided and not entry.error <= self.tolerance for entry in self.entries):
            return "failed"
        return "undecided" if self.undecided else "passed"

    @property
    def passed(self) -> bool:
        """Whether every entry is decided, with an error of at most ``tolerance``."""
        return self.verdict == "passed"

    @property
    def undecided(self) -> tuple[Entry, ...]:
        """The entries where differences tell nothing."""
        return tuple(entry for entry in self.entries if not entry.decided)

    @property
    def worst(self) -> Entry:
        """The entry with the largest relative error, of those that are decided if any is."""
        decided = [entry for entry in self.entries if entry.decided]
        return max(decided or self.entries, key=lambda entry: entry.error)

    @property
    def error(self) -> float:
        """The relative error of the worst entry."""
        return self.worst.error

    @property
    def errors(self) -> dict[str, float]:
        """The largest relative error of each input and parameter, decided or not."""
        largest: dict[str, float] = {}
        for entry in self.entries:
            largest[entry.name] = max(entry.error, largest.get(entry.name, 0.0))
        return largest

    def __str__(self) -> str:
        word = {"passed": "ok", "failed": "WRONG", "undecided": "UNDECIDED"}[self.verdict]
        lines = [
            f"gradcheck {word}: {len(self.entries)} entries, tolerance {self.tolerance:.1e}",
            f"  worst: {self.worst}",
            *(self._by_module() if len(self.modules) > 1 else self._by_name()),
        ]
        if self.cause is not None:
            lines.append(f"  likely cause: {self.cause}")
        if self.undecided:
            one = max(self.undecided, key=lambda entry: entry.error)
            lines.append(
                f"  at {len(self.undecided)} of the entries differences tell nothing, because they "
                f"depend on the step: move the point or take a smaller step\n  one of them: {one}"
            )
        return "\n".join(lines)

    __repr__ = __str__

    def _by_name(self) -> list[str]:
        """Return the largest errors in a line, or, of many names, in a line for each module."""
        errors = self.errors
        if len(errors) <= NAMES:
            per_name = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
            return [f"  largest error of each: {per_name}"]
        # A line for each module: of forty names one line would be read by nobody.
        groups: dict[str, list[str]] = {}
        for name, error in errors.items():
            path, _, last = name.rpartition(".")
            groups.setdefault(path, []).append(f"{last} {error:.1e}")
        lines = [
            f"    {path or 'inputs and own'}: {', '.join(found)}" for path, found in groups.items()
        ]
        return ["  largest error of each:", *lines]

    def _by_module(self) -> list[str]:
        first = self.first_wrong
        found = "no part is wrong alone" if first is None else f"{first.path or 'the whole'}"
        lines = [f"    {check}" for check in self.modules]
        return [f"  first wrong module, from the output on: {found}", *lines]


class GradcheckError(AssertionError):
    """Backward disagrees with differences, or these tell nothing; ``report`` (or None) says where.

    ``report.verdict`` tells the two apart. Without a report a gradient is missing or misshapen.
    """

    __module__ = "miniattn"  # where people find it

    def __init__(self, message: str, report: GradcheckReport | None = None) -> None:
        super().__init__(message)
        self.report = report


def measured(found: list[tuple[str, tuple[int, ...], float, float]]) -> tuple[Entry, ...]:
    """Give every (name, index, analytic, numeric) its relative error; NaN counts as inf."""
    largest = max(max(abs(analytic), abs(numeric)) for _, _, analytic, numeric in found)
    entries = []
    for name, index, analytic, numeric in found:
        size = max(abs(analytic), abs(numeric), RESOLUTION * largest)
        error = 0.0 if analytic == numeric else abs(analytic - numeric) / size
        entries.append(
            Entry(name, index, float(analytic), numeric, float("inf" if np.isnan(error) else error))
        )
    return tuple(entries)
