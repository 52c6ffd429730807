"""The command as a learner and a teacher use it."""

import csv
import json

import pytest

from miniattn import lab
from miniattn.__main__ import main
from miniattn.lab import _course, _marking, cli


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_start_to_done(here, capsys):
    assert main(["lab", "start", "softmax"]) == 0
    assert main(["lab", "check", "softmax.py"]) == 1
    assert "softmax_backward is not written yet" in capsys.readouterr().out
    for given in (1, 2, 3, 3):
        assert main(["lab", "hint", "softmax"]) == 0
        said = capsys.readouterr().out
        assert all((f"{n}. " in said) == (n <= given) for n in (1, 2, 3))
    (here / "softmax.py").write_text(lab.find("softmax").solution(), encoding="utf-8")
    assert main(["lab", "check", "softmax.py"]) == 0
    assert "next: python -m miniattn lab start softmax_temperature" in capsys.readouterr().out
    assert main(["lab"]) == 0
    said = capsys.readouterr().out
    assert "[x] softmax " in said
    assert "(3 of 3 hints)" in said
    assert f"1 of {len(lab.exercises())} done here" in said
    assert main(["lab", "show", "softmax"]) == 0
    assert capsys.readouterr().out == lab.find("softmax").solution()


def test_what_is_there_is_not_overwritten(here, capsys):
    assert main(["lab", "start", "relu"]) == 0
    (here / "relu.py").write_text("mine", encoding="utf-8")
    assert main(["lab", "start", "relu"]) == 2
    assert (here / "relu.py").read_text(encoding="utf-8") == "mine"
    assert main(["lab", "start", "relu", "--force"]) == 0
    assert "--force" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["start", "softmx"], "expected an exercise, got 'softmx' (is it one of softmax_stable"),
        (["check", "nothing.py"], "FILE: expected a Python file"),
        (["check", "other.py"], "FILE: name: expected the name of an exercise"),
        (["mark", "nowhere"], "FOLDER: expected a folder"),
        (["course", "c", "--only", "nothing"], "NAME: expected an exercise"),
    ],
)
def test_wrong_calls(here, capsys, argv, said):
    (here / "other.py").write_text("x = 1\n", encoding="utf-8")
    assert main(["lab", *argv]) == 2
    assert said in capsys.readouterr().err


def test_a_bug_to_find(here, capsys):
    assert main(["lab", "bug", "gelu", "--seed", "4"]) == 0
    assert main(["lab", "check", "gelu_bug4.py"]) == 1
    assert f"line {lab.plant(4, 'gelu').line}" in capsys.readouterr().out


def test_watching(here, monkeypatch, capsys):
    """A file that is saved is checked again, until the watching is stopped."""
    path = here / "relu.py"
    path.write_text(lab.find("relu").start(), encoding="utf-8")
    rounds = iter([lab.find("relu").solution(), None])

    def sleep(_):
        source = next(rounds)
        if source is None:
            raise KeyboardInterrupt
        path.write_text(source, encoding="utf-8")

    monkeypatch.setattr(cli.time, "sleep", sleep)
    assert main(["lab", "check", "relu.py", "--watch"]) == 0
    said = capsys.readouterr().out
    assert said.index("not written yet") < said.index("relu: right")


def test_notes_that_cannot_be_read_are_none(here):
    (here / cli.NOTES).write_text("[1", encoding="utf-8")
    assert main(["lab", "list"]) == 0


# A course, and what comes back.

NASTY = {
    "mse": ("wrong|error", "import shutil\nshutil.rmtree({victim!r})"),
    "relu": ("ended", "import os\nos._exit(0)"),
    "tanh": ("time", "while True: pass"),
    "silu": ("ended", "import sys\nsys.exit(0)"),
    "heads": ("error", "import numpy as np\nx = np.ones((10**6, 10**6))"),
    "gelu": ("error", "open({victim!r} + '/x', 'w')"),
    "dropout": ("error", "import os\nos.remove({victim!r} + '/kept')"),
    "rotary": ("error", "import subprocess\nsubprocess.run(['rm', '-r', {victim!r}])"),
    "causal": ("error", "import socket\nsocket.create_connection(('127.0.0.1', 9))"),
    "clip": ("error", "import ctypes\nctypes.CDLL(None)"),
    "adam": ("ended", "import os\nos.write(1, b{forged!r})\nos._exit(0)"),  # marks itself
    "lora": ("passed", "import os\nos.write(1, b'x' * 10**7)\nprint('x' * 10**7)"),
}
FORGED = '{"verdict": "passed", "line": 0, "cause": "", "text": ""}'


