"""What can go wrong in an expression: the kinds of mistakes, and what each makes of a right one."""

import ast
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

# Kinds of mistakes, in words.
KINDS = {
    "sign": "a sign",
    "factor": "a factor that is missing, squared, inverted or another one",
    "term": "a term that is missing",
    "mean": "a mean where a sum belongs, or a sum where a mean does",
    "axis": "a sum over the wrong axis",
    "broadcast": "a missing sum over what was broadcast",
    "transposed": "a transpose",
    "mask": "a mask that is ignored, reversed, or applied too late",
    "offset": "off by one in a mask",
    "overwritten": "overwritten where it is to be added",
    "stale": "another value than the one that belongs there",
    "heads": "the wrong order or mapping of heads",
    "eps": "eps at the wrong side of the root, or missing",
    "power": "a square, a root or another function that is missing",
}


Found = Iterator[tuple[str, str, ast.expr]]


def of_expression(node: ast.expr, values: Mapping[str, Any], known: list[str]) -> Found:
    """Yield kind, text and what is made of an expression, for each mistake that fits it."""
    match node:
        case ast.BinOp():
            yield from _of_operation(node, values)
        case ast.UnaryOp(op=ast.USub(), operand=operand) if not isinstance(operand, ast.Constant):
            yield "sign", f"the minus before {said(operand)} is missing", operand
        case ast.UnaryOp(op=ast.Invert(), operand=operand):
            yield "mask", f"{said(operand)} is the wrong way round", operand
        case ast.Call():
            yield from _of_call(node, values)
        case ast.Attribute(value=value, attr="T"):
            yield "transposed", f"{said(value)} is not transposed", value
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            yield from _of_comparison(left, op, right)
        case ast.Subscript(value=ast.Attribute(attr="shape") as shape, slice=index):
            other = ast.Constant(0) if ast.unparse(index) == "-1" else _minus_one()
            yield "factor", f"the wrong length of {said(shape)}", _at(shape, other)
        case ast.Name(id=name):
            yield from _of_name(name, values, known)


def _of_operation(node: ast.BinOp, values: Mapping[str, Any]) -> Found:
    left, right = node.left, node.right
    match node.op:
        case ast.Add() | ast.Sub():
            plus = isinstance(node.op, ast.Add)
            if "eps" in ast.unparse(right):
                yield "eps", "eps is missing", left
            if ast.unparse(right) == "eps" and isinstance(left, ast.Call):
                inside = ast.BinOp(left.args[0], ast.Add(), right) if left.args else left
                yield "eps", "eps belongs beside the root, not under it", _called(left, inside)
            new = ast.BinOp(left, ast.Sub() if plus else ast.Add(), right)
            verb = ("subtracted", "added") if plus else ("added", "subtracted")
            yield "sign", f"{said(right)} is {verb[0]} where it is to be {verb[1]}", new
            yield "term", f"the term {said(right)} is missing", left
            yield "term", f"the term {said(left)} is missing", right
            if not plus:
                yield "sign", "the difference is the wrong way round", _op(right, ast.Sub(), left)
        case ast.Mult():
            for one, rest in ((right, left), (left, right)):
                kind = "mask" if _is_bool(one, values) else "factor"
                yield kind, f"the factor {said(one)} is missing", rest
            for one in (left, right):
                twice = _op(node, ast.Mult(), one)
                yield "factor", f"the factor {said(one)} is there twice", twice
                if _is_number(one, values):
                    rest = right if one is left else left
                    over = _op(rest, ast.Div(), one)
                    yield "factor", f"divided by {said(one)} where it is to be multiplied", over
        case ast.Div():
            yield "factor", f"the division by {said(right)} is missing", left
            times = _op(left, ast.Mult(), right)
            yield "factor", f"multiplied by {said(right)} where it is to be divided", times
            yield "factor", f"divided by {said(right)} twice", _op(node, ast.Div(), right)
        case ast.MatMult():
            for one, rest in ((right, left), (left, right)):
                yield "factor", f"the product with {said(one)} is missing", rest
            yield "transposed", f"{said(left)} is transposed", _op(_turned(left), node.op, right)
            yield "transposed", f"{said(right)} is transposed", _op(left, node.op, _turned(right))
            yield "transposed", "the product is the other way round", _op(right, node.op, left)
            yield "transposed", "the result is transposed", _turned(node)
        case ast.Pow():
            yield "power", f"{said(left)} is not raised to the power {ast.unparse(right)}", left
            less = _op(left, ast.Pow(), _op(right, ast.Sub(), ast.Constant(1)))
            yield "power", f"the power of {said(left)}, one less than it is to be", less
            if ast.unparse(right) == "-0.5":
                text = f"the root of {said(left)} is missing"
                yield "factor", text, _op(left, ast.Pow(), ast.Constant(-1.0))
                text = f"{said(left)} with the power of 0.5, not -0.5"
                yield "factor", text, _op(left, ast.Pow(), ast.Constant(0.5))
        case ast.FloorDiv():
            yield "heads", f"% where // belongs, in {said(node)}", _op(left, ast.Mod(), right)


