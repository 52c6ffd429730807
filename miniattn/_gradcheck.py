"""Check a hand-written backward against central differences of its forward."""

import copy
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from miniattn import _checks
from miniattn._differences import Differences
from miniattn._typing import Array

__all__ = ["GradcheckError", "GradcheckReport", "gradcheck"]

# Entries smaller than this share of the largest gradient are measured against that share: central
# differences do not resolve them to six digits of their own.
RESOLUTION = 1e-3


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
class GradcheckReport:
    """What a gradient check found.

    Attributes
    ----------
    entries : tuple of Entry
        Every number that was checked: (name, index, analytic, numeric, error, decided).
    tolerance : float
        The largest error that passes.
    """

    entries: tuple[Entry, ...]
    tolerance: float

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
        per_name = ", ".join(f"{name} {error:.1e}" for name, error in self.errors.items())
        lines = [
            f"gradcheck {word}: {len(self.entries)} entries, tolerance {self.tolerance:.1e}",
            f"  worst: {self.worst}",
            f"  largest error of each: {per_name}",
        ]
        if self.undecided:
            one = max(self.undecided, key=lambda entry: entry.error)
            lines.append(
                f"  at {len(self.undecided)} of the entries differences tell nothing, because they "
                f"depend on the step: move the point or take a smaller step\n  one of them: {one}"
            )
        return "\n".join(lines)

    __repr__ = __str__


class GradcheckError(AssertionError):
    """Backward disagrees with differences, or these tell nothing; ``report`` (or None) says where.

    ``report.verdict`` tells the two apart. Without a report a gradient is missing or misshapen.
    """

    def __init__(self, message: str, report: GradcheckReport | None = None) -> None:
        super().__init__(message)
        self.report = report


@runtime_checkable
class _Module(Protocol):
    """As much of ``nn.Module`` as is needed here."""

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]: ...
    def backward(self, *args: Any, **kwargs: Any) -> Any: ...
    def named_parameters(self) -> Iterator[tuple[str, Any]]: ...


