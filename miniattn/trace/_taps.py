"""Taps: while a model is traced, calls of its modules' pairs go by way of what looks on.

They sit on the modules themselves and not on their classes, and are gone afterwards. A call in
another thread, which nobody looks at, goes through.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from miniattn import _tracing
from miniattn.nn import Dropout, Module
from miniattn.nn._module import walk


class Looker(_tracing.Tracer, Protocol):
    """What looks on at modules, too."""

    def forward(
        self, module: Any, paths: list[str], call: Callable[..., Any], args: Any, named: Any
    ) -> Any:
        """Run ``call``, the forward of the module that is at ``paths``."""
        ...

    def backward(self, module: Any, call: Callable[..., Any], args: Any, named: Any) -> Any:
        """Run ``call``, the backward of a module."""
        ...


class _Eye:
    """What looks on, and at which modules."""

    def __init__(self, looker: Looker, paths: Mapping[int, list[str]]) -> None:
        self.looker, self.paths = looker, paths
        self.point, self.point_backward = looker.point, looker.point_backward
        self.attention_forward = looker.attention_forward
        self.attention_backward = looker.attention_backward


_lock = threading.Lock()
_tapped: dict[int, int] = {}  # how many calls look at a module


@contextlib.contextmanager
def taps(model: Module, looker: Looker) -> Iterator[None]:
    """Let ``looker`` see every call of a module of ``model`` that this thread makes within it."""
    paths, modules = _places(model)
    with _lock:
        for module in modules:
            if not _tapped.setdefault(id(module), 0):
                _tap(module)
            _tapped[id(module)] += 1
    try:
        with _tracing.looked_at(_Eye(looker, paths)):
            yield
    finally:
        with _lock:
            for module in modules:
                _tapped[id(module)] -= 1
                if not _tapped[id(module)]:
                    _untap(module)
                    del _tapped[id(module)]


def _places(model: Module) -> tuple[dict[int, list[str]], list[Module]]:
    """Return where each module of a model is, one or more paths by its id, and the modules."""
    paths, modules = dict[int, list[str]](), []
    for path, node in walk(model, ""):
        if isinstance(node, Module):
            if id(node) not in paths:
                modules.append(node)
            paths.setdefault(id(node), []).append(path)
    return paths, modules


def _pair(module: Module) -> tuple[str, str]:
    """Return the names of a module's pair: that which all its calls go through."""
    return ("drop", "undrop") if isinstance(module, Dropout) else ("forward", "backward")


def _tap(module: Module) -> None:
    forward, backward = _pair(module)
    for name, is_forward in ((forward, True), (backward, False)):
        vars(module)[name] = _through(module, name, is_forward)


def _untap(module: Module) -> None:
    for name in _pair(module):
        before = vars(module).pop(name).before
        if before is not None:
            vars(module)[name] = before


def _through(module: Module, name: str, is_forward: bool) -> Callable[..., Any]:
    """Return the method ``name`` of a module by way of what looks on."""
    call = getattr(module, name)

    def tap(*args: Any, **named: Any) -> Any:
        eye = _tracing.current()
        if not isinstance(eye, _Eye) or (paths := eye.paths.get(id(module))) is None:
            return call(*args, **named)
        if is_forward:
            return eye.looker.forward(module, paths, call, args, named)
        return eye.looker.backward(module, call, args, named)

    tap.before = vars(module).get(name)  # type: ignore[attr-defined]
    return tap
