"""Edits: what an intermediate becomes before the model goes on, and the way back through that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from miniattn import _checks
from miniattn._typing import Array


@runtime_checkable
class Edit(Protocol):
    """A pair, as all operations are; every `miniattn.nn.Module` of one array is one.

    The result has the shape and the dtype of what came. ``x`` can't be written to.
    """

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return (y, ctx): what the model goes on with, and what ``backward`` needs."""
        ...

    def backward(self, dy: Array, ctx: Any) -> Array:
        """Return dx."""
        ...


Pair: TypeAlias = tuple[Callable[[Array], tuple[Array, Any]], Callable[[Array, Any], Array]]
EditLike: TypeAlias = "Edit | Array | Pair | Sequence[EditLike]"


class _Put:
    """An array in the place of what came; no gradient passes."""

    def __init__(self, value: Array) -> None:
        self.value = value

    def forward(self, x: Array) -> tuple[Array, None]:
        return _broadcast("array", self.value, x).copy(), None

    def backward(self, dy: Array, ctx: None) -> Array:
        return np.zeros_like(dy)

    def __repr__(self) -> str:
        return f"array{self.value.shape}"


class _Zero:
    """Nothing in the place of what came: y = 0."""

    def forward(self, x: Array) -> tuple[Array, None]:
        return np.zeros_like(x), None

    def backward(self, dy: Array, ctx: None) -> Array:
        return np.zeros_like(dy)

    def __repr__(self) -> str:
        return "zero"


class _Freeze:
    """y = x, and no gradient passes."""

    def forward(self, x: Array) -> tuple[Array, None]:
        return x, None

    def backward(self, dy: Array, ctx: None) -> Array:
        return np.zeros_like(dy)

    def __repr__(self) -> str:
        return "freeze"


zero: Edit = _Zero()
"""0 in the place of what came; no gradient passes. It ablates a head, a token or a layer."""
freeze: Edit = _Freeze()
"""What came goes on as it is; no gradient passes."""


class scale:
    """Multiply what comes: y = a x.

    Parameters
    ----------
    a : float, or array that broadcasts to x
        0 drops what comes, and lets no gradient pass.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn, trace
    >>> layer, x = nn.Linear(2, 2), np.ones((1, 2), np.float32)
    >>> y, t = trace.run(layer, x, edits={"output": trace.scale(-1)})
    >>> bool((y == -layer(x)).all())
    True
    """

    def __init__(self, a: float | Array) -> None:
        self.a: float | Array = a if isinstance(a, np.ndarray) else _checks.number("a", a)

    def forward(self, x: Array) -> tuple[Array, None]:
        """Return (a x, ctx)."""
        return _times(self.a, x), None

    def backward(self, dy: Array, ctx: None) -> Array:
        """Return dx = a dy."""
        # y = a x
        return _times(self.a, dy)

    def __repr__(self) -> str:
        return f"scale({_brief(self.a)})"


class add:
    """Add to what comes: y = x + v. It steers a model along a direction.

    Parameters
    ----------
    v : array that broadcasts to x, of its dtype, or float

    References
    ----------
    Turner et al., "Activation Addition: Steering Language Models Without Optimization", 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn, trace
    >>> layer, x = nn.Linear(2, 2, rng=np.random.default_rng(0)), np.ones((1, 2), np.float32)
    >>> y, t = trace.run(layer, x, edits={"output": trace.add(np.float32([1, 0]))})
    >>> (y - layer(x)).round(4)
    array([[1., 0.]], dtype=float32)
    """

    def __init__(self, v: float | Array) -> None:
        self.v: float | Array = v if isinstance(v, np.ndarray) else _checks.number("v", v)

    def forward(self, x: Array) -> tuple[Array, None]:
        """Return (x + v, ctx)."""
        v = _broadcast("v", self.v, x) if isinstance(self.v, np.ndarray) else self.v
        return x + v, None

    def backward(self, dy: Array, ctx: None) -> Array:
        """Return dx = dy."""
        # y = x + v
        return dy

    def __repr__(self) -> str:
        return f"add({_brief(self.v)})"


class _At:
    """An edit of what is at an index; the rest goes on as it came."""

    def __init__(self, index: Any, edit: Edit) -> None:
        self.index, self.edit = index, edit

    def forward(self, x: Array) -> tuple[Array, Any]:
        y = x.copy()
        part, ctx = self.edit.forward(x[self.index])
        y[self.index] = _checked("at[...]", part, np.asarray(x[self.index]))
        return y, ctx

    def backward(self, dy: Array, ctx: Any) -> Array:
        dx = dy.copy()
        # y[index] = edit(x[index])
        dx[self.index] = self.edit.backward(dy[self.index], ctx)
        return dx

    def __repr__(self) -> str:
        return f"at[{self.index}]({self.edit!r})"