def gradcheck(
    f: Any,
    inputs: Mapping[str, Any] | tuple[Any, ...] | Array,
    *,
    backward: Callable[..., Any] | None = None,
    samples: int | None = None,
    tolerance: float = 1e-6,
    step: float = 1e-3,
    seed: int = 0,
    raises: bool = True,
    **options: Any,
) -> GradcheckReport:
    r"""Compare the gradients of a backward with central differences of its forward.

    With L = sum(dout * y) for a random ``dout``, every entry t of every input (and of every
    trainable parameter of a module) is moved, and dL/dt is compared with

    .. math:: \frac{4 D(h/2) - D(h)}{3}, \qquad D(h) = \frac{L(t + h) - L(t - h)}{2h}.

    Parameters
    ----------
    f : function or module
        The forward half of a pair, ``X_forward(...) -> (y, ctx)``, whose ``X_backward`` is found
        beside it; or a module with ``forward`` and ``backward``.
    inputs : dict, tuple or array
        The arguments to differentiate by, float64, any shapes: by name or in order. Integer and
        bool arrays are passed on and not checked, nor are entries that are not finite (which
        is how to see that NaN in a hidden key does no harm).
    backward : function, optional
        ``backward(dout, ctx)``, where it cannot be found from the name of ``f``. It returns one
        gradient for each float input, in order.
    samples : int, optional
        Check this many random entries of each array; by default all of them.
    tolerance : float
        The largest relative error that passes.
    step : float
        h, times max(1, abs(t)). Keep kinks (as of relu at 0) further away than this.
    seed : int
        Seeds ``dout`` and the choice of entries.
    raises : bool
        Whether anything but a pass is raised. Otherwise look at ``report.verdict``.
    **options
        All other arguments of the forward. A ``numpy.random.Generator`` among them is copied for
        every call, so that dropout drops the same entries each time.

    Returns
    -------
    GradcheckReport
        ``verdict`` ("passed", "failed", "undecided"), ``error``, ``worst`` (name, index, both
        values), ``errors`` by name, ``undecided``, ``entries``.

    Raises
    ------
    GradcheckError
        If an error exceeds ``tolerance``: "the gradient is wrong", or, where differences tell
        nothing, "undecided". Also, whatever ``raises`` says, if backward returns a wrong number of
        gradients or a gradient of the wrong shape. It is an AssertionError and carries the report.
    TypeError
        If an input or a parameter is not float64, or no backward can be found.
    ValueError
        If there is nothing to check, or ``f`` is not deterministic.

    Notes
    -----
    The error of an entry is abs(a - n) / max(abs(a), abs(n), 0.001 * M), where a is the analytic
    and n the numeric value, and M the largest gradient in the whole check. The two central
    differences cancel their errors of order h^2, which leaves h^4 and room for a large step; that
    in turn keeps rounding at about 1e-13 of L.

    Where a and n disagree, a further step shows whether differences tell anything at that point.
    Where the function is steep or flat beside the step, or has a kink within it, they depend on the
    step: the entry is then undecided, and the backward is not called wrong (nor right). See the
    guide "Checking gradients".

    Examples
    --------
    >>> import numpy as np
    >>> import miniattn as ma
    >>> def square_forward(x):
    ...     return x * x, x
    >>> def square_backward(dy, x):
    ...     return 2 * dy * x
    >>> report = ma.gradcheck(square_forward, np.arange(3.0), backward=square_backward)
    >>> report.passed, len(report.entries)
    (True, 3)
    >>> ma.gradcheck(square_forward, np.arange(3.0), backward=lambda dy, x: dy * x)
    Traceback (most recent call last):
    miniattn._gradcheck.GradcheckError: square_forward: the gradient is wrong...
    """
    if samples is not None:
        _checks.sizes(samples=samples)
    raises = _checks.flag("raises", raises)
    tolerance, step = _checks.positive("tolerance", tolerance), _checks.positive("step", step)
    rng = np.random.default_rng(_checks.integer("seed", seed, least=0))
    subject = _Subject(f, inputs, backward, options)
    y, ctx = subject.run()
    if np.isnan(y).any() or not np.array_equal(y, subject.run()[0]):
        raise ValueError(f"f: expected numbers, and the same ones in every call, got {y} first")
    # A masked log-softmax is -inf by construction: such entries have no slope and get no gradient.
    dout = np.where(np.isfinite(y), rng.standard_normal(y.shape), 0.0)
    gradients = subject.gradients(dout, ctx)
    places = [
        (name, array, index, gradient[index])
        for (name, array), gradient in zip(subject.targets, gradients, strict=True)
        for index in _choose(array.shape, samples, rng)
        if np.isfinite(array[index])
    ]
    if not places:
        raise ValueError("inputs: expected at least one float64 number to move, got none")

    def differences(array: Array, index: tuple[int, ...]) -> Differences:
        h = step * max(1.0, abs(array[index]))
        return Differences(subject.mover(array, index), dout, y, float(array[index]), h)

    entries = _measured(
        [
            (name, index, analytic, differences(array, index).extrapolated())
            for name, array, index, analytic in places
        ]
    )
    entries = tuple(
        entry
        if entry.error <= tolerance or differences(array, index).tell(entry.analytic)
        else replace(entry, decided=False)
        for entry, (_, array, index, _) in zip(entries, places, strict=True)
    )
    report = GradcheckReport(entries, tolerance)
    if raises and not report.passed:
        wrong = report.verdict == "failed"
        said = "the gradient is wrong" if wrong else "undecided, differences tell nothing here"
        raise GradcheckError(f"{subject.title}: {said}\n{report}", report)
    return report


