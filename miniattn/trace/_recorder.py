"""What looks on while a model runs: it names, keeps and edits what passes, in both directions."""

from __future__ import annotations

import functools
import inspect
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

import miniattn.functional as F
from miniattn import _checks, _tracing
from miniattn._typing import Array
from miniattn.masks import Mask, as_mask
from miniattn.trace import _names
from miniattn.trace._edits import Edit, applied


class Later(NamedTuple):
    """An array that is made when it is looked at."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    make: Callable[[], Array]


Kept = dict[str, "Array | Later"]


class Point(NamedTuple):
    """A name that a forward passed, and what has to be undone there."""

    name: str
    edits: list[tuple[Edit, Any]]
    shape: tuple[int, ...]
    has_gradient: bool


class Frame:
    """One call of a module, or one of `functional.attention_forward` inside of it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.points: dict[str, list[Point]] = defaultdict(list)
        self.ctx: Any = None  # held on to, so that its id stays its own
        self.explicit: F._explicit.Explicit | None = None
        self.later: dict[str, str] = {}  # names of scores and weights that are made later


class Attention(NamedTuple):
    """A call of attention: where its map is found, and what it was called with."""

    name: str
    ctx: F.AttentionContext


class Recorder:
    """Names, keeps and edits what passes in the forward of one model.

    Parameters
    ----------
    keep : tuple of patterns
    edits : dict of pattern to Edit
    undone : bool
        Whether a backward will follow: then calls are kept to be found again.
    """

    def __init__(
        self, keep: tuple[str, ...], edits: Mapping[str, Edit], *, undone: bool = True
    ) -> None:
        self.keep, self.edits, self.undone = keep, edits, undone
        self.patterns = (*keep, *edits)
        self.values: Kept = {}
        self.passed: dict[str, None] = {}  # in order
        self.attentions: dict[str, Attention] = {}
        self.used_keep, self.used_edits = set[str](), set[str]()
        self.calls: dict[tuple[int, int], list[Frame]] = defaultdict(list)
        self._stack: list[Frame | None] = []
        self._uses = Counter[str]()

    # -- points --------------------------------------------------------------------------------

    def point(self, name: str, x: Array) -> Array:
        """Return ``x`` as it goes on, kept and edited as its name says."""
        _check_name(name)
        if not isinstance(x, np.ndarray):
            raise TypeError(f"x: expected an array for {name!r}, got {_checks.shown(x)}")
        frame = self._stack[-1] if self._stack else None
        return x if frame is None else self._pass(frame, name, x)

    def point_backward(self, name: str, dx: Array) -> Array:
        """Return dx as it is: in a forward nothing is undone."""
        return dx

    def _pass(self, frame: Frame, local: str, x: Array) -> Array:
        name, use = self._named(frame, local)
        done = []
        for pattern, edit in self.edits.items():
            if _names.matches(pattern, name, use):
                self.used_edits.add(pattern)
                x, ctx = applied(f"edits[{pattern}]", edit, x)
                done.append((edit, ctx))
        full = _names.numbered(name, use)
        self.passed[full if self.undone else name] = None
        if self.undone:
            frame.points[local].append(Point(full, done, x.shape, x.dtype.kind == "f"))
        if self._is_kept(name, use):
            self.values[full] = x.copy()  # what a module writes to later is another array
        return x

    def _named(self, frame: Frame, local: str) -> tuple[str, int]:
        """Return the name of a point, and which use of it this is."""
        name = f"{frame.path}.{local}".strip(".")
        self._uses[name] += 1
        return name, self._uses[name]

    def _is_kept(self, name: str, use: int) -> bool:
        met = [pattern for pattern in self.keep if _names.matches(pattern, name, use)]
        self.used_keep.update(met)
        return bool(met)

    # -- modules -------------------------------------------------------------------------------

    def forward(
        self, module: Any, paths: list[str], call: Callable[..., Any], args: Any, named: Any
    ) -> Any:
        """Run the forward of a module."""
        frame = Frame(self._place(paths))
        self._stack.append(frame)
        try:
            args, named = self._given(frame, call, args, named)
            y, ctx = call(*args, **named)
            y = _each(_output(frame), y, lambda name, x: self._pass(frame, name, x))
        finally:
            self._stack.pop()
        return y, self._remember(module, ctx, frame)

    def backward(self, module: Any, call: Callable[..., Any], args: Any, named: Any) -> Any:
        """Run the backward of a module, of which a forward knows nothing."""
        if not self.undone:
            raise ValueError(
                "ctx: expected a call of trace.run, whose gradients go through edits, "
                "got one within trace.edited"
            )
        return call(*args, **named)

    def aside(self, call: Callable[..., Any], args: Any, named: Any) -> Any:
        """Run what is of no interest: what happens in it has no name."""
        self._stack.append(None)
        try:
            return call(*args, **named)
        finally:
            self._stack.pop()

    def _place(self, paths: list[str]) -> str:
        """Return the path of a module: where it is in several, that below what calls it."""
        outer = self._stack[-1] if self._stack else None
        if outer is None or len(paths) == 1:
            return paths[0]
        inside = (path for path in paths if path.startswith(f"{outer.path}.".lstrip(".")))
        return next(inside, paths[0])

    def _given(
        self, frame: Frame, call: Callable[..., Any], args: Any, named: Any
    ) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments of a forward, those that are arrays as they go on."""
        names = _parameters(call)
        labels = [_input(i, name) for i, name in enumerate(names)]
        of = dict(zip(names, labels, strict=True))
        positional = [
            self._pass(frame, labels[i] if i < len(labels) else f"input.{i}", x)
            if isinstance(x, np.ndarray)
            else x
            for i, x in enumerate(args)
        ]
        by_name = {
            name: self._pass(frame, of.get(name, f"input.{name}"), x)
            if isinstance(x, np.ndarray)
            else x
            for name, x in named.items()
        }
        return positional, by_name

    def _remember(self, module: Any, ctx: Any, frame: Frame) -> Any:
        """Return the context of a call, by which its backward will find it."""
        if not self.undone:
            return ctx
        if (id(module), id(ctx)) in self.calls:
            # A layer used twice on one array, whose context is that array: now another one.
            if isinstance(ctx, np.ndarray):
                ctx = ctx.view()
            elif isinstance(ctx, tuple) and ctx:
                ctx = tuple.__new__(type(ctx), ctx)
        frame.ctx = ctx
        self.calls[id(module), id(ctx)].append(frame)
        return ctx

    # -- attention -----------------------------------------------------------------------------

    def attention_forward(self, q: Array, k: Array, v: Array, **options: Any) -> tuple[Array, Any]:
        """Run `functional.attention_forward`, which is a part of the module that calls it."""
        outer = self._stack[-1] if self._stack else None
        if outer is None:
            return _forward(q, k, v, options)
        frame = Frame(outer.path)
        given = {"q": q, "k": k, "v": v}
        given = {
            name: self._pass(frame, name, x) if isinstance(x, np.ndarray) else x
            for name, x in given.items()
        }
        out, ctx = _forward(**given, options=options)
        if self._edits_inside(frame):
            ctx, frame.explicit = F._explicit.forward(
                ctx, lambda name, x: self._pass(frame, name, x)
            )
            out = ctx.out
        else:
            shape = (*ctx.q.shape[:-1], ctx.k.shape[-2])
            self._pass_later(frame, "scores", shape, ctx, F._explicit.scores)
            self._pass_later(frame, "weights", shape, ctx, F._explicit.weights)
        if self.undone:
            name = f"{frame.path}.weights".strip(".")
            use = self._uses[name]
            found = Attention(_names.numbered(name, use), ctx)
            self.attentions[_names.numbered(frame.path, use)] = found
        out = self._pass(frame, "heads", out)
        return out, self._remember(None, ctx, frame)

    def attention_backward(
        self, dout: Array, ctx: Any, *, dlse: Array | None, needs: Collection[Any]
    ) -> Any:
        """Run `functional.attention_backward`, of which a forward knows nothing."""
        return _backward(dout, ctx, dlse, needs)

    def _edits_inside(self, frame: Frame) -> bool:
        """Return whether scores or weights of the attention that now runs are edited."""
        names = [f"{frame.path}.{local}".strip(".") for local in ("scores", "weights")]
        return any(
            _names.matches(pattern, name, self._uses[name] + 1)
            for pattern in self.edits
            for name in names
        )

    def _pass_later(
        self,
        frame: Frame,
        local: str,
        shape: tuple[int, ...],
        ctx: F.AttentionContext,
        make: Callable[[F.AttentionContext], Array],
    ) -> None:
        name, use = self._named(frame, local)
        full = _names.numbered(name, use)
        self.passed[full if self.undone else name] = None
        if self._is_kept(name, use):
            frame.later[local] = full
            self.values[full] = Later(shape, ctx.q.dtype, functools.partial(make, ctx))


class Undoing:
    """Names and keeps the gradients that pass in the backward of what a `Recorder` saw."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.patterns = recorder.patterns
        self.gradients: Kept = {}
        self._pending = {key: list(frames) for key, frames in recorder.calls.items()}
        self._stack: list[dict[str, list[Point]] | None] = []

    # -- points --------------------------------------------------------------------------------

    def point(self, name: str, x: Array) -> Array:
        """Return x: what a backward computes anew is what the forward had."""
        return x

    def point_backward(self, name: str, dx: Array) -> Array:
        """Return the gradient of what the point was given."""
        _check_name(name)
        points = self._stack[-1] if self._stack else None
        if not points or not points.get(name):
            return dx
        shape = points[name][-1].shape
        if np.shape(dx) != shape:
            raise ValueError(f"dx: expected the shape of {name!r}, {shape}, got {np.shape(dx)}")
        return self._undo(points, name, dx)

    def _undo(self, points: dict[str, list[Point]], local: str, dx: Array) -> Array:
        if not points.get(local):
            return dx
        name, edits, *_ = points[local].pop()
        if name in self.recorder.values:
            self.gradients[name] = dx.copy()
        for edit, ctx in reversed(edits):
            dx = edit.backward(dx, ctx)
        return dx

    # -- modules -------------------------------------------------------------------------------

    def forward(
        self, module: Any, paths: list[str], call: Callable[..., Any], args: Any, named: Any
    ) -> Any:
        """Run a forward inside of a backward."""
        return call(*args, **named)

    def backward(self, module: Any, call: Callable[..., Any], args: Any, named: Any) -> Any:
        """Run the backward of a module."""
        dy, ctx, rest = _of_backward(args, named)
        frame = self._found(module, ctx)
        if frame is None:
            return call(*args, **named)
        points = {name: list(passed) for name, passed in frame.points.items()}
        dy = _each(_output(frame), dy, lambda name, x: self._undo(points, name, x))
        self._stack.append(points)
        try:
            grads = call(dy, ctx, **rest)
        finally:
            self._stack.pop()
        grads = self._back_to_inputs(points, grads, frame)
        _check_undone(points)
        return grads

    def aside(self, call: Callable[..., Any], args: Any, named: Any) -> Any:
        """Run what is of no interest."""
        self._stack.append(None)
        try:
            return call(*args, **named)
        finally:
            self._stack.pop()

    def _back_to_inputs(self, points: dict[str, list[Point]], grads: Any, frame: Frame) -> Any:
        if isinstance(grads, np.ndarray):
            return self._undo(points, "input", grads)
        if not isinstance(grads, tuple):
            return grads
        fields = getattr(grads, "_fields", [f"d{i}" for i in range(len(grads))])
        labels = [_input(i, field.removeprefix("d")) for i, field in enumerate(fields)]
        new = [
            self._undo(points, label, dx) if isinstance(dx, np.ndarray) else dx
            for label, dx in zip(labels, grads, strict=True)
        ]
        return _rebuilt(grads, new)

    def _found(self, module: Any, ctx: Any) -> Frame | None:
        frames = self._pending.get((id(module), id(ctx)))
        return frames.pop() if frames else None

    # -- attention -----------------------------------------------------------------------------

    def attention_forward(self, q: Array, k: Array, v: Array, **options: Any) -> tuple[Array, Any]:
        """Run `functional.attention_forward` inside of a backward."""
        return _forward(q, k, v, options)

    def attention_backward(
        self, dout: Array, ctx: Any, *, dlse: Array | None, needs: Collection[Any]
    ) -> Any:
        """Run `functional.attention_backward`."""
        frame = self._found(None, ctx)
        if frame is None:
            return _backward(dout, ctx, dlse, needs)
        points = {name: list(passed) for name, passed in frame.points.items()}
        dout = self._undo(points, "heads", dout)
        if frame.explicit is not None:
            grads = F._explicit.backward(
                dout, ctx, dlse, frame.explicit, lambda name, dx: self._undo(points, name, dx)
            )
        else:
            grads = _backward(dout, ctx, dlse, {"q", "k", "v", *needs})
            self._keep_later(frame, dout, ctx, dlse)
        undone: dict[str, Any] = {
            f"d{name}": dx if dx is None else self._undo(points, name, dx)
            for name, dx in zip(("q", "k", "v", "bias"), grads[:4], strict=True)
        }
        undone |= {d: getattr(grads, d) for d in grads._fields[4:]}
        _check_undone(points)
        asked = {d: dx if d[1:] in needs else None for d, dx in undone.items()}
        return grads._replace(**asked)

    def _keep_later(
        self, frame: Frame, dout: Array, ctx: F.AttentionContext, dlse: Array | None
    ) -> None:
        if not frame.later:
            return
        dout, dlse = dout.copy(), None if dlse is None else dlse.copy()
        makes = {
            "weights": functools.partial(F._explicit.weights_gradient, dout, ctx),
            "scores": functools.partial(F._explicit.scores_gradient, dout, ctx, dlse),
        }
        shape = (*ctx.q.shape[:-1], ctx.k.shape[-2])
        for local, name in frame.later.items():
            self.gradients[name] = Later(shape, ctx.q.dtype, makes[local])


