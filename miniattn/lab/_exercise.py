"""An exercise: a text, what is given, a hole, and its solution, all read from one file."""

import ast
import functools
import importlib.resources
import re
import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np

from miniattn import _checks
from miniattn.lab._exercises import ORDER

WIDTH = 100


@dataclass(frozen=True)
class Exercise:
    """One function to fill in.

    Attributes
    ----------
    name, title, goal : str
        What it is called, what it is about, and what is to be found.
    shapes, read : str
        The shapes by their letters, and the page of the docs that derives the formula.
    hints : tuple of str
        Three, of rising strength.
    function : str
        The name of the function that is to be written; the others are given.
    source : str
        The file: text, what is given, solution.
    """

    name: str
    title: str
    goal: str
    shapes: str
    read: str
    hints: tuple[str, ...]
    function: str
    source: str

    def inputs(self, seed: int = 0) -> dict[str, Any]:
        """Return arguments for the function, by name: the same ones for the same seed."""
        arguments: dict[str, Any] = self._namespace["data"](np.random.default_rng(seed))
        return arguments

    def outputs(self, seed: int = 0) -> tuple[Any, ...]:
        """Return what the solution makes of ``inputs(seed)``."""
        found = self._namespace[self.function](**self.inputs(seed))
        return found if isinstance(found, tuple) else (found,)

    @functools.cached_property
    def results(self) -> tuple[str, ...]:
        """The names of what the function returns."""
        last = self.tree().body[-1]
        assert isinstance(last, ast.Return)
        found = last.value.elts if isinstance(last.value, ast.Tuple) else [last.value]
        return tuple(ast.unparse(node) for node in found if node is not None)

    @functools.cached_property
    def given(self) -> tuple[str, ...]:
        """The names of the functions that are given."""
        names = [node.name for node in self._functions]
        return tuple(name for name in names if name not in (self.function, "data"))

    def tree(self) -> ast.FunctionDef:
        """Return a new syntax tree of the solution's function."""
        tree = ast.parse(self.source)
        nodes = (node for node in tree.body if isinstance(node, ast.FunctionDef))
        return next(node for node in nodes if node.name == self.function)

    def start(self) -> str:
        """Return the file to begin with: the text, a worked example, what is given, and a hole."""
        return self._file(self._hole(), self._text())

    def solution(self) -> str:
        """Return the file with the solution and all hints."""
        hints = "\n".join(f"Hint {n}: {hint}" for n, hint in enumerate(self.hints, 1))
        return self._file(self._lines(self.tree()), f"{self._text()}\n{hints}\n")

    def namespace(self) -> dict[str, Any]:
        """Return what the file defines, in a dict of one's own."""
        return dict(self._namespace)

    def example(self) -> str:
        """Return arguments and results in numbers, rounded, to be compared by eye."""
        shown = [f"{name} = {_shown(value)}" for name, value in self.inputs().items()]
        results = zip(self.results, self.outputs(), strict=True)
        return "\n".join([*shown, *(f"-> {name} = {_shown(value)}" for name, value in results)])

    def preamble(self) -> str:
        """Return imports, constants and functions that are given, as source."""
        return self._parts("").strip() + "\n"

    def hole(self) -> str:
        """Return the function that is to be written, without its lines."""
        return self._hole()

    def answer(self) -> str:
        """Return the function as the solution has it."""
        return self._lines(self.tree())

    @functools.cached_property
    def _namespace(self) -> dict[str, Any]:
        scope: dict[str, Any] = {"__name__": f"miniattn.lab._exercises.{self.name}"}
        exec(compile(self.source, f"<{self.name}>", "exec"), scope)
        return scope

    @functools.cached_property
    def _functions(self) -> list[ast.FunctionDef]:
        return [node for node in ast.parse(self.source).body if isinstance(node, ast.FunctionDef)]

    def _lines(self, node: ast.stmt) -> str:
        return "\n".join(self.source.splitlines()[node.lineno - 1 : node.end_lineno]) + "\n"

    def _text(self) -> str:
        example = textwrap.indent(self.example(), "    ")
        return (
            f"{self.name}: {self.title}\n\n{_folded(self.goal)}\n\nShapes: {self.shapes}\n"
            f"Read: docs/{self.read}.md\n\nAn example, rounded:\n\n{example}\n"
        )

    def _hole(self) -> str:
        tree = self.tree()
        first = tree.body[1]  # behind the docstring
        head = "\n".join(self.source.splitlines()[tree.lineno - 1 : first.lineno - 1])
        head = re.sub(r"(\n    #.*)+$", "", head)
        return (
            f"{head}\n"
            f"    # Your lines. A hint: python -m miniattn lab hint {self.name}\n"
            f'    raise NotImplementedError("{self.function} is not written yet")\n'
        )

    def _file(self, function: str, text: str) -> str:
        return f'"""{text}"""\n{self._parts(function)}'

    def _parts(self, function: str) -> str:
        """Return what is below the text, with ``function`` in the place of the solution."""
        joined = ""
        for node in ast.parse(self.source).body[1:]:
            name = getattr(node, "name", "")
            if name != "data":
                block = function if name == self.function else self._lines(node)
                joined += ("\n\n" if block.startswith("def ") else "\n") + block
        return joined


@functools.cache
def find(name: str) -> Exercise:
    """Return the exercise called ``name``.

    Examples
    --------
    >>> from miniattn import lab
    >>> lab.find("softmax").results
    ('dx',)
    """
    _checks.choice("name", name, ORDER)
    source = importlib.resources.files("miniattn.lab._exercises") / f"{name}.py"
    return read(source.read_text(encoding="utf-8"))


def exercises() -> tuple[Exercise, ...]:
    """Return all exercises, in the order of a course.

    Examples
    --------
    >>> from miniattn import lab
    >>> lab.exercises()[0].name
    'softmax_stable'
    """
    return tuple(find(name) for name in ORDER)


def read(source: str) -> Exercise:
    """Return the exercise that a file holds."""
    tree = ast.parse(source)
    head, *rest = (ast.get_docstring(tree) or "").split("\n\n")
    name, _, title = head.partition(": ")
    goal, fields = " ".join("\n\n".join(rest[:-1]).split()), rest[-1]
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    return Exercise(
        name=name,
        title=title,
        goal=goal,
        shapes=_field("Shapes", fields)[0],
        read=_field("Read", fields)[0],
        hints=_field("Hint", fields),
        function=functions[-2],
        source=source,
    )


def _field(name: str, text: str) -> tuple[str, ...]:
    return tuple(re.findall(rf"^{name}: (.+)$", text, re.M))


def _folded(text: str) -> str:
    return textwrap.fill(text, WIDTH)


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray):
        text = np.array2string(value, precision=3, suppress_small=True, separator=", ")
        return text.replace("\n", "\n    ")
    return f"{value:.4g}" if isinstance(value, float) else str(value)
