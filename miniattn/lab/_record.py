"""Run a function and write down every value that it gives a name to, line by line."""

import ast
import copy
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

CALL = "__lab__"
FILE = "<lab>"
MOST = 5_000  # values that are written down; a loop that makes more is not looked at to its end


class Event(NamedTuple):
    """A value that a line gave a name to."""

    line: int
    name: str
    value: Any


@dataclass
class Run:
    """What became of a call."""

    outputs: tuple[Any, ...] = ()
    events: list[Event] = field(default_factory=list)
    error: BaseException | None = None
    line: int = 0
    """Of the error, or of the last line."""
    written: tuple[str, int] | None = None
    """The input that was written to, and the line that did."""

    def groups(self) -> dict[tuple[int, str], list[Any]]:
        """The values of each line and name, in the order in which they were first made."""
        found: dict[tuple[int, str], list[Any]] = {}
        for line, name, value in self.events:
            found.setdefault((line, name), []).append(value)
        return found


class Recorded:
    """A function of a module's source whose lines tell what they make.

    Parameters
    ----------
    module : ast.Module
        What is run first. Its nodes become part of what is compiled; a change of one of them shows
        in the next `compile`.
    function : str
        The name of the function that is looked at.
    scope : dict
        What the module finds when it is run.
    inner : bool
        Whether expressions within a line are written down too, under their source.
    """

    def __init__(
        self, module: ast.Module, function: str, scope: Mapping[str, Any], *, inner: bool = False
    ) -> None:
        self._scope = dict(scope)
        nodes = [n for n in module.body if isinstance(n, ast.FunctionDef) and n.name == function]
        if inner:
            for statement in statements(nodes[-1]):
                # A call that stands alone stays one: what it writes to is looked at.
                node = statement.value if isinstance(statement, ast.Expr) else statement
                _Inner(statement.lineno).generic_visit(node)
        _insert(nodes[-1], _locals(nodes[-1]))
        self.tree = nodes[-1]
        self._scope[CALL] = self._seen
        ast.fix_missing_locations(module)
        with np.errstate(all="ignore"):
            exec(compile(module, FILE, "exec"), self._scope)
        self.compile()

    def compile(self) -> None:
        """Make the function anew from its tree."""
        exec(compile(ast.Module([self.tree], []), FILE, "exec"), self._scope)
        self._function = self._scope[self.tree.name]

    def run(
        self,
        inputs: Mapping[str, Any],
        replace: Mapping[tuple[int, str], Sequence[Any]] | None = None,
    ) -> Run:
        """Call the function with copies of ``inputs``; put other values in the place of some.

        ``replace`` has, by line and name, the values that are put in, one for each time.
        """
        self._run = run = Run()
        self._inputs = {name: copy.deepcopy(value) for name, value in inputs.items()}
        self._before = inputs
        self._replace = {place: list(values) for place, values in (replace or {}).items()}
        try:
            with np.errstate(all="ignore"):
                found = self._function(**self._inputs)
        except Exception as error:
            run.error, run.line = error, _line_of(error)
        else:
            run.outputs = found if isinstance(found, tuple) else (found,)
            self._look_at_inputs(run.line)
        self.inputs = self._inputs
        return run

    def _seen(self, line: int, name: str, value: Any, always: bool = True) -> Any:
        """Write down a value; return what is to be used, which is nearly always the same."""
        run = self._run
        run.line = line
        self._look_at_inputs(line)
        if not isinstance(value, np.ndarray | np.generic | bool | int | float):
            return value
        if waiting := self._replace.get((line, name)):
            return copy.deepcopy(waiting.pop(0))
        if len(run.events) < MOST and (always or _is_new(value, name, run.events, self._before)):
            run.events.append(Event(line, name, copy.deepcopy(value)))
        return value

    def _look_at_inputs(self, line: int) -> None:
        if self._run.written is None:
            for name, value in self._inputs.items():
                if not _unchanged(value, self._before[name]):
                    self._run.written = name, line


def statements(node: ast.AST) -> Iterator[ast.stmt]:
    """Yield the simple statements below a function, loop or condition, in order."""
    for name in ("body", "orelse"):
        for statement in getattr(node, name, []):
            if isinstance(statement, ast.For | ast.While | ast.If | ast.With):
                yield from statements(statement)
            elif not isinstance(statement, ast.FunctionDef | ast.ClassDef):
                yield statement


