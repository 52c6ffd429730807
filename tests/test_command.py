"""Wrong commands: one line that names the option, status 2, and nothing is done before it."""

import argparse
import json

import pytest

from miniattn import _command, bench
from miniattn.__main__ import main
from miniattn.bench import _measure


@pytest.fixture
def busy(tmp_path):
    """A file where a folder is wanted."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("demo --epochs 0", "argument --epochs: expected an int >= 1, got '0'"),
        ("demo --epochs many", "argument --epochs: expected an int >= 1, got 'many'"),
        ("demo --seed -1", "argument --seed: expected an int >= 0, got '-1'"),
        ("demo --out BUSY", "--out: expected a folder to write to, got 'BUSY': File exists"),
        (
            "demo --out BUSY/x",
            "--out: expected a folder to write to, got 'BUSY/x': Not a directory",
        ),
        ("bench --out BUSY", "--out: expected a folder to write to, got 'BUSY': File exists"),
        (
            "bench --only zzz",
            "--only: expected 'lengths' or a part of the name of a case, got 'zzz'",
        ),
        ("bench --only softmax zzz", "--only: expected 'lengths' or a part of the name of a case"),
        ("bench --threads 0", "argument --threads: expected an int >= 1, got '0'"),
        ("bench --threads 4096", "--threads: expected an int <= "),
        ("bench --rounds 0", "argument --rounds: expected an int >= 1, got '0'"),
        ("bench --seconds nan", "argument --seconds: expected a number > 0, got 'nan'"),
        ("bench --seconds 0", "argument --seconds: expected a number > 0, got '0'"),
        ("bench --python torch", "argument --python: expected NAME=PATH of a program, got 'torch'"),
        ("bench --python torch=BUSY", "argument --python: expected NAME=PATH of a program"),
        ("bench --draw --out EMPTY", "--draw: expected EMPTY/benchmark.json of an earlier run"),
    ],
)
def test_wrong_commands(words, message, busy, tmp_path, monkeypatch, capsys):
    def start(*args):
        raise AssertionError("the measuring began")

    monkeypatch.setattr(_measure, "start", start)
    places = {"BUSY": str(busy), "EMPTY": str(tmp_path / "empty")}
    for place, path in places.items():
        words, message = words.replace(place, path), message.replace(place, path)
    try:
        status = main(words.split())
    except SystemExit as end:  # of argparse
        status = end.code
    assert status == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.splitlines()[-1].startswith(f"miniattn {words.split()[0]}: ")
    assert "Traceback" not in printed.err
    assert printed.out == ""


@pytest.mark.parametrize("text", ["{", "[]", '{"machine": 3}', json.dumps({"records": []})])
def test_results_that_are_none_are_not_built_upon(text, tmp_path, capsys):
    (tmp_path / "benchmark.json").write_text(text)
    assert main(["bench", "--draw", "--out", str(tmp_path)]) == 2
    assert "--out: expected results of an earlier run" in capsys.readouterr().err
    assert (tmp_path / "benchmark.json").read_text() == text


def test_a_folder_that_is_not_there_is_made(tmp_path):
    _command.output_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_cases_are_found_by_parts_of_their_names():
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    args = parser.parse_args(["--only", "causal", "lengths", "--threads", "1"])
    bench._check(args)
