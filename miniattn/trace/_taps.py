"""Taps: while a model is traced, calls of its modules' pairs go by way of what looks on.

They sit on the modules themselves and not on their classes, and are gone afterwards. A call in
another thread, which nobody looks at, goes through.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from miniattn import _tracing
from miniattn.nn import Dropout, Embedding, LayerNorm, Linear, Module, RMSNorm, Rotary
from miniattn.trace import _names


class Looker(_tracing.Tracer, Protocol):
    """What looks on at modules, too."""

    patterns: tuple[str, ...]
    """Of the names that it is there for."""

    def forward(
        self, module: Any, paths: list[str], call: Callable[..., Any], args: Any, named: Any
    ) -> Any:
        """Run ``call``, the forward of the module that is at ``paths``."""
        ...

    def backward(self, module: Any, call: Callable[..., Any], args: Any, named: Any) -> Any:
        """Run ``call``, the backward of a module."""
        ...

    def aside(self, call: Callable[..., Any], args: Any, named: Any) -> Any:
        """Run either of a module whose names nobody asks for: what it says is not its caller's."""
        ...


class _Eye:
    """What looks on, and at which modules."""

    def __init__(self, looker: Looker, seen: Mapping[int, list[str]], aside: set[int]) -> None:
        self.looker, self.seen, self.aside = looker, seen, aside
        self.point, self.point_backward = looker.point, looker.point_backward
        self.attention_forward = looker.attention_forward
        self.attention_backward = looker.attention_backward


class _Branches(dict[type, bool]):
    """Whether objects of a type may hold modules."""

    def __missing__(self, kind: type) -> bool:
        self[kind] = issubclass(kind, Module | list | tuple | dict)
        return self[kind]


_IS_BRANCH = _Branches()
_MUTE = frozenset({Dropout, Embedding, LayerNorm, Linear, RMSNorm, Rotary})
"""Classes that have no parts, pass no point and attend to nothing that would be their caller's."""
_lock = threading.Lock()
_tapped: dict[int, int] = {}  # how many calls look at a module


@contextlib.contextmanager
def taps(model: Module, looker: Looker) -> Iterator[None]:
    """Let ``looker`` see the modules that it is there for, where this thread calls them in it."""
    places = _Places(model)
    mute = tuple(path for path, module in places.first.items() if type(module) in _MUTE)
    seen, aside = _chosen(tuple(places.first), places.shared, mute, looker.patterns)
    modules = [places.first[path] for path in (*seen, *aside)]
    paths = {id(places.first[path]): places.paths[id(places.first[path])] for path in seen}
    with _lock:
        for module in modules:
            if not _tapped.setdefault(id(module), 0):
                _tap(module)
            _tapped[id(module)] += 1
    try:
        with _tracing.looked_at(_Eye(looker, paths, {id(places.first[path]) for path in aside})):
            yield
    finally:
        with _lock:
            for module in modules:
                _tapped[id(module)] -= 1
                if not _tapped[id(module)]:
                    _untap(module)
                    del _tapped[id(module)]


class _Places:
    """Where the modules of a model are, in the order of `Module.named_modules`, but sooner."""

    def __init__(self, model: Module) -> None:
        self.first: dict[str, Module] = {}
        self.paths: dict[int, list[str]] = {}
        self._visit(model, "")
        self.shared = tuple(path for p in self.paths.values() if len(p) > 1 for path in p)
        """Every path of what is in several places."""

    def _visit(self, node: Any, path: str) -> None:
        if isinstance(node, Module):
            places = self.paths.setdefault(id(node), [])
            if not places:
                self.first[path] = node
            places.append(path)
            if type(node) in _MUTE:
                return
            items: Iterable[tuple[Any, Any]] = vars(node).items()
        else:
            items = node.items() if isinstance(node, dict) else enumerate(node)
        start = f"{path}." if path else ""
        for name, value in items:
            # Nearly all attributes are leaves: by their type that is known in no time.
            if _IS_BRANCH[type(value)] and name != "_made_with":
                self._visit(value, f"{start}{name}")


@functools.lru_cache(maxsize=64)
def _chosen(
    paths: tuple[str, ...],
    shared: tuple[str, ...],
    mute: tuple[str, ...],
    patterns: tuple[str, ...],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the modules that have names asked for, and those called by them, to keep apart."""
    seen = _names.holders((*paths, *shared), patterns)
    if seen.intersection(shared):  # which of its places a module is called at, its callers say
        return paths, ()
    known = set(paths)

    def owner(path: str) -> str:
        while path and (path := path.rpartition(".")[0]) not in known:
            pass
        return path

    kept = seen.union(mute)
    aside = [path for path in paths if path and path not in kept and owner(path) in seen]
    return tuple(path for path in paths if path in seen), tuple(aside)


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
        if not isinstance(eye, _Eye):
            return call(*args, **named)
        paths = eye.seen.get(id(module))
        if paths is None:
            if id(module) in eye.aside:
                return eye.looker.aside(call, args, named)
            return call(*args, **named)
        if is_forward:
            return eye.looker.forward(module, paths, call, args, named)
        return eye.looker.backward(module, call, args, named)

    tap.before = vars(module).get(name)  # type: ignore[attr-defined]
    return tap
