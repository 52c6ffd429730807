"""What passes while a model runs: points and calls, their names, and attention unobserved."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

import miniattn.functional as F
from miniattn import _checks, _tracing
from miniattn._typing import Array
from miniattn.trace._edits import Edit


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


def attend(
    q: Array, k: Array, v: Array, options: Mapping[str, Any]
) -> tuple[Array, F.AttentionContext]:
    """Run attention while nobody looks."""
    with _tracing.looked_at(None):
        return F.attention_forward(q, k, v, **options)


def attend_back(
    dout: Array, ctx: F.AttentionContext, dlse: Array | None, needs: Collection[Any]
) -> F.AttentionGrads | F.ScoredAttentionGrads:
    """Run attention's backward while nobody looks."""
    with _tracing.looked_at(None):
        return F.attention_backward(dout, ctx, dlse=dlse, needs=tuple(needs))


def check_name(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"name: expected a str, got {_checks.shown(name)}")
    if not name or "." in name or "#" in name:
        raise ValueError(f"name: expected a word without '.' and '#', got {name!r}")


def output_name(frame: Frame) -> str:
    """Return what the result of a forward is called: nothing, or of the whole model ``output``."""
    return "" if frame.path else "output"


def input_name(i: int, name: str) -> str:
    """Return what an argument of a forward is called: the first one is the input."""
    return "input" if i == 0 else f"input.{name}"


def each_array(name: str, value: Any, change: Callable[[str, Array], Array]) -> Any:
    """Return ``value`` with ``change(name, array)`` in the place of each array in it."""
    if isinstance(value, np.ndarray):
        return change(name, value)
    if not isinstance(value, tuple):
        return value
    fields = getattr(value, "_fields", range(len(value)))
    return rebuilt(
        value,
        [
            each_array(f"{name}.{field}".strip("."), x, change)
            for field, x in zip(fields, value, strict=True)
        ],
    )


def rebuilt(old: tuple[Any, ...], items: list[Any]) -> tuple[Any, ...]:
    return type(old)(*items) if hasattr(old, "_fields") else tuple(items)