class _Subject:
    """A forward and its backward, and the arrays that are to be moved."""

    def __init__(
        self,
        f: Any,
        inputs: Mapping[str, Any] | tuple[Any, ...] | Array,
        backward: Callable[..., Any] | None,
        options: dict[str, Any],
    ) -> None:
        if isinstance(f, type) or not (callable(f) or isinstance(f, _Module)):
            raise TypeError(f"f: expected a function or a module, got {_checks.shown(f)}")
        if backward is not None and not callable(backward):
            raise TypeError(f"backward: expected a function, got {_checks.shown(backward)}")
        is_module = isinstance(f, _Module)
        self.title = type(f).__name__ if is_module else getattr(f, "__name__", repr(f))
        self.forward = f.forward if is_module else f
        self.backward = backward or (f.backward if is_module else _sibling(f))
        self.options = options
        self.inputs = {
            name: np.array(_checks.any_array(name, x, "an array"))
            for name, x in _by_name(self.forward, inputs).items()
        }
        self.moved = {name: x for name, x in self.inputs.items() if x.dtype.kind not in "iub"}
        self.parameters = dict(f.named_parameters()) if is_module else {}
        self.learned = {name: p for name, p in self.parameters.items() if p.trainable}
        self.targets: list[tuple[str, Array]] = [
            *self.moved.items(),
            *((name, p.data) for name, p in self.learned.items()),
        ]
        for name, array in self.targets:
            if array.dtype != np.float64:
                raise TypeError(f"{name}: expected dtype float64, got {array.dtype}")

    def run(self) -> tuple[Array, Any]:
        """Return (y, ctx) of one forward; every call gets its own copy of a random generator."""
        options = {
            name: copy.deepcopy(value) if isinstance(value, np.random.Generator) else value
            for name, value in self.options.items()
        }
        y, ctx = self.forward(**self.inputs, **options)
        return np.asarray(y), ctx

    def mover(self, array: Array, index: tuple[int, ...]) -> Callable[[float], Array]:
        """Return a function of a number that gives y with it in place of ``array[index]``."""

        def evaluate(t: float) -> Array:
            kept = array[index]
            array[index] = t
            try:
                return self.run()[0]
            finally:
                array[index] = kept

        return evaluate

    def gradients(self, dout: Array, ctx: Any) -> list[Array]:
        """Return what backward finds for each of ``targets``."""
        with self._own_grads():
            result = self.backward(dout[()], ctx)
            learned = [
                np.zeros(p.shape) if p.grad is None else p.grad for p in self.learned.values()
            ]
        gradients = [*self._in_order(result), *learned]
        for (name, array), gradient in zip(self.targets, gradients, strict=True):
            if gradient.shape != array.shape:
                raise GradcheckError(
                    f"{self.title}: expected a gradient of {name} of shape {array.shape}, "
                    f"got {gradient.shape}"
                )
        return gradients

    def _in_order(self, result: Any) -> list[Array]:
        """Return the gradients of the moved inputs: dq of q by name, otherwise by position."""
        if hasattr(result, "_asdict"):
            given = {name: result._asdict().get(f"d{name}") for name in self.moved}
            gradients = [g for g in given.values() if g is not None]
        else:
            several = result if isinstance(result, tuple) else (result,)
            gradients = [np.asarray(g) for g in several if g is not None]
        if len(gradients) != len(self.moved):
            raise GradcheckError(
                f"{self.title}: expected gradients of {', '.join(self.moved) or 'no input'}, "
                f"got {len(gradients)} from backward"
            )
        return gradients

    @contextmanager
    def _own_grads(self) -> Iterator[None]:
        """Start every parameter without a gradient, and leave it with the one it had."""
        before = {name: p.grad for name, p in self.parameters.items()}
        for p in self.parameters.values():
            p.grad = None
        try:
            yield
        finally:
            for name, p in self.parameters.items():
                p.grad = before[name]


def _measured(found: list[tuple[str, tuple[int, ...], float, float]]) -> tuple[Entry, ...]:
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


def _choose(
    shape: tuple[int, ...], samples: int | None, rng: np.random.Generator
) -> Iterator[tuple[int, ...]]:
    """All indices of an array, or ``samples`` random ones in order."""
    size = int(np.prod(shape))
    if samples is None or samples >= size:
        yield from np.ndindex(shape)
    else:
        for flat in np.sort(rng.choice(size, samples, replace=False)):
            yield tuple(int(i) for i in np.unravel_index(flat, shape))


def _by_name(
    forward: Callable[..., Any], inputs: Mapping[str, Any] | tuple[Any, ...] | Array
) -> dict[str, Any]:
    """Give inputs that came in order the names of the forward's arguments."""
    if isinstance(inputs, Mapping):
        return dict(inputs)
    several = inputs if isinstance(inputs, tuple) else (inputs,)
    return dict(zip(inspect.signature(forward).parameters, several, strict=False))


def _sibling(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Find X_backward in the module where X_forward is."""
    name = getattr(forward, "__name__", "")
    home = sys.modules.get(getattr(forward, "__module__", ""), None)
    backward = getattr(home, name.removesuffix("_forward") + "_backward", None)
    if backward is None or not name.endswith("_forward"):
        raise TypeError(
            "f: expected a function X_forward with an X_backward beside it, a module, "
            f"or backward=..., got {name or forward!r}"
        )
    return backward  # type: ignore[no-any-return]
