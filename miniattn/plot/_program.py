"""The lines of a forward and its backward, as data that a page of numbers works out.

A name is of a matrix; that of its gradient has a "d" before its last part: "0.1.q", "0.1.dq".
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from miniattn._typing import Array

Line: TypeAlias = dict[str, Any]
Pair: TypeAlias = tuple[str, str | None]


def d(name: str) -> str:
    """Return the name of the gradient."""
    start, dot, last = name.rpartition(".")
    return f"{start}{dot}d{last}"


def part(a: str, b: str, **more: Any) -> dict[str, Any]:
    """Return one product of a sum: a or its transpose (``at``), b or its (``bt``), ``scale``."""
    return {"a": a, "b": b, **more}


class Program:
    """Lines in the order in which they are worked out, and where each of their names is shown."""

    def __init__(self) -> None:
        self.given: dict[str, Array] = {}
        self.masks: dict[str, Array] = {}
        self.lines: list[Line] = []
        self.groups: list[dict[str, Any]] = []

    def line(self, kind: str, name: str, title: str, **reads: Any) -> None:
        """Add a line."""
        self.lines.append({"kind": kind, "name": name, "title": f"{name} = {title}", **reads})

    def product(self, name: str, title: str, *parts: dict[str, Any], **more: Any) -> None:
        """Add a line that is a sum of products."""
        self.line("product", name, title, parts=list(parts), **more)

    def group(self, title: str, pairs: Sequence[Pair]) -> None:
        """Show these values, each beside its gradient, as one part of the page."""
        self.groups.append({"title": title, "pairs": list(pairs)})

    def data(self, out: str, first: str) -> dict[str, Any]:
        """Return what the page is told: the loss is sum(dout · out), ``first`` is chosen first."""
        return {
            "given": {name: np.asarray(x).tolist() for name, x in self.given.items()},
            "masks": {name: seen.tolist() for name, seen in self.masks.items()},
            "lines": self.lines,
            "groups": self.groups,
            "out": out,
            "first": first,
        }


def head_forward(
    p: Program, x: str, at: str, scale: float, *, biases: bool = False, out: str = "out"
) -> None:
    """Add the lines of one head's forward; ``at`` is what its names begin with."""
    for name in "qkv":
        w = f"{at}W{name}"
        bias = {"bias": f"{at}b{name}"} if biases else {}
        more = f" + {at}b{name}" if biases else ""
        p.product(f"{at}{name}", f"{x} {w}^T{more}", part(x, w, bt=True), **bias)
    p.product(
        f"{at}scores",
        "scale q k^T, where the mask lets see",
        part(f"{at}q", f"{at}k", bt=True, scale=scale),
        seen=f"{at}seen",
    )
    p.line("softmax", f"{at}weights", "softmax(scores)", of=f"{at}scores")
    p.product(f"{at}{out}", "weights v", part(f"{at}weights", f"{at}v"))


def head_backward(
    p: Program, x: str, dout: str, at: str, scale: float, *, biases: bool = False
) -> list[dict[str, Any]]:
    """Add the lines of its backward; return the parts of dx, which heads add up."""
    w, dw, ds = f"{at}weights", f"{at}dweights", f"{at}dscores"
    q, k, v = (f"{at}{name}" for name in "qkv")
    p.product(dw, "dout v^T", part(dout, v, bt=True))
    p.product(d(v), "weights^T dout", part(w, dout, at=True))
    p.line("softmaxBack", ds, "weights (dweights - sum(weights dweights))", weights=w, dweights=dw)
    p.product(d(q), "scale dscores k", part(ds, k, scale=scale))
    p.product(d(k), "scale dscores^T q", part(ds, q, at=True, scale=scale))
    for name in (q, k, v):
        of = name.rpartition(".")[2]
        p.product(f"{at}dW{of}", f"{d(name)}^T {x}", part(d(name), x, at=True))
        if biases:
            p.line("columns", f"{at}db{of}", f"sum of the rows of {d(name)}", of=d(name))
    return [part(d(f"{at}{of}"), f"{at}W{of}") for of in "qkv"]


def head_pairs(at: str, out: Pair, *, biases: bool = False) -> list[Pair]:
    """Return what is shown of a head."""
    maps = [f"{at}{kind}{of}" for of in "qkv" for kind in ("W", "b")[: 1 + biases]]
    inner = [f"{at}{name}" for name in ("q", "k", "v", "scores", "weights")]
    return [*((name, d(name)) for name in (*maps, *inner)), out]
