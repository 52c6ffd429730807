"""Other ways to write a solution that are as right: what a checker must not take for wrong."""

import ast
import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from miniattn.lab._exercise import Exercise
from miniattn.lab._record import Recorded

HELPERS = '''
def product(a, b):
    """Return a @ b, entry by entry."""
    out = np.zeros((a.shape[0], b.shape[1]), a.dtype)
    for i in range(a.shape[0]):
        for j in range(b.shape[1]):
            for n in range(a.shape[1]):
                out[i, j] += a[i, n] * b[n, j]
    return out
'''


def variant(exercise: Exercise, rng: np.random.Generator, *, changes: int = 3) -> str:
    """Return the function of an exercise, written in another way that gives the same results."""
    module = ast.parse(exercise.source)
    values = _values(exercise)
    names = list(_WAYS)
    chosen = {names[i] for i in rng.choice(len(names), min(changes, len(names)), replace=False)}
    function = _function(module, exercise)
    for name in names:  # in the order of the list: renamed last
        if name in chosen:
            _WAYS[name](function, values, rng)
    source = ast.unparse(ast.fix_missing_locations(function))
    helper = HELPERS if "product(" in source else ""
    return f'"""{exercise.name}: in other words"""\n\nimport numpy as np\n\n{helper}\n\n{source}\n'


def _function(module: ast.Module, exercise: Exercise) -> ast.FunctionDef:
    nodes = [n for n in module.body if isinstance(n, ast.FunctionDef)]
    return next(n for n in nodes if n.name == exercise.function)


def _values(exercise: Exercise) -> dict[str, Any]:
    """Return a value of each name and expression of a solution, by its source."""
    tree = ast.parse(exercise.source)
    recorded = Recorded(tree, exercise.function, {"__name__": "solution"}, inner=True)
    inputs = exercise.inputs()
    run = recorded.run(inputs)
    return {**inputs, **{event.name: event.value for event in run.events}}


class _Expressions(ast.NodeTransformer):
    """Rewrite expressions from the inside out, each with a chance."""

    def __init__(
        self,
        rewrite: Callable[[Any], ast.expr | None],
        rng: np.random.Generator,
        chance: float = 0.7,
    ) -> None:
        self._rewrite, self._rng, self._chance = rewrite, rng, chance

    def generic_visit(self, node: ast.AST) -> Any:
        before = copy.deepcopy(node) if isinstance(node, ast.expr) else None
        node = super().generic_visit(node)
        loads = not isinstance(getattr(node, "ctx", None), ast.Store)
        if before is None or not loads or self._rng.random() > self._chance:
            return node
        new = self._rewrite(node)
        return node if new is None else ast.copy_location(new, before)


Way = Callable[[ast.FunctionDef, Mapping[str, Any], np.random.Generator], None]


def _each(function: ast.FunctionDef, rng: np.random.Generator, rewrite: Any) -> None:
    _Expressions(rewrite, rng).visit(function)


def _commuted(function: ast.FunctionDef, values: Mapping[str, Any], rng: Any) -> None:
    def rewrite(node: Any) -> ast.expr | None:
        match node:
            case ast.BinOp(op=ast.Add() | ast.Mult()):
                return ast.BinOp(node.right, node.op, node.left)
        return None

    _each(function, rng, rewrite)


def _inverted(function: ast.FunctionDef, values: Mapping[str, Any], rng: Any) -> None:
    def rewrite(node: Any) -> ast.expr | None:
        match node:
            case ast.BinOp(op=ast.Div(), left=ast.Constant()):
                return None
            case ast.BinOp(op=ast.Div()):
                inverse = ast.BinOp(ast.Constant(1.0), ast.Div(), node.right)
                return ast.BinOp(node.left, ast.Mult(), inverse)
            case ast.BinOp(op=ast.Sub(), right=ast.Name()):
                minus = ast.UnaryOp(ast.USub(), node.right)
                return ast.BinOp(minus, ast.Add(), node.left)
        return None

    _each(function, rng, rewrite)


