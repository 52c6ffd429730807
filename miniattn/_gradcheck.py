"""Check a hand-written backward against central differences of its forward."""

import copy
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from miniattn import _checks
from miniattn._checks import Array

__all__ = ["GradcheckError", "GradcheckReport", "gradcheck"]

# Entries smaller than this share of the largest gradient are measured against that share: central
# differences do not resolve them to six digits of their own.
RESOLUTION = 1e-3


@dataclass(frozen=True)
class Entry:
    """One checked number: where it is, and its derivative found in both ways."""

    name: str
    index: tuple[int, ...]
    analytic: float
    numeric: float
    error: float

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
        Every number that was checked: (name, index, analytic, numeric, error).
    tolerance : float
        The largest error that passes.
    """

    entries: tuple[Entry, ...]
    tolerance: float

    @property
    def worst(self) -> Entry:
        """The entry with the largest relative error."""
        return max(self.entries, key=lambda entry: entry.error)

    @property
    def error(self) -> float:
        """The largest relative error of all entries."""
        return self.worst.error

    @property
    def passed(self) -> bool:
        """Whether every error is at most ``tolerance``."""
        return self.error <= self.tolerance

    @property
    def errors(self) -> dict[str, float]:
        """The largest relative error of each input and parameter."""
        largest: dict[str, float] = {}
        for entry in self.entries:
            largest[entry.name] = max(entry.error, largest.get(entry.name, 0.0))
        return largest

    def __str__(self) -> str:
        verdict = "ok" if self.passed else "WRONG"
        per_name = ", ".join(f"{name} {error:.1e}" for name, error in self.errors.items())
        return (
            f"gradcheck {verdict}: {len(self.entries)} entries, tolerance {self.tolerance:.1e}\n"
            f"  worst: {self.worst}\n  largest error of each: {per_name}"
        )

    __repr__ = __str__


class GradcheckError(AssertionError):
    """Backward disagrees with central differences; ``report`` (or None) says where."""

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
    **options
        All other arguments of the forward. A ``numpy.random.Generator`` among them is copied for
        every call, so that dropout drops the same entries each time.

    Returns
    -------
    GradcheckReport
        ``error``, ``worst`` (name, index, both values), ``errors`` by name, ``entries``.

    Raises
    ------
    GradcheckError
        If an error exceeds ``tolerance``, or backward returns a wrong number of gradients or a
        gradient of the wrong shape. It is an AssertionError and carries the report.
    TypeError
        If an input or a parameter is not float64, or no backward can be found.
    ValueError
        If there is nothing to check, or ``f`` is not deterministic.

    Notes
    -----
    The error of an entry is abs(a - n) / max(abs(a), abs(n), 0.001 * M), where a is the analytic
    and n the numeric value, and M the largest gradient in the whole check. The two central
    differences cancel their errors of order h^2, which leaves h^4 and room for a large step; that
    in turn keeps rounding at about 1e-13 of L. See the guide "Checking gradients".

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
    tolerance, step = _checks.positive("tolerance", tolerance), _checks.positive("step", step)
    rng = np.random.default_rng(_checks.integer("seed", seed, least=0))
    subject = _Subject(f, inputs, backward, options)
    y, ctx = subject.run()
    if np.isnan(y).any() or not np.array_equal(y, subject.run()[0]):
        raise ValueError(f"f: expected numbers, and the same ones in every call, got {y} first")
    # A masked log-softmax is -inf by construction: such entries have no slope and get no gradient.
    dout = np.where(np.isfinite(y), rng.standard_normal(y.shape), 0.0)
    gradients = subject.gradients(dout, ctx)
    found = [
        (name, index, gradient[index], _derivative(subject, dout, array, index, step))
        for (name, array), gradient in zip(subject.targets, gradients, strict=True)
        for index in _choose(array.shape, samples, rng)
        if np.isfinite(array[index])
    ]
    if not found:
        raise ValueError("inputs: expected at least one float64 number to move, got none")
    report = GradcheckReport(_measured(found), tolerance)
    if not report.passed:
        raise GradcheckError(f"{subject.title}: the gradient is wrong\n{report}", report)
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


def _derivative(
    subject: _Subject, dout: Array, array: Array, index: tuple[int, ...], step: float
) -> float:
    """dL/d array[index] by two central differences, extrapolated to a step of 0 (Richardson)."""
    centre = array[index]
    width = step * max(1.0, abs(centre))

    def slope(h: float) -> float:
        array[index] = centre + h
        right, above = array[index], subject.run()[0]
        array[index] = centre - h
        left, below = array[index], subject.run()[0]
        # Each output is subtracted before the sum, which would round away its last digits; and
        # right - left is the step that was made, where 2 h is the one that was meant.
        rise = np.subtract(above, below, where=dout != 0, out=np.zeros(dout.shape))
        return float((dout * rise).sum() / (right - left))

    try:
        return (4.0 * slope(width / 2.0) - slope(width)) / 3.0
    finally:
        array[index] = centre


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
