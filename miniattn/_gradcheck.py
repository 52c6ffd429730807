"""Check a hand-written backward against central differences of its forward."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from miniattn import _checks
from miniattn._gradmodules import judged, why
from miniattn._gradreport import GradcheckError, GradcheckReport
from miniattn._gradsubject import Subject, Way
from miniattn._typing import Array

__all__ = ["GradcheckError", "GradcheckReport", "gradcheck"]


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
        values), ``errors`` by name, ``undecided``, ``entries``; where it failed ``cause``, and of a
        module ``modules`` and ``first_wrong``.

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

    Where a backward is wrong, hypotheses are tried on the numbers (a sign, a factor, a transpose, a
    missing term, ...), and of a module each part is judged alone, from the output on, with what it
    was given in this call. Where all parts are right, the first wrong gradient between them is
    named, and what became of the gradients that are to be added there. A module runs backward
    twice: what is in `Parameter.grad` has to be added to.

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
    miniattn.GradcheckError: square_forward: the gradient is wrong...
    """
    if samples is not None:
        _checks.sizes(samples=samples)
    raises = _checks.flag("raises", raises)
    tolerance, step = _checks.positive("tolerance", tolerance), _checks.positive("step", step)
    rng = np.random.default_rng(_checks.integer("seed", seed, least=0))
    subject = Subject(f, inputs, backward, options)
    y, _ = subject.run()
    if np.isnan(y).any() or not np.array_equal(y, subject.run()[0]):
        raise ValueError(f"f: expected numbers, and the same ones in every call, got {y} first")
    way = Way(samples, tolerance, step)
    entries = subject.compared(way, rng)
    if not entries:
        raise ValueError("inputs: expected at least one float64 number to move, got none")
    report = GradcheckReport(entries, tolerance)
    if report.verdict == "failed":
        report = _explained(f, subject, report, way, seed)
    if raises and not report.passed:
        wrong = report.verdict == "failed"
        said = "the gradient is wrong" if wrong else "undecided, differences tell nothing here"
        raise GradcheckError(f"{subject.title}: {said}\n{report}", report)
    return report


def _explained(
    f: Any, subject: Subject, report: GradcheckReport, way: Way, seed: int
) -> GradcheckReport:
    """Add which part of a module is wrong, and the likely cause."""
    if subject.is_module and hasattr(f, "named_modules"):
        modules, cause = judged(f, subject, way, seed)
        return replace(report, modules=modules, cause=cause)
    return replace(report, cause=why(subject, report.entries, way.tolerance))
