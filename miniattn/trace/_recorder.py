"""What looks on while a model runs: it names, keeps and edits what passes in the forward."""

from __future__ import annotations

import functools
import inspect
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

import miniattn.functional as F
from miniattn import _checks
from miniattn._typing import Array
from miniattn.masks import Mask, as_mask
from miniattn.trace import _names
from miniattn.trace._edits import Edit, applied
from miniattn.trace._passing import (
    Frame,
    Kept,
    Later,
    Point,
    attend,
    attend_back,
    check_name,
    each_array,
    input_name,
    output_name,
)


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
        check_name(name)
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
            y = each_array(output_name(frame), y, lambda name, x: self._pass(frame, name, x))
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
        labels = [input_name(i, name) for i, name in enumerate(names)]
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
            return attend(q, k, v, options)
        frame = Frame(outer.path)
        given = {"q": q, "k": k, "v": v}
        given = {
            name: self._pass(frame, name, x) if isinstance(x, np.ndarray) else x
            for name, x in given.items()
        }
        out, ctx = attend(**given, options=options)
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
        return attend_back(dout, ctx, dlse, needs)

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


def rule_of(attention: F.AttentionContext) -> Mask | None:
    """Return what hid keys in a call: the mask, and a bias of -inf."""
    mask, bias = attention.mask, attention.bias
    if bias is None or not np.isneginf(bias).any():
        return mask
    seen = as_mask(~np.isneginf(bias))
    return seen if mask is None else mask & seen


@functools.cache
def _names_of(function: Any) -> tuple[str, ...]:
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind not in kinds)


def _parameters(call: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of the parameters of a bound method, without self."""
    function = getattr(call, "__func__", None)
    return _names_of(call) if function is None else _names_of(function)[1:]
