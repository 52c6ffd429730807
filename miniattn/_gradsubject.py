"""A forward with its backward, and how the two are compared entry by entry."""

import copy
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from miniattn import _checks
from miniattn._differences import Differences
from miniattn._gradreport import Entry, GradcheckError, measured
from miniattn._typing import Array


@runtime_checkable
class Module(Protocol):
    """As much of ``nn.Module`` as is needed here."""

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]: ...
    def backward(self, *args: Any, **kwargs: Any) -> Any: ...
    def named_parameters(self) -> Iterator[tuple[str, Any]]: ...


class Way(NamedTuple):
    """How closely to look: entries of each array, the largest error, the step of differences."""

    samples: int | None
    tolerance: float
    step: float


class Subject:
    """A forward and its backward, and the arrays that are to be moved."""

    def __init__(
        self,
        f: Any,
        inputs: Mapping[str, Any] | tuple[Any, ...] | Array,
        backward: Callable[..., Any] | None,
        options: dict[str, Any],
    ) -> None:
        if isinstance(f, type) or not (callable(f) or isinstance(f, Module)):
            raise TypeError(f"f: expected a function or a module, got {_checks.shown(f)}")
        if backward is not None and not callable(backward):
            raise TypeError(f"backward: expected a function, got {_checks.shown(backward)}")
        self.is_module = is_module = isinstance(f, Module)
        self.title = type(f).__name__ if is_module else getattr(f, "__name__", repr(f))
        self.forward = f.forward if is_module else f
        self.backward = backward or (f.backward if is_module else _sibling(f))
        self.options = options
        self.dout = np.zeros(0)  # of the last comparison
        self.replaced: set[str] = set()  # parameters whose gradients are not added to
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

    def compared(self, way: Way, rng: np.random.Generator) -> tuple[Entry, ...]:
        """Return what backward and differences say of each entry, for a random gradient of y."""
        y, ctx = self.run()
        # A masked log-softmax is -inf by construction: such entries have no slope and get no
        # gradient.
        self.dout = dout = np.where(np.isfinite(y), rng.standard_normal(y.shape), 0.0)
        gradients = self.gradients(dout, ctx)
        places = [
            (name, array, index, gradient[index])
            for (name, array), gradient in zip(self.targets, gradients, strict=True)
            for index in _choose(array.shape, way.samples, rng)
            if np.isfinite(array[index])
        ]
        if not places:
            return ()

        def differences(array: Array, index: tuple[int, ...]) -> Differences:
            h = way.step * max(1.0, abs(array[index]))
            return Differences(self.mover(array, index), dout, y, float(array[index]), h)

        entries = measured(
            [
                (name, index, analytic, differences(array, index).extrapolated())
                for name, array, index, analytic in places
            ]
        )
        return tuple(
            entry
            if entry.error <= way.tolerance or differences(array, index).tell(entry.analytic)
            else replace(entry, decided=False)
            for entry, (_, array, index, _) in zip(entries, places, strict=True)
        )

    def known(self) -> dict[str, Any]:
        """Return what a wrong gradient may be made of: inputs, options, parameters, the context."""
        _, ctx = self.run()
        parts = ctx._asdict() if hasattr(ctx, "_asdict") else {}
        if not parts and isinstance(ctx, tuple | dict):
            named = ctx.items() if isinstance(ctx, dict) else enumerate(ctx)
            parts = {f"ctx[{name!r}]": part for name, part in named}
        data = {name: p.data for name, p in self.parameters.items()}
        everything = {**parts, **self.options, **data, **self.inputs, "dout": self.dout}
        kinds = (np.ndarray, int, float, np.number)
        return {name: value for name, value in everything.items() if isinstance(value, kinds)}

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
        with self.own_grads():
            result = self.backward(dout[()], ctx)
            learned = self._accumulated()
            if self.learned:  # what is there already must stay: once more, and it is twice that
                self.backward(dout[()], self.run()[1])
                learned = self._added(learned)
        gradients = [*self._in_order(result), *learned]
        for (name, array), gradient in zip(self.targets, gradients, strict=True):
            if gradient.shape != array.shape:
                raise GradcheckError(
                    f"{self.title}: expected a gradient of {name} of shape {array.shape}, "
                    f"got {gradient.shape}"
                )
        return gradients

    def _accumulated(self) -> list[Array]:
        """Return copies of the gradients of the parameters: backward may add to them in place."""
        parameters = self.learned.values()
        return [np.zeros(p.shape) if p.grad is None else np.array(p.grad) for p in parameters]

    def _added(self, first: list[Array]) -> list[Array]:
        """Return what a second backward adds, where it is not what the first one did."""
        added = []
        for name, one, both in zip(self.learned, first, self._accumulated(), strict=True):
            size = float(np.abs(one).max(initial=0.0))
            if one.shape != both.shape or np.allclose(both, 2 * one, 1e-9, 1e-9 * size, True):
                added.append(one)
            else:
                self.replaced.add(name)
                added.append(both - one)
        return added

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
    def own_grads(self) -> Iterator[None]:
        """Start every parameter without a gradient, and leave it with the one it had."""
        before = {name: p.grad for name, p in self.parameters.items()}
        for p in self.parameters.values():
            p.grad = None
        try:
            yield
        finally:
            for name, p in self.parameters.items():
                p.grad = before[name]


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
