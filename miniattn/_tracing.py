"""Whether anybody looks: the one place where a forward and a backward say what they have in hand.

`miniattn.trace` looks at what modules are given and return by itself. What is in between is said by
one line in each direction::

    h = point("hidden", h)              # forward: h, or what an edit makes of it
    dh = point_backward("hidden", dh)   # backward: the gradient of what the point returned

Where nobody traces both return what they were given, for the price of a call. Who traces is said by
a context variable, so that other threads, which use the same model, are not seen.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator
from contextvars import ContextVar
from typing import Any, Protocol

from miniattn._typing import Array


class Tracer(Protocol):
    """What looks on."""

    def point(self, name: str, x: Array) -> Array:
        """Return what a forward goes on with in the place of ``x``."""
        ...

    def point_backward(self, name: str, dx: Array) -> Array:
        """Return the gradient of what the point ``name`` was given, of that of what it returned."""
        ...

    def attention_forward(self, q: Array, k: Array, v: Array, **options: Any) -> tuple[Array, Any]:
        """Do as `miniattn.functional.attention_forward`."""
        ...

    def attention_backward(
        self, dout: Array, ctx: Any, *, dlse: Array | None, needs: Collection[Any]
    ) -> Any:
        """Do as `miniattn.functional.attention_backward`."""
        ...


_tracer: ContextVar[Tracer | None] = ContextVar("tracer", default=None)
_lock = threading.Lock()
_traced = 0  # calls that are looked at, in any thread: to ask for a number costs least


def current() -> Tracer | None:
    """Return what looks on here, None where nobody does."""
    return _tracer.get() if _traced else None


@contextlib.contextmanager
def looked_at(tracer: Tracer | None) -> Iterator[None]:
    """Let ``tracer`` look on, or nobody, at what this thread does within it."""
    global _traced
    token = _tracer.set(tracer)
    with _lock:
        _traced += 1
    try:
        yield
    finally:
        with _lock:
            _traced -= 1
        _tracer.reset(token)


def point(name: str, x: Array) -> Array:
    """Name an intermediate of a module's ``forward``; return it, or what an edit makes of it.

    `miniattn.trace.run` knows it as ``path.name``, with the path of the module whose forward runs.

    Parameters
    ----------
    name : str
    x : array

    Returns
    -------
    array like x
        x itself, unless an edit of that name says otherwise. To go on with it is what makes edits
        work.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn, trace
    >>> class Squares(nn.Module):
    ...     def __init__(self):
    ...         self.out = nn.Linear(2, 1, dtype=np.float64)
    ...     def forward(self, x, *, rng=None):
    ...         h = trace.point("hidden", x * x)
    ...         y, out = self.out.forward(h)
    ...         return y, (x, out)
    ...     def backward(self, dy, ctx):
    ...         x, out = ctx
    ...         # y = out(h)
    ...         dh = trace.point_backward("hidden", self.out.backward(dy, out))
    ...         # h = x * x
    ...         return 2 * x * dh
    >>> y, t = trace.run(Squares(), np.array([[1.0, -3.0]]))
    >>> t.names
    ['input', 'hidden', 'out.input', 'out', 'output']
    >>> t["hidden"]
    array([[1., 9.]])
    """
    tracer = current()
    return x if tracer is None else tracer.point(name, x)


def point_backward(name: str, dx: Array) -> Array:
    """Undo `point` in the module's ``backward``: take and return the gradient of the intermediate.

    Parameters
    ----------
    name : str
        That of the forward. Points that a forward passes twice are undone last first.
    dx : array
        The gradient with respect to what the point returned.

    Returns
    -------
    array like dx
        The gradient with respect to what the point was given: dx itself, unless there is an edit.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import trace
    >>> dx = np.ones(3)
    >>> trace.point_backward("hidden", dx) is dx  # nobody traces
    True
    """
    tracer = current()
    return dx if tracer is None else tracer.point_backward(name, dx)