def _of_call(node: ast.Call, values: Mapping[str, Any]) -> Found:
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else ast.unparse(function)
    first = node.args[0] if node.args else None
    on = function.value if isinstance(function, ast.Attribute) else None
    is_numpy = isinstance(on, ast.Name) and on.id == "np"
    if name in ("sum", "mean", "max") and on is not None:
        yield from _of_reduction(node, name, first if is_numpy and first is not None else on)
    elif is_numpy and first is not None:
        yield from _of_numpy(node, name, first)
    elif name == "swapaxes" and on is not None:
        yield "transposed", f"{said(on)} is not transposed", on
        for axes in ((0, 1), (1, 2), (0, 2)):
            other: list[ast.expr] = [ast.Constant(axis) for axis in axes]
            text = f"other axes of {said(on)} are swapped than are to be"
            yield "transposed", text, ast.Call(function, other, [])
    elif name == "reshape" and on is not None and len(node.args) >= 3:
        swapped = [node.args[1], node.args[0], *node.args[2:]]
        turned = ast.Call(function, swapped, [])
        zero = ast.parse("x.swapaxes(0, 1)", mode="eval").body
        assert isinstance(zero, ast.Call)
        assert isinstance(zero.func, ast.Attribute)
        zero.func.value = turned
        yield "heads", "heads of a group are neighbours: the reshape takes every G-th", zero
    if name == "join" or name == "cut":
        yield "heads", f"no {name}", node.args[0]


def _of_reduction(node: ast.Call, name: str, what: ast.expr) -> Found:
    shown = said(what)
    if name in ("sum", "mean"):
        other = "mean" if name == "sum" else "sum"
        yield "mean", f"a {other} of {shown} where a {name} belongs", _called(node, None, other)
        yield "broadcast", f"the {name} over {shown} is missing", what
    axis = next((k.value for k in node.keywords if k.arg == "axis"), None)
    position = 1 if what in node.args else 0
    if axis is None and len(node.args) > position:
        axis = node.args[position]
    if axis is None:
        return
    if name in ("sum", "mean"):
        kept = any(k.arg == "keepdims" for k in node.keywords)
        index = "[-1]" if kept else "-1"
        source = f"np.take({ast.unparse(what)}, {index}, axis={ast.unparse(axis)})"
        text = f"the {name} over {shown} is missing: the last entry is taken alone"
        yield "broadcast", text, ast.parse(source, mode="eval").body
    for other_axis in ("0", "1", "-1", "-2", "None"):
        if ast.unparse(axis) != other_axis:
            new = ast.Call(node.func, node.args, node.keywords)
            value = ast.parse(other_axis, mode="eval").body
            new.args = [value if a is axis else a for a in node.args]
            new.keywords = [
                ast.keyword(k.arg, value) if k.value is axis else k for k in node.keywords
            ]
            yield "axis", f"{name} of {shown} over the wrong axis", new


def _of_numpy(node: ast.Call, name: str, first: ast.expr) -> Found:
    if name == "where":
        mask, yes, no = node.args
        yield "mask", f"the mask {said(mask)} is ignored", yes
        new = ast.Call(node.func, [mask, no, yes], [])
        yield "mask", f"the mask {said(mask)} is the wrong way round", new
    elif name == "sqrt":
        if isinstance(first, ast.BinOp) and ast.unparse(first.right) == "eps":
            apart = _op(_called(node, first.left), ast.Add(), first.right)
            yield "eps", "eps belongs under the root", apart
        yield "factor", f"the root of {said(first)} is missing", first
    elif name == "tri":
        for k, word in ((-1, "each query misses itself"), (1, "each query sees the next key")):
            turned = ast.parse(f"np.tri(n, n, {k}, dtype=bool)", mode="eval").body
            assert isinstance(turned, ast.Call)
            turned.args[:2] = [first, first]
            yield "offset", f"the causal mask is off by one: {word}", turned
        yield "transposed", "the causal mask is transposed", ast.Attribute(node, "T", ast.Load())
        yield "mask", "the causal mask is ignored", _op(node, ast.BitOr(), ast.Constant(True))
    elif name == "repeat" and len(node.args) > 1:
        times = ast.BinOp(ast.List([first], ast.Load()), ast.Mult(), node.args[1])
        joined = ast.Attribute(ast.Name("np", ast.Load()), "concatenate", ast.Load())
        text = "query head h reads key head h // group, not h % G"
        yield "heads", text, ast.Call(joined, [times], [])
    elif name in ("cos", "sin"):
        other = "sin" if name == "cos" else "cos"
        yield "power", f"{other} where {name} belongs", _called(node, None, other)
    elif name in ("exp", "log", "tanh", "maximum"):
        yield "power", f"np.{name} of {said(first)} is missing", first
    elif name == "sum":
        yield from _of_reduction(node, name, first)


