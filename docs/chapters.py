"""The book's figures: the code of each chapter runs, and what it draws is what the page shows.

python docs/chapters.py FOLDER
"""

import contextlib
import io
import os
import re
import sys
from pathlib import Path

DOCS = Path(__file__).parent
CHAPTERS = [
    "quickstart",
    "one_tensor",
    "softmax",
    "attention",
    "tiles",
    "block",
    "two_layers",
    "names",
]


def run(chapter: str, folder: Path) -> None:
    """Run the code of a chapter, one block after the other, in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    text = (DOCS / f"{chapter}.md").read_text(encoding="utf-8")
    scope: dict[str, object] = {"__name__": chapter}
    here = Path.cwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
                exec(compile(block, f"{chapter}.md", "exec"), scope)
    finally:
        os.chdir(here)


def draw(folder: Path) -> None:
    """Write the figures of every chapter into a folder of its own."""
    for chapter in CHAPTERS:
        run(chapter, folder / chapter)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
