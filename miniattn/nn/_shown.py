"""A module in lines of text: its parts with their settings, and how many numbers each has."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from typing import NamedTuple

from miniattn.nn._config import Places
from miniattn.nn._parameter import Parameter, size_words


class Line(NamedTuple):
    """What stands for one part."""

    text: str
    size: str
    notes: str


def lines(places: Places) -> Iterator[Line]:
    """Yield a line for every module, and for parameters of modules that also have parts.

    A parameter counts where it is named first, so that the numbers of the parts of a module add up
    to its own.
    """
    places = list(places)
    modules = {path for path, node in places if not isinstance(node, Parameter)}
    inner = {_parent(path, modules) for path in modules if path}
    first: dict[int, str] = {}
    sizes, frozen = Counter[str](), Counter[str]()
    ties = defaultdict[str, list[str]](list)
    for path, node in places:
        if not isinstance(node, Parameter):
            continue
        if first.setdefault(id(node), path) == path:
            for above in (path, *_above(path, modules)):
                sizes[above] += node.size
                frozen[above] += 0 if node.trainable else node.size
        elif _parent(path, modules) not in inner:
            parent = _parent(path, modules)
            ties[parent].append(f"({_below(path, parent)} is {first[id(node)]})")
    for path, node in places:
        parent = _parent(path, modules)
        if not isinstance(node, Parameter):
            text = f"{type(node).__name__}({node.describe()})"
            notes = ties[path]
        elif parent in inner:
            text = f"Parameter({size_words(node.shape)})"
            notes = [] if first[id(node)] == path else [f"(is {first[id(node)]})"]
        else:
            continue
        if frozen[path]:
            every = frozen[path] == sizes[path]
            notes = ["frozen" if every else f"({frozen[path]:,} frozen)", *notes]
        yield Line(
            f"{'  ' * len(_above(path, modules))}{_below(path, parent)}: {text}" if path else text,
            f"{sizes[path]:,}" if sizes[path] else "",
            " ".join(notes if path else ["parameters", *notes]),
        )


def _above(path: str, modules: Collection[str]) -> list[str]:
    """Return the paths of the modules that contain what is at ``path``, inside out."""
    found = []
    while path:
        path = _parent(path, modules)
        found.append(path)
    return found


def _below(path: str, parent: str) -> str:
    return path[len(parent) :].lstrip(".")


def _parent(path: str, known: Collection[str]) -> str:
    """Return the longest known path that contains ``path`` (lists have no line of their own)."""
    while path and (path := path.rpartition(".")[0]) not in known:
        pass
    return path
