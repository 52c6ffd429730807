"""Who writes to the residual stream of a model, who reads it, and under which names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from miniattn import _checks
from miniattn._typing import Array
from miniattn.analysis._metrics import Metric
from miniattn.analysis._patching import Inputs, gradients_aside, values_and_gradients
from miniattn.analysis._stream import ResidualStream, residual_stream, written_by_heads

if TYPE_CHECKING:
    from miniattn.nn import Module

_OF_HEAD = re.compile(r"(.+)\.(heads|q|k|v)\[(\d+)\]")


class Graph:
    """Who writes to the residual stream, who reads it, in which order, and under which names."""

    def __init__(self, model: Module, stream: ResidualStream | None) -> None:
        self.modules: dict[str, Any] = dict(
            _checks.having("model", model, "named_modules").named_modules()
        )
        self.stream = (
            residual_stream(model)
            if stream is None
            else _checks.instance("stream", stream, ResidualStream)
        )
        self.norms = dict(self.stream.sublayers)
        self.order = {"start": -1, "end": len(self.norms)}
        senders, receivers, self.written = ["start"], [], [self.stream.start]
        for i, name in enumerate(self.norms):
            part = self.modules[name]
            self.order[name] = i
            self.written.append(name)
            if hasattr(part, "out_proj"):
                senders += [f"{name}.heads[{h}]" for h in range(part.num_heads)]
                for of, count in self._projections(part):
                    receivers += [f"{name}.{of}[{h}]" for h in range(count)]
                self.written.append(f"{name}.heads")
            else:
                senders.append(name)
                receivers.append(name)
        self.senders, self.receivers = tuple(senders), (*receivers, "end")

    @staticmethod
    def _projections(part: Any) -> list[tuple[str, int]]:
        return [("q", part.num_heads), ("k", part.num_kv_heads), ("v", part.num_kv_heads)]

    def chosen(
        self, senders: Sequence[str] | None, receivers: Sequence[str] | None
    ) -> tuple[list[str], list[str]]:
        """Return those that were asked for; all for None."""
        out = []
        for argument, given, known in (
            ("senders", senders, self.senders),
            ("receivers", receivers, self.receivers),
        ):
            names = known if given is None else _checks.sequence(argument, given, "names")
            for name in names:
                if name not in known:
                    raise ValueError(
                        f"{argument}: expected names as edge_names gives them, got {name!r}"
                    )
            out.append(list(names))
        return out[0], out[1]

    def comes_before(self, sender: str, receiver: str) -> bool:
        """Return whether what a sender writes is there when a receiver reads."""
        return self._place(sender) < self._place(receiver)

    def _place(self, name: str) -> int:
        head = _OF_HEAD.fullmatch(name)
        return self.order[head[1] if head else name]

    def alone(self, sender: str, clean: Any, other: Any) -> dict[str, Any]:
        """Return edits: the sender as in the other run, all that come after it as they were."""
        from miniattn import trace

        head = _OF_HEAD.fullmatch(sender)
        edits: dict[str, Any] = {
            name: clean[name] for name in self.norms if self.order[name] > self._place(sender)
        }
        if head:
            h = int(head[3])
            name = f"{head[1]}.heads"
            edits[name] = trace.at[:, h](other[name][:, h])
        elif sender == "start":
            edits[self.stream.start] = other[self.stream.start]
        else:
            edits[sender] = other[sender]
        return edits

    def read_at(self, receiver: str) -> tuple[str, int | None]:
        """Return the name of what a receiver has read, and which head of it is the receiver's."""
        head = _OF_HEAD.fullmatch(receiver)
        if head:
            return f"{head[1]}.{head[2]}", int(head[3])
        norm = self.norms[receiver]
        return (f"{receiver}.input" if norm is None else norm), None

    def contributions(self, t: Any) -> Array:
        """Return what each sender wrote, (senders, B, T, E) in float64."""
        parts = [t[self.stream.start].astype(np.float64)]
        for name in self.norms:
            part = self.modules[name]
            if hasattr(part, "out_proj"):
                parts += list(written_by_heads(part, t[f"{name}.heads"].astype(np.float64)))
            else:
                parts.append(t[name].astype(np.float64))
        return np.stack(parts)

    def read_gradients(
        self,
        model: Module,
        inputs: Inputs,
        metric: Metric,
        options: Mapping[str, Any] | None,
        edits: Mapping[str, Any],
    ) -> list[Array]:
        """Return d metric / d (the stream, as each receiver alone reads it), (B, T, E) each."""
        names = [self._entry(name) for name in (*self.norms, "end")]
        for name in self.norms:
            if hasattr(self.modules[name], "out_proj"):
                names += [f"{name}.{of}_proj" for of in "qkv"]
        values, grads = values_and_gradients(model, inputs, metric, names, options, edits)
        out: list[Array] = []
        for name, norm in self.norms.items():
            part = self.modules[name]
            if hasattr(part, "out_proj"):
                back = _through(self.modules[norm], values[self._entry(name)]) if norm else None
                for of, count in self._projections(part):
                    proj = getattr(part, f"{of}_proj").weight.data
                    dy = grads[f"{name}.{of}_proj"]
                    for h in range(count):
                        rows = slice(h * len(proj) // count, (h + 1) * len(proj) // count)
                        dx = dy[..., rows] @ proj[rows]
                        out.append(back(dx) if back else dx)
            else:
                out.append(grads[self._entry(name)])
        out.append(grads[self._entry("end")])
        return [dx.astype(np.float64) for dx in out]

    def _entry(self, name: str) -> str:
        """Return the name of the stream as a reader is given it."""
        if name == "end":
            last = self.stream.norm or self.stream.head
            if last is None:
                raise ValueError("stream: expected a norm or a head, got neither")
            return f"{last}.input"
        return f"{self.norms[name] or name}.input"


def _through(norm: Any, x: Array) -> Callable[[Array], Array]:
    """Return the way back through a normalisation at ``x``, its parameters left alone."""
    _, ctx = norm.forward(x)

    def back(dy: Array) -> Array:
        with gradients_aside(norm):
            dx: Array = norm.backward(np.ascontiguousarray(dy), ctx)
        return dx

    return back
