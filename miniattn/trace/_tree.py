"""Names as a tree: what is alike is written once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

Kind = tuple[tuple[int, ...], str]

LINES = 40  # of a text, at most


def text(title: str, kinds: Mapping[str, Kind]) -> str:
    """Return ``title`` and below it the names with their dtypes and shapes, as a tree.

    Branches that look the same are written once: ``layers.0-3``. What a module was given is left
    out beside what it returned.
    """
    if not kinds:
        return f"{title}()"
    root: dict[str, Any] = {}
    for name, kind in kinds.items():
        module, inputs, _ = name.partition(".input")
        if inputs and module in kinds:
            continue
        *above, last = name.split(".")
        node = root
        for part in above:
            node = node.setdefault(part, {})
        node.setdefault(last, {})[""] = kind
    lines = list(_lines(root))
    wide = max((len(label) for label, _ in lines), default=0)
    shown = [f"{label:<{wide}}  {kind}".rstrip() for label, kind in lines]
    if len(shown) > LINES:
        shown = [*shown[: LINES - 1], f"  ... {len(shown) - LINES + 1} lines more"]
    return "\n".join([title, *shown])


def _lines(node: dict[str, Any], depth: int = 1) -> Iterator[tuple[str, str]]:
    """Yield the label and the kind of every line below a node."""
    for label, child in _groups(node):
        while "" not in child and len(below := _groups(child)) == 1:  # no fork: one line
            [(more, child)] = below
            label = f"{label}.{more}"
        shape, dtype = child.get("", ((), ""))
        yield f"{'  ' * depth}{label}", f"{dtype} {shape}" if dtype else ""
        yield from _lines(child, depth + 1)


def _groups(node: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the branches of a node; those of a list that look the same are one."""
    groups: list[tuple[str, dict[str, Any]]] = []
    branches = [(name, child) for name, child in node.items() if name]
    for _, same in itertools.groupby(branches, key=lambda branch: branch[1]):
        alike = list(same)
        first, last = alike[0][0], alike[-1][0]
        if first != last and all(name.isdigit() for name, _ in alike):
            groups.append((f"{first}-{last}", alike[0][1]))
        else:
            groups += alike
    return groups
