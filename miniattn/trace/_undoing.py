"""What looks on in the backward: it names and keeps gradients, and undoes the edits."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

import miniattn.functional as F
from miniattn._typing import Array
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
    rebuilt,
)
from miniattn.trace._recorder import Recorder


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
        check_name(name)
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
        dy = each_array(output_name(frame), dy, lambda name, x: self._undo(points, name, x))
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
        labels = [input_name(i, field.removeprefix("d")) for i, field in enumerate(fields)]
        new = [
            self._undo(points, label, dx) if isinstance(dx, np.ndarray) else dx
            for label, dx in zip(labels, grads, strict=True)
        ]
        return rebuilt(grads, new)

    def _found(self, module: Any, ctx: Any) -> Frame | None:
        frames = self._pending.get((id(module), id(ctx)))
        return frames.pop() if frames else None

    # -- attention -----------------------------------------------------------------------------

    def attention_forward(self, q: Array, k: Array, v: Array, **options: Any) -> tuple[Array, Any]:
        """Run `functional.attention_forward` inside of a backward."""
        return attend(q, k, v, options)

    def attention_backward(
        self, dout: Array, ctx: Any, *, dlse: Array | None, needs: Collection[Any]
    ) -> Any:
        """Run `functional.attention_backward`."""
        frame = self._found(None, ctx)
        if frame is None:
            return attend_back(dout, ctx, dlse, needs)
        points = {name: list(passed) for name, passed in frame.points.items()}
        dout = self._undo(points, "heads", dout)
        if frame.explicit is not None:
            grads = F._explicit.backward(
                dout, ctx, dlse, frame.explicit, lambda name, dx: self._undo(points, name, dx)
            )
        else:
            grads = attend_back(dout, ctx, dlse, {"q", "k", "v", *needs})
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


def _check_undone(points: dict[str, list[Point]]) -> None:
    """Raise where a backward left out an edit that the forward went through."""
    for passed in points.values():
        for name, edits, _, has_gradient in passed:
            if edits and has_gradient:
                raise RuntimeError(
                    f"{name}: expected a backward that undoes the edit, got one without "
                    "point_backward for it, or without a gradient of that input"
                )


def _of_backward(args: Any, named: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Return dy, ctx and what else a backward was given, however it was."""
    rest, given = dict(named), list(args)
    if len(given) < 2:
        given.append(rest.pop("ctx"))
    if len(given) < 2:  # dy too by name, the only other one that is always there
        given.insert(0, rest.pop(next(iter(rest))))
    dy, ctx = given
    return dy, ctx, rest
