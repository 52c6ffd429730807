"""The command ``lab``: exercises, their checker, and a course for a class."""

import argparse
import json
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from miniattn._command import WrongCall, output_folder, positive, whole
from miniattn.lab._bugs import plant
from miniattn.lab._check import check, exercise_of
from miniattn.lab._exercise import Exercise, exercises, find
from miniattn.lab._exercises import ORDER

NOTES = ".miniattn-lab.json"  # what is done in a folder, and how many hints were given
PAUSE = 0.5  # seconds between two looks at a file that is watched


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command is asked."""
    parser.set_defaults(what=_list)
    commands = parser.add_subparsers(metavar="WHAT")

    def add(name: str, what: Callable[[argparse.Namespace], int], text: str) -> Any:
        subparser = commands.add_parser(name, help=text, description=text)
        subparser.set_defaults(what=what)
        return subparser

    add("list", _list, "list the exercises, and what is done (the same as no word)")
    start = add("start", _start, "write the file of an exercise, to be filled in")
    start.add_argument("name", metavar="NAME")
    start.add_argument("--folder", type=Path, default=Path(), help="where (default: here)")
    start.add_argument("--force", action="store_true", help="overwrite what is there")
    one = add("check", _check, "say whether a file is right, and if not, which line and why")
    one.add_argument("file", type=Path, metavar="FILE")
    one.add_argument("--watch", action="store_true", help="check again whenever it is saved")
    add("hint", _hint, "give the next hint of three").add_argument("name", metavar="NAME")
    add("show", _show, "show the solution").add_argument("name", metavar="NAME")
    bug = add("bug", _bug, "write a file with a mistake in it, to be found")
    bug.add_argument("name", metavar="NAME")
    bug.add_argument("--seed", type=whole(0), default=0, help="another seed, another mistake")
    bug.add_argument("--folder", type=Path, default=Path(), help="where (default: here)")
    course = add("course", _course, "write a course: for students and for the teacher")
    course.add_argument("folder", type=Path, metavar="FOLDER")
    course.add_argument("--only", nargs="+", metavar="NAME", help="these exercises")
    mark = add("mark", _mark, "mark a folder of submissions, a folder for each student")
    mark.add_argument("folder", type=Path, metavar="FOLDER")
    mark.add_argument("--csv", type=Path, help="write the table to this file, too")
    mark.add_argument(
        "--seconds", type=positive, default=20.0, help="for each file (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Do what was asked; return the exit status."""
    return int(args.what(args))


def _list(args: argparse.Namespace) -> int:
    done = _notes(Path())
    wide = max(map(len, ORDER))
    for exercise in exercises():
        note = done.get(exercise.name, {})
        box = "x" if note.get("passed") else " "
        hints = f"  ({note['hints']} of 3 hints)" if note.get("hints") else ""
        print(f"[{box}] {exercise.name:<{wide}}  {exercise.title}{hints}")
    count = sum(bool(note.get("passed")) for note in done.values())
    print(f"\n{count} of {len(ORDER)} done here. Begin: python -m miniattn lab start NAME")
    return 0


def _start(args: argparse.Namespace) -> int:
    exercise = _found(args.name)
    path = _new_file(args.folder / f"{exercise.name}.py", exercise.start(), args.force)
    print(f"{path} is yours. When there is something in it: python -m miniattn lab check {path}")
    return 0


def _check(args: argparse.Namespace) -> int:
    passed = _checked(args.file)
    if not args.watch:
        return 0 if passed else 1
    seen = args.file.stat().st_mtime_ns
    try:
        while True:
            time.sleep(PAUSE)
            if args.file.exists() and args.file.stat().st_mtime_ns != seen:
                seen = args.file.stat().st_mtime_ns
                print(f"\n--- {time.strftime('%H:%M:%S')}")
                _checked(args.file)
    except KeyboardInterrupt:
        return 0


def _checked(file: Path) -> bool:
    """Print what is to be said of a file; note that it passed."""
    try:
        source = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WrongCall(f"FILE: expected a Python file, got {str(file)!r}: {error}") from None
    try:
        name = exercise_of(source, file)
    except ValueError as error:
        raise WrongCall(f"FILE: {error}") from None
    report = check(file, name)
    print(report)
    if report.passed:
        _note(file.parent, name, passed=True)
        rest = ORDER[ORDER.index(name) + 1 :]
        if rest:
            print(f"next: python -m miniattn lab start {rest[0]}")
    elif report.verdict == "wrong":
        print(f"a hint: python -m miniattn lab hint {name}")
    return report.passed


def _hint(args: argparse.Namespace) -> int:
    exercise = _found(args.name)
    given = min(_notes(Path()).get(exercise.name, {}).get("hints", 0) + 1, len(exercise.hints))
    for number, hint in enumerate(exercise.hints[:given], 1):
        print(textwrap.fill(f"{number}. {hint}", 100, subsequent_indent="   "))
    _note(Path(), exercise.name, hints=given)
    print(f"the derivation: docs/{exercise.read}.md")
    return 0


def _show(args: argparse.Namespace) -> int:
    print(_found(args.name).solution(), end="")
    return 0


def _bug(args: argparse.Namespace) -> int:
    exercise = _found(args.name)
    bug = plant(args.seed, exercise.name)
    path = args.folder / f"{exercise.name}_bug{args.seed}.py"
    _new_file(path, bug.source, force=True)
    print(f"{path}: one line of it is wrong. Which? And: python -m miniattn lab check {path}")
    return 0


def _course(args: argparse.Namespace) -> int:
    from miniattn.lab._course import write_course

    chosen = [_found(name) for name in args.only] if args.only else list(exercises())
    output_folder(args.folder)
    count = write_course(args.folder, chosen)
    print(f"{len(chosen)} exercises, {count} files in {args.folder}: student/ and teacher/")
    print(f"to mark: python -m miniattn lab mark {args.folder / 'submissions'} --csv marks.csv")
    return 0


def _mark(args: argparse.Namespace) -> int:
    from miniattn.lab._marking import mark, table, write_csv

    if not args.folder.is_dir():
        raise WrongCall(f"FOLDER: expected a folder, got {str(args.folder)!r}")
    marks = mark(args.folder, seconds=args.seconds)
    print(table(marks))
    if args.csv is not None:
        write_csv(args.csv, marks)
        print(f"written to {args.csv}")
    return 0


def _found(name: str) -> Exercise:
    if name not in ORDER:
        near = ", ".join(other for other in ORDER if name[:4] in other)
        meant = f" (is it one of {near}?)" if near else ""
        raise WrongCall(f"NAME: expected an exercise, got {name!r}{meant}; lab lists them")
    return find(name)


def _new_file(path: Path, text: str, force: bool) -> Path:
    if path.exists() and not force:
        raise WrongCall(f"{path} is there already; --force overwrites it")
    output_folder(path.parent)
    path.write_text(text, encoding="utf-8")
    return path


def _notes(folder: Path) -> dict[str, Any]:
    """Return what is noted of a folder; nothing where the notes cannot be read."""
    try:
        found = json.loads((folder / NOTES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return (
        {k: v for k, v in found.items() if isinstance(v, dict)} if isinstance(found, dict) else {}
    )


def _note(folder: Path, name: str, **facts: Any) -> None:
    notes = _notes(folder)
    notes[name] = {**notes.get(name, {}), **facts}
    (folder / NOTES).write_text(json.dumps(notes, indent=1), encoding="utf-8")