def rule_of(attention: F.AttentionContext) -> Mask | None:
    """Return what hid keys in a call: the mask, and a bias of -inf."""
    mask, bias = attention.mask, attention.bias
    if bias is None or not np.isneginf(bias).any():
        return mask
    seen = as_mask(~np.isneginf(bias))
    return seen if mask is None else mask & seen


def _forward(
    q: Array, k: Array, v: Array, options: Mapping[str, Any]
) -> tuple[Array, F.AttentionContext]:
    """Run attention while nobody looks."""
    with _tracing.looked_at(None):
        return F.attention_forward(q, k, v, **options)


def _backward(
    dout: Array, ctx: F.AttentionContext, dlse: Array | None, needs: Collection[Any]
) -> F.AttentionGrads | F.ScoredAttentionGrads:
    """Run attention's backward while nobody looks."""
    with _tracing.looked_at(None):
        return F.attention_backward(dout, ctx, dlse=dlse, needs=tuple(needs))


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"name: expected a str, got {_checks.shown(name)}")
    if not name or "." in name or "#" in name:
        raise ValueError(f"name: expected a word without '.' and '#', got {name!r}")


def _check_undone(points: dict[str, list[Point]]) -> None:
    """Raise where a backward left out an edit that the forward went through."""
    for passed in points.values():
        for name, edits, _, has_gradient in passed:
            if edits and has_gradient:
                raise RuntimeError(
                    f"{name}: expected a backward that undoes the edit, got one without "
                    "point_backward for it, or without a gradient of that input"
                )