class _Inner(ast.NodeTransformer):
    """Write down the parts of an expression, under their own source."""

    def __init__(self, line: int) -> None:
        self._line = line

    def visit(self, node: ast.AST) -> Any:
        kinds = (ast.BinOp, ast.UnaryOp, ast.Call, ast.Compare, ast.Subscript, ast.Attribute)
        source = ast.unparse(node) if isinstance(node, kinds) else ""
        loads = not isinstance(getattr(node, "ctx", None), ast.Store | ast.Del)
        if isinstance(node, ast.Lambda | ast.ListComp | ast.GeneratorExp | ast.keyword):
            return node
        self.generic_visit(node)
        is_module = source.startswith("np.") and "(" not in source
        if not source or not loads or is_module:
            return node
        return _call(self._line, source, node) if isinstance(node, ast.expr) else node


def _insert(function: ast.AST, local: frozenset[str]) -> None:
    """Put behind every statement a call for each name that it sets or writes to."""
    for name in ("body", "orelse"):
        body = getattr(function, name, None)
        if not isinstance(body, list):
            continue
        added: list[ast.stmt] = []
        for statement in body:
            added.append(statement)
            if isinstance(statement, ast.For | ast.While | ast.If | ast.With):
                _insert(statement, local)
            for changed, always in _changed(statement):
                load = ast.Name(changed, ast.Load())
                call = _call(statement.lineno, changed, load, always)
                if changed in local:
                    added.append(ast.Assign([ast.Name(changed, ast.Store())], call))
                elif isinstance(statement, ast.Assign | ast.AugAssign):
                    added.append(ast.Expr(call))
        for one in added:
            if not hasattr(one, "lineno"):
                ast.copy_location(one, body[0])
        setattr(function, name, added)


def _call(line: int, name: str, value: ast.expr, always: bool = True) -> ast.Call:
    arguments = [ast.Constant(line), ast.Constant(name), value, ast.Constant(always)]
    return ast.Call(ast.Name(CALL, ast.Load()), arguments, [])


def _changed(statement: ast.stmt) -> Iterator[tuple[str, bool]]:
    """Yield the names that a statement sets, and those that it may write to (False)."""
    match statement:
        case ast.Assign(targets=targets):
            for target in targets:
                yield from ((name, True) for name in _bases(target))
        case ast.AugAssign(target=target) | ast.AnnAssign(target=target, value=ast.expr()):
            yield from ((name, True) for name in _bases(target))
        case ast.Expr(value=ast.Call(args=arguments, keywords=keywords)):
            for each in (*arguments, *(keyword.value for keyword in keywords)):
                yield from ((name, False) for name in _bases(each))


def _bases(target: ast.expr) -> Iterator[str]:
    match target:
        case ast.Name(id=name):
            yield name
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            for part in parts:
                yield from _bases(part)
        case ast.Subscript(value=value) | ast.Starred(value=value):
            yield from _bases(value)


def _locals(function: ast.FunctionDef) -> frozenset[str]:
    """Return the names that belong to the function: arguments, and what it sets."""
    arguments = function.args
    names = {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    outer: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            outer.update(node.names)
    return frozenset(names - outer)


def _is_new(value: Any, name: str, events: Sequence[Event], inputs: Mapping[str, Any]) -> bool:
    """Return whether a name has another value than when it was last seen."""
    for event in reversed(events):
        if event.name == name:
            return not _unchanged(value, event.value)
    return name not in inputs or not _unchanged(value, inputs[name])


def _unchanged(value: Any, before: Any) -> bool:
    if not isinstance(value, np.ndarray):
        return True
    return bool(value.shape == before.shape and value.tobytes() == before.tobytes())


def _line_of(error: BaseException) -> int:
    """Return the last line of the learner's own file that the error went through."""
    lines = [frame.lineno or 0 for frame in traceback.extract_tb(error.__traceback__)]
    names = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    own = [line for line, name in zip(lines, names, strict=True) if name == FILE]
    return own[-1] if own else 0


def changed_lines(before: Iterable[str], after: Iterable[str]) -> list[int]:
    """Return the numbers of the lines that differ."""
    pairs = zip(before, after, strict=False)
    return [number for number, (a, b) in enumerate(pairs, 1) if a != b]
