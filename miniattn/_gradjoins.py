"""What joins the parts of a module: which gradient between them is the first wrong one, and why.

Where all parts are right alone and the whole is not, some line between them is wrong. Every
intermediate that a trace knows by name is moved, and what comes of it is compared with the gradient
that backward has of it, from the result down.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from miniattn import trace
from miniattn._causes import Cause, by_parts, likely
from miniattn._differences import Differences
from miniattn._gradreport import AGREES, measured
from miniattn._gradsubject import Subject, Way
from miniattn._typing import Array
from miniattn.nn import Module
from miniattn.trace._names import split
from miniattn.trace._passing import Later
from miniattn.trace._trace import called

# Entries of an intermediate that are looked at, to tell why its gradient is wrong.
ENTRIES = 200


class _Inside(NamedTuple):
    """A call of a module, and the gradients that its backward has of what is inside."""

    subject: Subject
    module: Module
    t: trace.Trace
    gradients: trace.Gradients
    y: Array
    way: Way

    def slope(self, name: str, direction: Array, analytic: float) -> tuple[float, bool]:
        """Return the slope along a direction of an intermediate; False where it tells nothing."""
        use = name if "#" in name else f"{name}#1"

        def evaluate(step: float) -> Array:
            edits = {use: trace.add(step * direction)}
            y, _ = called(self.module, (), _arguments(self.subject), (), edits)
            return np.asarray(y)

        found = Differences(evaluate, self.subject.dout, self.y, 0.0, self.way.step)
        numeric = found.extrapolated()
        error = measured([(name, (), analytic, numeric)])[0].error
        return numeric, error <= self.way.tolerance or found.tell(analytic)


def joined(module: Any, subject: Subject, way: Way, seed: int) -> Cause | None:
    """Return the first gradient between the parts that is wrong, and why; None if there is none.

    Parameters
    ----------
    module : Module
        Whose parts are right, each alone.
    subject : Subject
        It, after a comparison.
    """
    if not isinstance(module, Module):
        return None
    y, t = called(module, (), _arguments(subject))
    with subject.own_grads():
        try:
            gradients = t.gradients(subject.dout[()])
        except ValueError as error:  # of a point that was given a gradient of another shape
            return Cause("shape", str(error))
    inside = _Inside(subject, module, t, gradients, np.asarray(y), way)
    names = [name for name in reversed(t.names) if not isinstance(t._kept[name], Later)]
    names = [name for name in names if t[name].dtype == np.float64 and t[name].size]
    if len(names) < 3:  # it has no parts that are known: what comes in and what goes out
        return None
    rng = np.random.default_rng(seed)
    for n, name in enumerate(names):
        if _is_wrong(inside, name, rng):
            return _why(inside, name, names[:n], names[n:], rng)
    return None


def _arguments(subject: Subject) -> dict[str, Any]:
    """Return the arguments of a call; every one gets its own copy of a random generator."""
    given = {**subject.inputs, **subject.options}
    generators = (np.random.Generator,)
    return {k: copy.deepcopy(v) if isinstance(v, generators) else v for k, v in given.items()}


def _is_wrong(inside: _Inside, name: str, rng: np.random.Generator) -> bool:
    """Return whether the gradient of an intermediate is wrong along a random direction."""
    shape = inside.t[name].shape
    direction = rng.standard_normal(shape)
    got = _got(inside, name)
    if got.shape != shape:
        return True
    analytic = float((got * direction).sum())
    numeric, tells = inside.slope(name, direction, analytic)
    error = measured([(name, (), analytic, numeric)])[0].error
    return tells and not error <= inside.way.tolerance


def _got(inside: _Inside, name: str) -> Array:
    if name in inside.gradients:
        return inside.gradients[name]
    return np.zeros(inside.t[name].shape)


def _why(
    inside: _Inside, name: str, before: list[str], after: list[str], rng: np.random.Generator
) -> Cause:
    """Return why a gradient is wrong of which those of ``before`` are right."""
    said = f"the first wrong gradient is that of `{name}`"
    if name not in inside.gradients:
        return Cause("left out", f"{said}: none comes. {_left_out(inside)}")
    shape = inside.t[name].shape
    got = inside.gradients[name]
    if got.shape != shape:
        return Cause("shape", f"{said}: expected shape {shape}, got {got.shape}")
    at = np.sort(rng.permutation(got.size)[:ENTRIES])
    right = _slopes(inside, name, at)

    def those(of: Callable[[str], Array], names: list[str]) -> dict[str, Array]:
        alike = [n for n in names if n in inside.gradients and inside.t[n].shape == shape]
        return {n: of(n).ravel()[at] for n in alike}

    def gradient(name: str) -> Array:
        return inside.gradients[name]

    mine = got.ravel()[at]
    found = by_parts(
        mine,
        right,
        {_spoken(n): g for n, g in those(gradient, _by_nearness(before)).items()},
        {_spoken(n): g for n, g in those(gradient, after[1:]).items()},
        agrees=AGREES,
    )
    if found is None:
        known = those(inside.t.__getitem__, [*before, *after])
        known |= {f"gradient of {n}": g for n, g in those(gradient, before).items()}
        whole = got.size == len(at)
        shaped = {n: a.reshape(shape) if whole else a for n, a in known.items()}
        mine, right = (a.reshape(shape) if whole else a for a in (mine, right))
        found = likely(mine, right, shaped, agrees=AGREES)
    if found is None:
        return Cause("unexplained", said)
    return Cause(found.kind, f"{said}: {found.text}")


def _left_out(inside: _Inside) -> str:
    """Return which parts get no gradient, the outer ones alone."""
    paths = {path for path, _ in inside.module.named_modules() if path}
    without = {n for n in inside.t.names if n not in inside.gradients and split(n)[0] in paths}
    outer = [n for n in without if not any(n.startswith(f"{other}.") for other in without)]
    if not outer:
        return "No `point_backward` says it"
    names = ", ".join(f"`{n}`" for n in reversed(inside.t.names) if n in outer)
    return f"Left out, or not called with the context of this call, is the backward of: {names}"


def _slopes(inside: _Inside, name: str, at: Array) -> Array:
    """Return what differences say of some entries of an intermediate's gradient."""
    shape, got = inside.t[name].shape, inside.gradients[name].ravel()
    slopes = []
    for place in at:
        unit = np.zeros(got.size)
        unit[place] = 1.0
        slopes.append(inside.slope(name, unit.reshape(shape), float(got[place]))[0])
    return np.array(slopes)


def _by_nearness(names: list[str]) -> list[str]:
    """Return names with those first that sums are made of: what comes in, and back through parts.

    Of two that have one gradient the outer is named.
    """
    return sorted(names, key=lambda name: (not _comes_back(name), name.count(".")))


def _comes_back(name: str) -> bool:
    return name == "output" or ".input" in name


def _spoken(name: str) -> str:
    """Return what a gradient is called in a sentence."""
    if name == "output":
        return "the gradient that comes in"
    alone, mark, rest = split(name)[0].partition(".input")
    if mark:
        return f"what comes back through `{alone}`" + (f" to its `{rest[1:]}`" if rest else "")
    return f"the gradient of `{name}`"