class _Index:
    """``at[index](edit)``: what takes an index, and then an edit."""

    def __getitem__(self, index: Any) -> Callable[[EditLike], Edit]:
        return lambda edit: _At(index, as_edit("edit", edit))

    def __repr__(self) -> str:
        return "at"


at = _Index()
"""``at[index](edit)`` edits what is at an index, as NumPy has it: ``at[:, 3](zero)`` is head 3."""


class _Pair:
    """Two functions."""

    def __init__(
        self,
        forward: Callable[[Array], tuple[Array, Any]],
        backward: Callable[[Array, Any], Array],
    ) -> None:
        self.forward, self.backward = forward, backward

    def __repr__(self) -> str:
        return f"({_called(self.forward)}, {_called(self.backward)})"


class _Several:
    """Edits one after the other."""

    def __init__(self, edits: Sequence[Edit]) -> None:
        self.edits = edits

    def forward(self, x: Array) -> tuple[Array, list[Any]]:
        ctxs = []
        for edit in self.edits:
            x, ctx = edit.forward(x)
            ctxs.append(ctx)
        return x, ctxs

    def backward(self, dy: Array, ctx: list[Any]) -> Array:
        for edit, of_edit in zip(reversed(self.edits), reversed(ctx), strict=True):
            dy = edit.backward(dy, of_edit)
        return dy

    def __repr__(self) -> str:
        return f"[{', '.join(map(repr, self.edits))}]"


def as_edit(name: str, value: object) -> Edit:
    """Return the edit that ``value`` stands for."""
    if isinstance(value, np.ndarray):
        return _Put(value)
    if isinstance(value, tuple) and len(value) == 2 and all(map(callable, value)):
        return _Pair(*value)
    if isinstance(value, list):
        return _Several([as_edit(f"{name}[{i}]", edit) for i, edit in enumerate(value)])
    if isinstance(value, Edit) and not isinstance(value, type):
        return value
    raise TypeError(
        f"{name}: expected an array, a pair (forward, backward), a list of edits, or what has a "
        f"forward and a backward, as zero, scale(a), add(x), freeze, at[index](edit), "
        f"got {_checks.shown(value)}"
    )


def as_edits(value: object) -> dict[str, Edit]:
    """Return the edits of a call by pattern."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"edits: expected a dict of names to edits, got {_checks.shown(value)}")
    for name in value:
        if not isinstance(name, str):
            raise TypeError(f"edits: expected names (str), got {_checks.shown(name)}")
    return {name: as_edit(f"edits[{name}]", edit) for name, edit in value.items()}


def applied(name: str, edit: Edit, x: Array) -> tuple[Array, Any]:
    """Return (y, ctx) of an edit of ``x``, which it is kept from writing to."""
    given = x.view()
    given.flags.writeable = False
    with _checks.renamed(array=name, v=name, a=name):
        y, ctx = edit.forward(given)
    return (x if y is given else _checked(name, y, x)), ctx


def _checked(name: str, y: object, x: Array) -> Array:
    """Return the result of an edit if it can stand in the place of ``x``."""
    if not isinstance(y, np.ndarray | np.generic):
        raise TypeError(f"{name}: expected an edit that returns an array, got {_checks.shown(y)}")
    if y.dtype != x.dtype:
        raise TypeError(f"{name}: expected {x.dtype}, as what it edits, got {y.dtype}")
    if y.shape != x.shape:
        raise ValueError(f"{name}: expected the shape of what it edits, {x.shape}, got {y.shape}")
    return y if isinstance(y, np.ndarray) and y.flags.writeable else np.array(y)


def _broadcast(name: str, value: Array, x: Array) -> Array:
    if value.dtype != x.dtype:
        raise TypeError(f"{name}: expected {x.dtype}, as what it edits, got {value.dtype}")
    try:
        return np.broadcast_to(value, x.shape)
    except ValueError:
        raise ValueError(
            f"{name}: expected a shape that broadcasts to {x.shape}, got {value.shape}"
        ) from None


def _times(a: float | Array, x: Array) -> Array:
    a = _broadcast("a", a, x) if isinstance(a, np.ndarray) else a
    with np.errstate(invalid="ignore"):  # 0 · -inf of a hidden score, which stays hidden
        product: Array = a * x
    return product


def _brief(value: float | Array) -> str:
    return f"array{value.shape}" if isinstance(value, np.ndarray) else f"{value:g}"


def _called(function: object) -> str:
    return getattr(function, "__name__", repr(function))
