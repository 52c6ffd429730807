"""The examples as notebooks: a cell for each part of a script, and its main as cells that run.

python docs/notebooks.py FOLDER
"""

import ast
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from miniattn.lab._notebook import code, markdown, notebook

EXAMPLES = Path(__file__).parents[1] / "examples"
PARSED = "parser.parse_args()"
SHOW = """from IPython.display import Image, display

for path in sorted(args.out.glob("*.png")):
    display(Image(path))"""


def convert(script: Path, arguments: Sequence[str] = ()) -> str:
    """Return the notebook of a script, which runs as if it were called with these arguments."""
    source = script.read_text(encoding="utf-8")
    tree, lines = ast.parse(source), source.splitlines()
    *parts, main = parts_of(tree, lines)
    body = main_of(main, arguments)
    text = f"# {script.stem.replace('_', ' ')}\n\n{ast.get_docstring(tree)}"
    return notebook([markdown(text), *map(code, [*parts, *body, SHOW])])


def parts_of(tree: ast.Module, lines: list[str]) -> list[str]:
    """Return what a cell each is made of: a function, a class, or what stands between two."""
    parts: list[list[ast.stmt]] = [[]]
    for node in tree.body[1:-1]:  # without the docstring, and the call of main
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            parts += [[node], []]
        else:
            parts[-1].append(node)
    return [text_of(nodes, lines) for nodes in parts if nodes]


def text_of(nodes: list[ast.stmt], lines: list[str]) -> str:
    """Return these statements as they stand, with decorators, and comments between them."""
    first = min(node.lineno for node in [nodes[0], *getattr(nodes[0], "decorator_list", [])])
    return "\n".join(lines[first - 1 : nodes[-1].end_lineno])


def main_of(source: str, arguments: Sequence[str]) -> list[str]:
    """Return the body of main, without its docstring, cut where it has an empty line."""
    main = ast.parse(source).body[0]
    assert isinstance(main, ast.FunctionDef), source
    assert main.name == "main", source
    lines = [line.removeprefix("    ") for line in source.splitlines()]
    groups = [[main.body[1]]]
    for before, node in pairwise(main.body[1:]):
        if node.lineno - (before.end_lineno or 0) > 1:
            groups.append([])
        groups[-1].append(node)
    first, *others = (text_of(group, lines) for group in groups)
    assert PARSED in first, first
    options = ", ".join(f'"{argument}"' for argument in arguments)
    return [first.replace(PARSED, f"parser.parse_args([{options}])  # its options"), *others]


def write(folder: Path) -> None:
    """Write the notebooks of all examples."""
    folder.mkdir(parents=True, exist_ok=True)
    for script in sorted(EXAMPLES.glob("*.py")):
        (folder / f"{script.stem}.ipynb").write_text(convert(script), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
