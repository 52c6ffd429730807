"""What goes wrong in a backward: a catalogue of changes that make a right line wrong.

Each change is made in a syntax tree, in place, and undone. The checker makes them one after the
other in the solution, until one gives the learner's numbers: that is then the likely cause.
"""

import ast
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from miniattn.lab._catalogue import of_expression, said
from miniattn.lab._record import statements


@dataclass(frozen=True)
class Mistake:
    """A change of one place in a tree: what it is, and how to make it."""

    kind: str
    text: str
    line: int
    parent: Any
    field: str
    index: int | None
    new: ast.AST

    def apply(self) -> Any:
        """Make the change; return what `undo` needs."""
        if self.index is None:
            old = getattr(self.parent, self.field)
            setattr(self.parent, self.field, self.new)
        else:
            old = getattr(self.parent, self.field)[self.index]
            getattr(self.parent, self.field)[self.index] = self.new
        return old

    def undo(self, old: Any) -> None:
        """Put back what was there."""
        if self.index is None:
            setattr(self.parent, self.field, old)
        else:
            getattr(self.parent, self.field)[self.index] = old


def mistakes(
    function: ast.FunctionDef, values: Mapping[str, Any], lines: frozenset[int] | None = None
) -> Iterator[Mistake]:
    """Yield the mistakes that can be made in a function, line by line.

    Parameters
    ----------
    function : ast.FunctionDef
        It is changed by what `apply` of a mistake does, until `undo`.
    values : dict
        A value of each name, for its shape and kind.
    lines : frozenset of int, optional
        Only these lines.
    """
    known = [a.arg for a in function.args.args]
    for holder, name, index, statement in _places(function):
        if lines is None or statement.lineno in lines:
            yield from _of_statement(holder, name, index, statement)
            for node, field, at in list(_expressions(statement)):
                old = getattr(node, field) if at is None else getattr(node, field)[at]
                for kind, text, new in of_expression(old, values, known):
                    new = _located(new, old)
                    yield Mistake(kind, text, statement.lineno, node, field, at, new)
        known += [n for n in set_by(statement) if n not in known]


def _places(node: ast.AST) -> Iterator[tuple[ast.AST, str, int, ast.stmt]]:
    """Yield the place and the node of every simple statement."""
    for name in ("body", "orelse"):
        for index, statement in enumerate(getattr(node, name, [])):
            if isinstance(statement, ast.For | ast.While | ast.If | ast.With):
                yield from _places(statement)
            elif not isinstance(statement, ast.FunctionDef | ast.ClassDef) and _is_own(statement):
                yield node, name, index, statement


def _is_own(statement: ast.stmt) -> bool:
    """Return whether a statement is the author's, and does not merely write down a value."""
    is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    calls = (n for n in ast.walk(statement) if isinstance(n, ast.Name))
    return not is_text and all(n.id != "__lab__" for n in calls)


def set_by(statement: ast.stmt) -> list[str]:
    """Return the names that a statement sets."""
    nodes = (n for n in ast.walk(statement) if isinstance(n, ast.Name))
    return [n.id for n in nodes if isinstance(n.ctx, ast.Store)]


def _expressions(node: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Yield the places of all expressions that are read, outside in."""
    for name, child in ast.iter_fields(node):
        if name in ("ctx", "op", "ops", "keywords", "func") and not (
            name == "func" and isinstance(child, ast.Attribute)
        ):
            continue
        targets = name in ("targets", "target")
        children = enumerate(child) if isinstance(child, list) else [(None, child)]
        for index, each in children:
            if not isinstance(each, ast.AST):
                continue
            if isinstance(each, ast.expr) and not targets and name not in ("func", "slice"):
                yield node, name, index
            if not targets:
                yield from _expressions(each)


# What can go wrong in a statement.


def _of_statement(holder: ast.AST, name: str, index: int, statement: ast.stmt) -> Iterator[Mistake]:
    def instead(kind: str, text: str, new: ast.stmt) -> Mistake:
        new = _located(new, statement)
        return Mistake(kind, text, statement.lineno, holder, name, index, new)

    match statement:
        case ast.AugAssign(target=target, op=ast.Add(), value=value):
            shown = said(target)
            yield instead(
                "overwritten",
                f"{shown} is overwritten where it is to be added to",
                ast.Assign([copy.deepcopy(target)], value),
            )
            less = ast.AugAssign(target, ast.Sub(), value)
            yield instead("sign", f"{shown} is subtracted from, not added to", less)
        case ast.Expr(value=ast.Call(func=ast.Attribute(attr="at"), args=[target, where, value])):
            place = ast.Subscript(target, where, ast.Store())
            yield instead(
                "overwritten",
                f"of equal indices {said(target)} keeps the last and loses the others: "
                "an indexed += adds once",
                ast.AugAssign(place, ast.Add(), value),
            )
            yield instead(
                "overwritten",
                f"{said(target)} is overwritten where it is to be added to",
                ast.Assign([copy.deepcopy(place)], value),
            )
            yield instead("term", f"nothing is added to {said(target)} here", ast.Pass())
        case ast.Assign(value=ast.BinOp() | ast.Call() as value):
            shown = said(statement.targets[0])
            minus = ast.Assign(statement.targets, ast.UnaryOp(ast.USub(), value))
            yield instead("sign", f"the sign of {shown}", minus)
    yield from ()


def _located(new: Any, old: Any) -> Any:
    """Give what is new in a tree the place of what it stands for; parts of the old have theirs."""
    if not hasattr(new, "lineno"):
        new.lineno = new.end_lineno = old.lineno
        new.col_offset = new.end_col_offset = 0
        for child in ast.iter_child_nodes(new):
            _located(child, old)
    return new


def applied_after(
    function: ast.FunctionDef, values: Mapping[str, Any]
) -> Iterator[tuple[Mistake, Mistake]]:
    """Yield pairs: a mask that is left out of one line, and put on the result of a later one."""
    found = [m for m in mistakes(function, values) if "is ignored" in m.text]
    for ignored in found:
        for statement in statements(function):
            if not isinstance(statement, ast.Assign) or statement.lineno <= ignored.line:
                continue
            for name, value in values.items():
                if isinstance(value, np.ndarray) and value.dtype == bool:
                    source = f"np.where({name}, {ast.unparse(statement.value)}, 0.0)"
                    new = ast.parse(source, mode="eval").body
                    new = _located(new, statement)
                    text = f"the mask is applied after the softmax, at {said(statement.targets[0])}"
                    yield (
                        ignored,
                        Mistake("mask", text, statement.lineno, statement, "value", None, new),
                    )