def _of_comparison(left: ast.expr, op: ast.cmpop, right: ast.expr) -> Found:
    if isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE):
        near: dict[type, ast.cmpop] = {
            ast.Lt: ast.LtE(),
            ast.LtE: ast.Lt(),
            ast.Gt: ast.GtE(),
            ast.GtE: ast.Gt(),
        }
        yield "offset", "off by one in the mask", ast.Compare(left, [near[type(op)]], [right])
        less: ast.cmpop = ast.Lt() if isinstance(op, ast.Gt | ast.GtE) else ast.GtE()
        yield "mask", "the mask is the wrong way round", ast.Compare(left, [less], [right])
        for step in (ast.Add(), ast.Sub()):
            moved = _op(right, step, ast.Constant(1))
            yield "offset", "off by one in the mask", ast.Compare(left, [op], [moved])
    elif isinstance(op, ast.NotEq | ast.Eq):
        other: ast.cmpop = ast.Eq() if isinstance(op, ast.NotEq) else ast.NotEq()
        yield "mask", "the mask is the wrong way round", ast.Compare(left, [other], [right])


def _of_name(name: str, values: Mapping[str, Any], known: list[str]) -> Found:
    mine = values.get(name)
    if mine is None or name not in values:
        return
    for other in known:
        theirs = values.get(other)
        if other != name and theirs is not None and _alike(mine, theirs):
            yield "stale", f"`{other}` stands where `{name}` belongs", ast.Name(other, ast.Load())
    if isinstance(mine, np.ndarray) and mine.dtype == bool:
        new = ast.UnaryOp(ast.Invert(), ast.Name(name, ast.Load()))
        yield "mask", f"`{name}` is the wrong way round", new
    elif isinstance(mine, np.ndarray) and mine.ndim == 2 and mine.shape[0] == mine.shape[1]:
        yield "transposed", f"`{name}` is transposed", _turned(ast.Name(name, ast.Load()))


# Small words.


def said(node: ast.AST) -> str:
    """Return the source of a node in code letters."""
    return f"`{ast.unparse(node)}`"


def _op(left: ast.expr, op: ast.operator, right: ast.expr) -> ast.expr:
    return ast.BinOp(left, op, right)


def _turned(node: ast.expr) -> ast.expr:
    call = ast.parse("x.swapaxes(-1, -2)", mode="eval").body
    assert isinstance(call, ast.Call)
    assert isinstance(call.func, ast.Attribute)
    call.func.value = node
    return call


def _called(node: ast.Call, argument: ast.expr | None, name: str | None = None) -> ast.Call:
    """Return a call with another first argument, or of another function."""
    new = ast.Call(node.func, node.args, node.keywords)
    if argument is not None:
        new.args = [argument, *node.args[1:]]
    if name is not None and isinstance(node.func, ast.Attribute):
        new.func = ast.Attribute(node.func.value, name, ast.Load())
    return new


def _at(value: ast.expr, index: ast.expr) -> ast.expr:
    return ast.Subscript(value, index, ast.Load())


def _minus_one() -> ast.expr:
    return ast.UnaryOp(ast.USub(), ast.Constant(1))


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return (a.shape, a.dtype) == (b.shape, b.dtype)
    return isinstance(a, float) and isinstance(b, float)


def _is_bool(node: ast.expr, values: Mapping[str, Any]) -> bool:
    value = values.get(node.id) if isinstance(node, ast.Name) else None
    return isinstance(value, np.ndarray) and value.dtype == bool


def _is_number(node: ast.expr, values: Mapping[str, Any]) -> bool:
    value = values.get(node.id) if isinstance(node, ast.Name) else None
    return isinstance(value, float | np.floating)
