"""Whether two expressions say the same in other words."""

import ast
from typing import Any

_METHODS = ("sum", "mean", "max", "swapaxes", "reshape")


def reads_alike(
    mine: ast.expr, right: ast.expr, known: frozenset[str], *, by_names: bool = False
) -> bool:
    """Return whether an expression reads as another does.

    A name that is ``known`` stands for itself, any other for whatever is there but a minus, or,
    with ``by_names``, for a name. A name alone says nothing of how it was made: it is not alike.
    """
    if isinstance(mine, ast.Name):
        return False
    return _Reader(known, by_names).alike(_plain(mine), _plain(right))


class _Reader:
    def __init__(self, known: frozenset[str], by_names: bool) -> None:
        self._known, self._by_names = known, by_names

    def alike(self, mine: Any, right: Any) -> bool:
        """Return whether two trees, or parts of trees, are the same."""
        if isinstance(mine, ast.Name) and mine.id not in self._known:
            if self._by_names:
                return isinstance(right, ast.Name)
            return isinstance(right, ast.expr) and not isinstance(right, ast.UnaryOp)
        if type(mine) is not type(right):
            return False
        if isinstance(mine, list):
            pairs = zip(mine, right, strict=False)
            return len(mine) == len(right) and all(self.alike(a, b) for a, b in pairs)
        if not isinstance(mine, ast.AST):
            return bool(mine == right)
        if isinstance(mine, ast.BinOp) and isinstance(mine.op, ast.Add | ast.Mult):
            return type(mine.op) is type(right.op) and (
                (self.alike(mine.left, right.left) and self.alike(mine.right, right.right))
                or (self.alike(mine.left, right.right) and self.alike(mine.right, right.left))
            )
        fields = (field for field in mine._fields if field != "ctx")
        return all(self.alike(getattr(mine, f), getattr(right, f)) for f in fields)


def _plain(node: ast.expr) -> ast.expr:
    """Return an expression in one way of many: a - b as a + -b, methods for functions."""
    found: ast.expr = _Plain().visit(ast.parse(ast.unparse(node), mode="eval").body)
    return found


class _Plain(ast.NodeTransformer):
    def generic_visit(self, node: ast.AST) -> Any:
        node = super().generic_visit(node)
        match node:
            case ast.BinOp(left=left, op=ast.Sub(), right=right):
                return ast.BinOp(left, ast.Add(), ast.UnaryOp(ast.USub(), right))
            case ast.BinOp(left=ast.Constant(value=1.0), op=ast.Div()):
                return node
            case ast.BinOp(left=left, op=ast.Div(), right=right):
                inverse = ast.BinOp(ast.Constant(1.0), ast.Div(), right)
                return ast.BinOp(left, ast.Mult(), inverse)
            case ast.Attribute(value=value, attr="T"):
                return _method(value, "transpose", [], [])
            case ast.Call(func=ast.Attribute(value=ast.Name(id="np"), attr=name), args=[x, *rest]):
                return _of_numpy(node, name, x, rest)
        return node


def _of_numpy(node: ast.Call, name: str, x: ast.expr, rest: list[ast.expr]) -> ast.expr:
    if name in (*_METHODS, "transpose"):
        return _method(x, name, rest, node.keywords)
    if name == "square":
        return ast.BinOp(x, ast.Pow(), ast.Constant(2))
    if name == "einsum" and len(rest) == 2:
        return ast.BinOp(rest[0], ast.MatMult(), rest[1])
    return node


def _method(on: ast.expr, name: str, args: list[ast.expr], keywords: list[ast.keyword]) -> ast.Call:
    return ast.Call(ast.Attribute(on, name, ast.Load()), args, keywords)