def _functions(function: ast.FunctionDef, values: Mapping[str, Any], rng: Any) -> None:
    def rewrite(node: Any) -> ast.expr | None:
        match node:
            case ast.Call(func=ast.Attribute(value=on, attr="sum" | "mean" | "max" as name)) if (
                ast.unparse(on) != "np"
            ):
                return ast.Call(_numpy(name), [on, *node.args], node.keywords)
            case ast.Call(func=ast.Attribute(value=on, attr="swapaxes")) if ast.unparse(on) != "np":
                return ast.Call(_numpy("swapaxes"), [on, *node.args], [])
            case ast.Attribute(value=on, attr="T"):
                return ast.Call(_numpy("transpose"), [on], [])
            case ast.BinOp(op=ast.Pow(), right=ast.Constant(value=2)):
                return ast.Call(_numpy("square"), [node.left], [])
        return None

    _each(function, rng, rewrite)


def _einsum(function: ast.FunctionDef, values: Mapping[str, Any], rng: Any) -> None:
    def rewrite(node: Any) -> ast.expr | None:
        match node:
            case ast.BinOp(op=ast.MatMult()):
                text = ast.Constant("...ij,...jk->...ik")
                return ast.Call(_numpy("einsum"), [text, node.left, node.right], [])
        return None

    _each(function, rng, rewrite)


def _loops(function: ast.FunctionDef, values: Mapping[str, Any], rng: Any) -> None:
    def rewrite(node: Any) -> ast.expr | None:
        match node:
            case ast.BinOp(op=ast.MatMult()) if np.ndim(values.get(ast.unparse(node), 0)) == 2:
                return ast.Call(ast.Name("product", ast.Load()), [node.left, node.right], [])
        return None

    _each(function, rng, rewrite)


def _split(function: ast.FunctionDef, values: Mapping[str, Any], rng: Any) -> None:
    """Give names to the parts of a line."""
    count = iter(range(1_000))

    def parts(body: list[ast.stmt]) -> list[ast.stmt]:
        made: list[ast.stmt] = []
        for statement in body:
            if isinstance(statement, ast.For):
                statement.body = parts(statement.body)
            value = getattr(statement, "value", None)
            if isinstance(statement, ast.Assign) and isinstance(value, ast.BinOp):
                for side in ("left", "right"):
                    part = getattr(value, side)
                    if isinstance(part, ast.BinOp | ast.Call) and rng.random() < 0.7:
                        name = f"part{next(count)}"
                        made.append(ast.Assign([ast.Name(name, ast.Store())], part))
                        setattr(value, side, ast.Name(name, ast.Load()))
            made.append(statement)
        return made

    function.body = parts(function.body)


def _inlined(function: ast.FunctionDef, values: Mapping[str, Any], rng: Any) -> None:
    """Put what is used once where it is used."""
    for statement in list(function.body):
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if rng.random() < 0.7:
                uses = [n for n in ast.walk(function) if isinstance(n, ast.Name) and n.id == name]
                stored = [n for n in uses if isinstance(n.ctx, ast.Store)]
                if len(stored) == 1 and len(uses) == 2 and not _in_loop(function, name):
                    function.body.remove(statement)
                    _Inline(name, value).visit(function)


class _Inline(ast.NodeTransformer):
    def __init__(self, name: str, value: ast.expr) -> None:
        self._name, self._value = name, value

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self._value if node.id == self._name else node


def _in_loop(function: ast.FunctionDef, name: str) -> bool:
    loops = (n for n in ast.walk(function) if isinstance(n, ast.For | ast.Call))
    inner = (n for loop in loops if isinstance(loop, ast.For) for n in ast.walk(loop))
    return any(isinstance(n, ast.Name) and n.id == name for n in inner)


def _renamed(function: ast.FunctionDef, values: Mapping[str, Any], rng: Any) -> None:
    """Give every local another name, which says nothing."""
    stored = [n for n in ast.walk(function) if isinstance(n, ast.Name)]
    arguments = {a.arg for a in function.args.args}
    names = dict.fromkeys(n.id for n in stored if isinstance(n.ctx, ast.Store))
    new = {name: f"t{n}" for n, name in enumerate(names) if name not in arguments}
    for node in stored:
        node.id = new.get(node.id, node.id)


def _numpy(name: str) -> ast.Attribute:
    return ast.Attribute(ast.Name("np", ast.Load()), name, ast.Load())


_WAYS: dict[str, Way] = {
    "loops": _loops,
    "einsum": _einsum,
    "inlined": _inlined,
    "split": _split,
    "functions": _functions,
    "inverted": _inverted,
    "commuted": _commuted,
    "renamed": _renamed,
}