@functools.cache
def _names_of(function: Any) -> tuple[str, ...]:
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind not in kinds)


def _parameters(call: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of the parameters of a bound method, without self."""
    function = getattr(call, "__func__", None)
    return _names_of(call) if function is None else _names_of(function)[1:]


def _output(frame: Frame) -> str:
    """Return what the result of a forward is called: nothing, or of the whole model ``output``."""
    return "" if frame.path else "output"


def _input(i: int, name: str) -> str:
    """Return what an argument of a forward is called: the first one is the input."""
    return "input" if i == 0 else f"input.{name}"


def _each(name: str, value: Any, change: Callable[[str, Array], Array]) -> Any:
    """Return ``value`` with ``change(name, array)`` in the place of each array in it."""
    if isinstance(value, np.ndarray):
        return change(name, value)
    if not isinstance(value, tuple):
        return value
    fields = getattr(value, "_fields", range(len(value)))
    return _rebuilt(
        value,
        [
            _each(f"{name}.{field}".strip("."), x, change)
            for field, x in zip(fields, value, strict=True)
        ],
    )


def _rebuilt(old: tuple[Any, ...], items: list[Any]) -> tuple[Any, ...]:
    return type(old)(*items) if hasattr(old, "_fields") else tuple(items)


def _of_backward(args: Any, named: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Return dy, ctx and what else a backward was given, however it was."""
    rest, given = dict(named), list(args)
    if len(given) < 2:
        given.append(rest.pop("ctx"))
    if len(given) < 2:  # dy too by name, the only other one that is always there
        given.insert(0, rest.pop(next(iter(rest))))
    dy, ctx = given
    return dy, ctx, rest
