"""A course as files: what students get, and what the teacher keeps, as .py and as .ipynb."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from miniattn.lab._exercise import Exercise
from miniattn.lab._notebook import code, markdown, notebook

READ_ME = """# Backpropagation by hand

{count} exercises, in this order:

{names}

Each is a file `NAME.py` and a notebook `NAME.ipynb` of the same content; fill in one of the two.

    python -m miniattn lab check NAME.py      # the first wrong line, and what the mistake may be
    python -m miniattn lab hint NAME          # three hints, one after the other
"""

TEACHER = """
Solutions and all hints are in this folder. Put each student's files into a folder of their own,
`submissions/STUDENT/NAME.py` or `.ipynb`, and mark them all:

    python mark.py submissions marks.csv
"""

MARK = '''"""Mark a folder of submissions: python mark.py SUBMISSIONS [marks.csv]"""

import sys

from miniattn.__main__ import main

folder, *rest = sys.argv[1:]
sys.exit(main(["lab", "mark", folder, *(["--csv", rest[0]] if rest else [])]))
'''


def write_course(folder: Path, exercises: Sequence[Exercise]) -> int:
    """Write ``student/`` and ``teacher/`` below ``folder``; return the number of files."""
    files = {}
    names = "\n".join(f"{n}. {e.name}: {e.title}" for n, e in enumerate(exercises, 1))
    text = READ_ME.format(count=len(exercises), names=names)
    files["student/README.md"] = text
    files["teacher/README.md"] = text + TEACHER
    files["teacher/mark.py"] = MARK
    for exercise in exercises:
        for who, source, written in (
            ("student", exercise.start(), exercise.hole()),
            ("teacher", exercise.solution(), exercise.answer()),
        ):
            files[f"{who}/{exercise.name}.py"] = source
            hints = exercise.hints if who == "teacher" else ()
            files[f"{who}/{exercise.name}.ipynb"] = exercise_notebook(exercise, written, hints)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return len(files)


def exercise_notebook(exercise: Exercise, written: str, hints: Sequence[str]) -> str:
    """Return a notebook (nbformat 4.5) with one function to be written, and its check."""
    listed = "".join(f"\n{n}. {hint}" for n, hint in enumerate(hints, 1))
    text = (
        f"# {exercise.name}: {exercise.title}\n\n{exercise.goal}\n\n"
        f"**Shapes:** {exercise.shapes}\n\n**Read:** docs/{exercise.read}.md\n\n"
        f"An example, rounded:\n\n```\n{exercise.example()}\n```\n"
        + (f"\n**Hints**\n{listed}\n" if hints else "")
    )
    ask = f'from miniattn import lab\n\nlab.check({exercise.function}, "{exercise.name}")'
    cells = [markdown(text), *map(code, (exercise.preamble(), written, ask))]
    return notebook(cells, miniattn={"exercise": exercise.name})


def answer_of(text: str) -> str:
    """Return what a notebook's code cells define, without what only asks, shows or draws."""
    content = json.loads(text)
    name = content.get("metadata", {}).get("miniattn", {}).get("exercise", "")
    cells = [_text(cell) for cell in content["cells"] if cell.get("cell_type") == "code"]
    kept = [cell for cell in cells if "lab.check(" not in cell]
    lines = (line for cell in kept for line in [*cell.splitlines(), ""])
    source = "\n".join(line for line in lines if not line.startswith(("%", "!")))
    return f'"""{name}: from a notebook"""\n{source}\n'


def _text(cell: dict[str, Any]) -> str:
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(source)
