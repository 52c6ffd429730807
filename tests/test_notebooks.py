"""The examples as notebooks: whole, valid, and run by a kernel where there is one."""

import ast
import importlib.util
import json
from pathlib import Path

import pytest

from miniattn import lab
from miniattn.lab import _course

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
spec = importlib.util.spec_from_file_location("notebooks", ROOT / "docs" / "notebooks.py")
notebooks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(notebooks)


def sources(text):
    cells = json.loads(text)["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_has_all_of_its_script(script):
    made = ast.parse("\n".join(sources(notebooks.convert(script))))
    there = ast.parse(script.read_text(encoding="utf-8"))
    [main] = [node for node in there.body if getattr(node, "name", "") == "main"]
    body = [ast.dump(node) for node in made.body]
    missing = [
        ast.unparse(node)
        for node in [*there.body[1:-1], *main.body[1:]]
        if node is not main and ast.dump(node) not in body and "parse_args" not in ast.unparse(node)
    ]
    assert missing == []


def test_every_notebook_is_offered():
    text = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    assert [path.name for path in SCRIPTS if f"notebooks/{path.stem}.ipynb" not in text] == []


def test_notebooks_are_valid():
    """Those of the examples, and those of a course, for students and for the teacher."""
    nbformat = pytest.importorskip("nbformat")
    exercise = lab.find("softmax")
    texts = [notebooks.convert(script) for script in SCRIPTS]
    texts += [_course.exercise_notebook(exercise, exercise.answer(), exercise.hints)]
    for text in texts:
        nbformat.validate(nbformat.reads(text, as_version=4))


def test_a_kernel_runs_an_example_and_shows_its_figures(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    script = ROOT / "examples" / "tiled_attention.py"
    text = notebooks.convert(script, ["--quick", "--out", "figures"])
    book = nbformat.reads(text, as_version=4)
    # A warning of a kernel's own libraries is none of ours.
    nbclient.NotebookClient(
        book, timeout=120, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    assert "largest difference from miniattn.functional" in printed
    assert "image/png" in outputs[-1]["data"]
    assert (tmp_path / "figures" / "tiles.png").exists()