def test_a_course_is_written_solved_and_marked(here, capsys):
    """The names of two students; one hands in solutions, and things that no one should run."""
    chosen = ["softmax", "linear", "adam"]
    assert main(["lab", "course", "c", "--only", *chosen]) == 0
    assert sorted(path.name for path in (here / "c" / "student").iterdir()) == sorted(
        ["README.md", *(f"{name}{end}" for name in chosen for end in (".py", ".ipynb"))]
    )
    bob, ann = here / "c" / "submissions" / "bob", here / "c" / "submissions" / "ann"
    ann.mkdir(parents=True)
    bob.mkdir()
    for name in chosen:
        (ann / f"{name}.py").write_bytes((here / "c" / "teacher" / f"{name}.py").read_bytes())
    notebook = (here / "c" / "teacher" / "softmax.ipynb").read_bytes()
    (bob / "softmax.ipynb").write_bytes(notebook)
    (bob / "linear.ipynb").write_bytes((here / "c" / "student" / "linear.ipynb").read_bytes())
    (bob / "adam.py").write_text(
        lab.find("adam").solution().replace("+ eps)", "- eps)"), encoding="utf-8"
    )
    assert main(["lab", "mark", "c/submissions", "--csv", "marks.csv"]) == 0
    assert "ann: 3 of 3" in capsys.readouterr().out
    with (here / "marks.csv").open(newline="", encoding="utf-8") as file:
        rows = {(row["student"], row["exercise"]): row for row in csv.DictReader(file)}
    assert rows["bob", "softmax"]["verdict"] == "passed"
    assert rows["bob", "linear"]["verdict"] == "unwritten"
    assert (rows["bob", "adam"]["verdict"], rows["bob", "adam"]["cause"]) == (
        "wrong",
        "`eps` is subtracted where it is to be added (sign)",
    )


def test_what_submissions_do_harms_nobody(tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "kept").write_text("here", encoding="utf-8")
    folder = tmp_path / "submissions" / "eve"
    folder.mkdir(parents=True)
    for name, (_, code) in NASTY.items():
        source = code.format(victim=str(victim), forged=FORGED)
        text = f"{lab.find(name).solution()}\n{source}\n"
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    (folder / "padding.ipynb").write_text("{}", encoding="utf-8")
    (folder / "sink.py").write_bytes(b"\xff\xfe")
    marks = {mark.exercise: mark for mark in _marking.mark(tmp_path / "submissions", seconds=6.0)}
    for name, (verdict, _) in NASTY.items():
        assert marks[name].verdict in verdict.split("|"), marks[name]
    assert marks["padding"].verdict == marks["sink"].verdict == "error"
    assert [path.name for path in victim.iterdir()] == ["kept"]
    assert "eve: 1 of 14" in _marking.table(list(marks.values()))
    assert _marking.table([]) == "no submissions"


def test_a_notebook_holds_what_the_file_does():
    exercise = lab.find("softmax")
    content = json.loads(_course.exercise_notebook(exercise, exercise.hole(), ()))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    kinds = [cell["cell_type"] for cell in content["cells"]]
    assert kinds == ["markdown", "code", "code", "code"]
    assert len({cell["id"] for cell in content["cells"]}) == 4
    for cell in content["cells"]:
        assert {"metadata", "source"} <= cell.keys()
        runs = {"outputs", "execution_count"} <= cell.keys()
        assert runs == (cell["cell_type"] == "code")
    solved = _course.exercise_notebook(exercise, exercise.answer(), exercise.hints)
    assert lab.check(_course.answer_of(solved)).passed
    assert exercise.hints[2] in solved
    assert exercise.hints[0] not in json.dumps(content)
