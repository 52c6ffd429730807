"""What a model was built with, said in JSON: how it is recorded, described and compared.

`Module.__new__` keeps the arguments of every module as it is made. `describe` lists them for all
parts by their paths, with the parameters that are one (tied) and those that are frozen; a
checkpoint holds that beside the arrays. `differences` says where a model is another one.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from miniattn.scores import Score

if TYPE_CHECKING:
    from miniattn.nn._module import Module
    from miniattn.nn._parameter import Parameter

_NOT_OF_IT = ("rng", "comm", "split")
"""Arguments that are no part of a model."""
Places: TypeAlias = "Iterable[tuple[str, Module | Parameter]]"
"""Every part and every parameter with its path, as `_module.walk` yields them."""


@functools.cache
def signature(cls: type) -> inspect.Signature:
    """Return the parameters of ``__init__`` without self."""
    found = inspect.signature(cls.__init__)  # type: ignore[misc]
    return found.replace(parameters=list(found.parameters.values())[1:])


@functools.cache
def _rest(cls: type) -> str:
    """Return the name of the parameter that takes further keywords, "" where there is none."""
    parameters = signature(cls).parameters.values()
    return next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), "")


def recorded(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``cls(*args, **kwargs)`` by name, as JSON says them.

    Defaults are in it, so that a later version with others reads the same. ``rng`` is not: what it
    drew is in the parameters. Nor is over which ranks a model is spread.
    """
    try:
        bound = signature(cls).bind(*args, **kwargs)
    except TypeError:
        return {}  # a wrong call, which __init__ refuses
    bound.apply_defaults()
    given = dict(bound.arguments)
    given |= given.pop(_rest(cls), {})
    return {name: encoded(value) for name, value in given.items() if name not in _NOT_OF_IT}


def encoded(value: Any) -> Any:
    """Return ``value`` as JSON says it. What JSON has no word for is a dict of one key."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Score):
        return {"score": function_name(value.function), "tables": [_table(x) for x in value.tables]}
    if isinstance(value, list | tuple):
        return [encoded(item) for item in value]
    if isinstance(value, dict):
        return {"dict": {str(key): encoded(item) for key, item in value.items()}}
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return np.dtype(value).name
    if hasattr(value, "named_modules") and not isinstance(value, type):
        return {"module": class_name(type(value)), "arguments": arguments(value)}
    if isinstance(value, np.random.Generator):
        return {"generator": type(value.bit_generator).__name__}
    if callable(value) and hasattr(value, "__qualname__"):
        return {"function": function_name(value)}
    return {"other": type(value).__name__}


def function_name(function: Any) -> str:
    """Return where a function is found."""
    return f"{function.__module__}.{function.__qualname__}"


def _table(table: Any) -> Any:
    """Say what a table of a score looks like: of floats, which are in the state, without them."""
    if not isinstance(table, np.ndarray):
        return encoded(table)
    said: dict[str, Any] = {"dtype": table.dtype.name, "shape": list(table.shape)}
    return said if table.dtype.kind == "f" else {**said, "entries": table.ravel().tolist()}


def arguments(module: Module) -> dict[str, Any]:
    """Return the arguments of a module by name; those that live on in an attribute, from there."""
    found = dict(vars(module).get("_made_with", {}))
    for name in type(module)._live:
        if name in found and hasattr(module, name):
            found[name] = encoded(getattr(module, name))
    return found


def class_name(cls: type) -> str:
    """Return e.g. ``"miniattn.nn.Linear"``; of a class from elsewhere its name alone.

    The module of that depends on how the code was started (``__main__``).
    """
    where = cls.__module__.split(".")
    return ".".join([*where[:2], cls.__name__]) if where[0] == "miniattn" else cls.__name__


def describe(places: Places) -> dict[str, Any]:
    """Return the architecture of a module, whose parts and parameters are at ``places``."""
    places = list(places)
    parameters = [(path, node) for path, node in places if hasattr(node, "trainable")]
    first: dict[int, str] = {}
    for path, parameter in parameters:
        first.setdefault(id(parameter), path)
    return {
        "modules": {
            path: {"class": class_name(type(part)), "arguments": arguments(part)}
            for path, part in modules(places).items()
        },
        "tied": {path: first[id(p)] for path, p in parameters if first[id(p)] != path},
        "frozen": [path for path, p in parameters if not p.trainable and first[id(p)] == path],
    }


def modules(places: Places) -> dict[str, Module]:
    """Return the modules by path; one that is in several places, at each of them."""
    found: dict[str, Any] = dict(places)
    return {path: node for path, node in found.items() if hasattr(node, "named_modules")}


def differences(places: Places, saved: Mapping[str, Any]) -> Iterator[str]:
    """Yield, in words, where a module is not what was saved; below such a place nothing more.

    What changes no result is left out: dropout, how weights start, the dtype (which the arrays
    show).
    """
    own, theirs = modules(places), checked(saved)["modules"]
    wrong: list[str] = []
    for path in dict.fromkeys([*theirs, *own]):
        if any(path.startswith(f"{above}." if above else "") for above in wrong):
            continue
        words = list(_differences_at(path, own.get(path), theirs.get(path)))
        if words:
            wrong.append(path)
            yield from words


def checked(saved: Any) -> Mapping[str, Any]:
    """Return ``saved`` if it has the form of what `describe` returns."""
    match saved:
        case {"modules": {**entries}, "tied": {**tied}, "frozen": [*frozen]}:
            named = all(isinstance(name, str) for name in (*tied.values(), *frozen))
            if named and all(map(_is_entry, entries.values())):
                return saved  # type: ignore[no-any-return]
    raise ValueError("architecture: expected classes and arguments by path, got something else")


def _is_entry(entry: Any) -> bool:
    match entry:
        case {"class": str(), "arguments": {**_arguments}}:
            return True
    return False


def _differences_at(path: str, module: Module | None, entry: Any) -> Iterator[str]:
    then = f"a {entry['class'].rpartition('.')[2]}" if entry else "nothing"
    now = f"a {type(module).__name__}" if module is not None else "nothing"
    if module is None or entry is None or entry["class"] != class_name(type(module)):
        yield f"{path or 'class'}: saved as {then}, the model has {now}"
        return
    for name in different_arguments(module, entry["arguments"]):
        saved, own = entry["arguments"][name], arguments(module)[name]
        yield f"{path}{'.' if path else ''}{name}: saved as {saved!r}, the model has {own!r}"


def different_arguments(module: Module, saved: Mapping[str, Any]) -> list[str]:
    """Return the names of arguments that differ, and make another model of it."""
    own = arguments(module)
    free, worked_out = type(module)._free, type(module)._worked_out
    return [
        name
        for name in saved.keys() & own.keys() - set(free)
        if (then := _without_parts(saved[name])) != (now := _without_parts(own[name]))
        # None was worked out from other arguments: what it came to, parts and shapes show.
        and not (name in worked_out and (then is None or now is None))
    ]


def _without_parts(value: Any) -> Any:
    """Return ``value`` with None for every module in it: these are compared at their own paths."""
    if isinstance(value, dict):
        if "module" in value:
            return None
        return {key: _without_parts(item) for key, item in value.items()}
    return [_without_parts(item) for item in value] if isinstance(value, list) else value
