"""Marks for a folder of submissions: each file in a process of its own, with limits.

A submission is somebody's program. It may run for ever, end the process, fill the memory, write or
delete files: its process has a folder of its own, a limit of time, of memory and of what it writes,
and refuses what only a program that does something else would do (`_guard`). That is a guard
against accidents and pranks; a class that does not trust its students runs it in a container.
"""

import contextlib
import csv
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from miniattn.lab._course import answer_of
from miniattn.lab._exercises import ORDER

MEMORY = 2 << 30  # bytes that a submission may take


class Mark(NamedTuple):
    """What became of one submission."""

    student: str
    exercise: str
    verdict: str
    """``"passed"``, ``"wrong"``, ``"unwritten"``, ``"error"``, or ``"time"`` and ``"ended"``."""
    line: int
    cause: str
    text: str


def mark(folder: Path, *, seconds: float = 20.0, workers: int | None = None) -> list[Mark]:
    """Return a mark for every submission ``folder/STUDENT/EXERCISE.py`` or ``.ipynb``."""
    found = list(_submissions(folder))
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        return list(pool.map(lambda one: _marked(one, seconds), found))


def table(marks: Sequence[Mark]) -> str:
    """Return a line for each student: what passed, and what did not, and why."""
    lines = []
    for student in dict.fromkeys(mark.student for mark in marks):
        mine = [mark for mark in marks if mark.student == student]
        passed = sum(mark.verdict == "passed" for mark in mine)
        lines.append(f"{student}: {passed} of {len(mine)}")
        for mark in mine:
            if mark.verdict != "passed":
                line = f", line {mark.line}" if mark.line else ""
                lines.append(f"  {mark.exercise}: {mark.verdict}{line}: {mark.cause or mark.text}")
    return "\n".join(lines) or "no submissions"


def write_csv(path: Path, marks: Sequence[Mark]) -> None:
    """Write a row for each mark."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(Mark._fields)
        rows.writerows(marks)


def _submissions(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield student, exercise and file; a notebook where there is no file of that exercise."""
    for student in sorted(path for path in folder.iterdir() if path.is_dir()):
        for name in ORDER:
            files = [student / f"{name}{suffix}" for suffix in (".py", ".ipynb")]
            there = [file for file in files if file.is_file()]
            if there:
                yield student.name, name, there[0]


def _marked(submission: tuple[str, str, Path], seconds: float) -> Mark:
    student, exercise, file = submission

    def failed(verdict: str, text: str) -> Mark:
        return Mark(student, exercise, verdict, 0, "", text)

    try:
        source = file.read_text(encoding="utf-8")
        source = answer_of(source) if file.suffix == ".ipynb" else source
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return failed("error", f"cannot be read: {error}")
    word = secrets.token_hex()
    with tempfile.TemporaryDirectory() as own:
        command = [sys.executable, "-m", "miniattn.lab._guard", exercise, str(MEMORY), str(seconds)]
        with subprocess.Popen(
            command,
            cwd=own,
            env=_environment(own),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        ) as process:
            try:
                said, _ = process.communicate(f"{word}\n{source}", timeout=seconds)
            except subprocess.TimeoutExpired:
                return failed("time", f"it ran for more than {seconds:g} seconds")
            finally:
                _end(process)
    try:
        last = said.splitlines()[-1]
        if not last.startswith(word):  # it did not come from the checker
            raise ValueError
        report = json.loads(last.removeprefix(word))
        return Mark(student, exercise, *(report[k] for k in ("verdict", "line", "cause", "text")))
    except (ValueError, IndexError, KeyError, TypeError):
        return failed("ended", f"it ended the process (status {process.returncode})")


def _environment(folder: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    path = os.pathsep.join(entry for entry in sys.path if entry)
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return {**kept, **threads, "PYTHONPATH": path, "HOME": folder, "PYTHONDONTWRITEBYTECODE": "1"}


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and all that it started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
