"""What an attribute of a module holds: the parts that are found in it, and those that are not."""

from __future__ import annotations

import contextlib
import functools
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

_ONCE = (types.GeneratorType, map, filter, zip, enumerate, reversed)
"""What can be looked through only once: a part in it could not be found a second time."""
PLAIN = (type, types.ModuleType, str, bytes, int, float, complex, type(None))
"""What holds no parts."""
_COLLECTIONS: tuple[Any, ...] = (
    set,
    frozenset,
    deque,
    type({}.keys()),
    type({}.values()),
    type({}.items()),
)


def members(node: object) -> Iterator[tuple[str, Any]]:
    """Yield (name, item) of a list, a tuple or a dict: these are looked through for parts."""
    if isinstance(node, dict):
        yield from ((str(key), item) for key, item in node.items())
    elif isinstance(node, list | tuple):
        yield from ((str(i), item) for i, item in enumerate(node))


def changed(value: Any, change: Callable[[Any], Any]) -> Any:
    """Put ``change(item)`` in the place of every item of lists, tuples and dicts, at any depth.

    Lists and dicts are changed in place, tuples made anew where an item is another one.
    """
    if isinstance(value, list):
        value[:] = [changed(item, change) for item in value]
    elif isinstance(value, dict):
        for key, item in value.items():
            value[key] = changed(item, change)
    elif isinstance(value, tuple):
        items = [changed(item, change) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    else:
        return change(value)
    return value


def check_keys(name: str, value: object, kinds: tuple[type, ...]) -> None:
    """Raise where a dict that holds parts (``kinds``) has keys that give no clear names."""
    for item_name, item in members(value):
        check_keys(f"{name}.{item_name}", item, kinds)
    if not (isinstance(value, dict) and any(isinstance(item, kinds) for item in value.values())):
        return
    names = [str(key) for key in value]
    for key in value:
        if not isinstance(key, str | int) or "." in str(key) or names.count(str(key)) > 1:
            raise ValueError(
                f"{name}: expected keys that name parts (str without '.', or int), got {key!r}"
            )


def hidden(name: str, value: object, kinds: tuple[type, ...]) -> Iterator[tuple[str, Any]]:
    """Yield (where, part) for parts (``kinds``) in places that are not looked through.

    Such are sets, deques, arrays of objects, attributes of objects that are no modules, and what
    a function or method holds on to. Of a generator, which nobody can look into, itself.
    """
    ahead: list[tuple[str, object, bool]] = [(name, value, False)]
    seen: set[int] = set()
    while ahead:
        place, node, is_hidden = ahead.pop()
        if isinstance(node, kinds):
            if is_hidden:
                yield place, node
        elif isinstance(node, _ONCE):
            yield place, node
        elif not isinstance(node, PLAIN) and id(node) not in seen:
            seen.add(id(node))
            is_hidden = is_hidden or not isinstance(node, list | tuple | dict)
            inside = f"{place} ({type(node).__name__})" if is_hidden else place
            ahead += [(f"{inside}.{key}", item, is_hidden) for key, item in _contents(node)]


def _contents(node: Any) -> Iterator[tuple[str, object]]:
    """Yield (name, item) of all that ``node`` holds, wherever a part may hide."""
    if isinstance(node, list | tuple | dict):
        yield from members(node)
    elif isinstance(node, _COLLECTIONS):
        yield from members(list(node))
    elif isinstance(node, types.MappingProxyType):
        yield from members(dict(node))
    elif isinstance(node, np.ndarray):
        yield from members(list(node.flat) if node.dtype == object else [])
    elif isinstance(node, functools.partial):
        yield from (("func", node.func), ("args", node.args), ("keywords", node.keywords))
    elif isinstance(node, types.MethodType):
        yield "__self__", node.__self__
    elif isinstance(node, types.FunctionType):
        for cell, variable in zip(node.__closure__ or (), node.__code__.co_freevars, strict=False):
            with contextlib.suppress(ValueError):  # a cell that is still empty
                yield variable, cell.cell_contents
    else:
        yield from getattr(node, "__dict__", {}).items()
