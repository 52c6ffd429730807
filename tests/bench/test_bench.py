"""The benchmark measures the same thing everywhere, in separate processes, and says what it did."""

import argparse
import importlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from miniattn import bench, masks
from miniattn.bench import _cases, _measure, _results, _table
from miniattn.bench.worker import data

TINY = [
    _cases.Group("copy", "copy", [_cases._rows("copy", 2**20, 1024)]),
    _cases.Group(
        "attention, forward",
        "multiply_add",
        [_cases._attention(False, 2, 2, 5, 5, 16, mask) for mask in ("full", "causal", "padding")],
    ),
    _cases.Group("softmax, forward + backward", "copy", [_cases._rows("softmax", 2**20, 64, True)]),
]
OPERATIONS = ("softmax", "cross_entropy", "layer_norm", "gelu")
ATTENTION = [(2, 3, 7, 7, 16, mask) for mask in ("full", "causal", "padding")]
ATTENTION.append((2, 1, 1, 9, 16, "full"))


@pytest.fixture
def worker(monkeypatch):
    """Import a module of the worker as the worker does."""
    monkeypatch.syspath_prepend(_measure.WORKER)
    yield importlib.import_module
    for name in [
        n for n in sys.modules if n == "data" or n.startswith("with_") or n.endswith("_gpt")
    ]:
        del sys.modules[name]


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Run the command on tiny cases with two libraries and one that does not exist."""
    monkeypatch.setattr(bench, "LIBRARIES", ["miniattn", "numpy", "nothing"])
    monkeypatch.setattr(_cases, "groups", lambda quick: TINY)
    monkeypatch.setattr(_cases, "LENGTHS", [128, 256])
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)

    def run(*options):
        common = ["--rounds", "2", "--seconds", "0.001", "--out", str(tmp_path)]
        args = parser.parse_args([*common, "--peers", "numpy", "nothing", *options])
        assert bench.run(args) == 0
        return json.loads((tmp_path / "benchmark.json").read_text(encoding="utf-8"))

    return run


def test_a_run_writes_table_json_and_picture(command, tmp_path, capsys):
    results = command()
    assert set(results["libraries"]) == {"miniattn", "numpy"}
    assert [r["name"] for r in results["records"]] == [
        _cases.name(c) for g in TINY for c in g.cases
    ]
    for entry in results["records"]:
        for library in ("miniattn", "numpy"):
            found = entry["libraries"][library]
            assert found["seconds"] > 0
            assert found["samples"] >= 2  # one a round: a slow call is not repeated in it
    assert 0 < results["records"][-1]["of_limit"]
    assert results["limits"].keys() == {"multiply_add", "copy 1 M"}
    assert [e["case"]["T"] for e in results["lengths"]] == [128, 256]
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "benchmark.txt").read_text(encoding="utf-8")
    assert "nothing: not measured, with_nothing is not installed" in printed
    assert (tmp_path / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    tables = printed.split("\n\n")[2:]
    assert len(tables) == len(TINY) + 1
    for table in tables:
        assert len({len(line) for line in table.strip("\n").splitlines()}) == 1


def test_what_is_not_measured_again_is_kept_and_can_be_drawn_again(command, tmp_path, capsys):
    first = command("--only", "attention", "lengths")
    second = command("--only", "causal forward")
    assert [r["name"] for r in second["records"]] == [r["name"] for r in first["records"]]
    by_name = [{r["name"]: r for r in results["records"]} for results in (first, second)]
    padded = "attention (2,2,5,5,16) padding forward"
    assert by_name[0][padded] == by_name[1][padded]
    assert len(second["lengths"]) == 2
    assert second["lengths"] == first["lengths"]
    (tmp_path / "benchmark.png").unlink()
    assert command("--draw") == second
    assert (tmp_path / "benchmark.png").exists()


def test_every_library_has_a_process_of_its_own():
    libraries, missing = _measure.start(["miniattn", "numpy", "nothing"], {}, 1)
    try:
        assert missing == {"nothing": "with_nothing"}
        assert len({os.getpid(), *(x.pid for x in libraries)}) == 3
        case = _cases._rows("gelu", 64, 16)
        found = _measure.compare(libraries, case, rounds=2, seconds=0.0)
        assert len(found["miniattn"]["rounds"]) == 2
        assert found["numpy"] == {"absent": True}
        broken = _measure.compare(libraries, {**case, "rows": -1}, rounds=2, seconds=0.0)
        assert "error" in broken["miniattn"]
        assert "times" in libraries[0].ask(case, 0.0)  # one failed case is not the end
    finally:
        for library in libraries:
            library.close()


class Scripted:
    """Stands for a library and for the machine: its calls take 1, 2, ... seconds."""

    name = "scripted"

    def __init__(self, free):
        self.free = iter(free)
        self.calls = 0

    def ask(self, case, seconds):
        self.calls += 1
        return {"times": [self.calls]}

    def is_free(self):
        return next(self.free)


@pytest.mark.parametrize(
    ("free", "kept"),
    [
        ([True, True], [1, 2]),
        ([False, True, False, True], [2, 4]),
        ([False] * 6, [5, 6]),  # six tries for two rounds: the last ones count as they are
        ([False, False, True, False, False, False], [3, 6]),
    ],
)
def test_disturbed_rounds_are_taken_again(free, kept):
    both = Scripted(free)
    found = _measure.compare([both], {}, rounds=2, seconds=0.0, machine=both)
    assert found == {"scripted": {"rounds": [[n] for n in kept]}}
    assert both.calls == len(free)


def test_the_machine_is_busy_while_its_threads_are_slow(monkeypatch):
    machine = _measure.Machine(1)
    try:
        assert machine.peak > 0
        speeds = iter([machine.peak / 2, machine.peak / 2, machine.peak])
        monkeypatch.setattr(machine, "_speed", lambda: next(speeds))
        assert not machine.is_free()  # and it waited until the third
        with pytest.raises(StopIteration):
            next(speeds)
    finally:
        machine.close()


def test_the_grid():
    assert len(_cases.GRID) >= 16
    assert len({_cases.name(c) for g in _cases.groups(False) for c in g.cases}) == sum(
        len(g.cases) for g in _cases.groups(False)
    )
    assert {D for *_, D, _ in _cases.GRID} == {16, 32, 64, 80, 128}


@pytest.mark.parametrize("mask", ["full", "causal", "padding"])
def test_operations_are_those_of_visible_pairs(mask):
    case = _cases._attention(False, 3, 2, 4, 7, 16, mask)
    rule = {"causal": masks.causal(), "padding": masks.padding(data.lengths(case))}.get(mask)
    pairs = 3 * 2 * 4 * 7 if rule is None else np.sum(rule.to_array(3, 2, 4, 7))
    assert _cases.operations(case) == 2 * 2 * pairs * 16
    assert _cases.operations({**case, "backward": True}) == 7 * 2 * pairs * 16


def test_summary_counts_rounds_not_samples():
    slow, fast = [2.0, 2.0], [1.0] * 100
    found = _results.summary([slow, fast, slow])
    assert found == {"seconds": 2.0, "spread": 0.25, "samples": 104}


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.5, "1.50 s"), (0.0123, "12.3 ms"), (4.56e-4, "456 us"), (1e-7, "0.10 us")],
)
def test_durations(value, text):
    assert _table.duration(value) == text


@pytest.mark.parametrize("peer", ["numpy", "torch", "jax", "onnxruntime"])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("operation", [*OPERATIONS, *ATTENTION], ids=str)
def test_libraries_compute_the_same(worker, peer, backward, operation):
    """Otherwise their times could not be compared."""
    try:
        other = worker(f"with_{peer}")
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
    if isinstance(operation, tuple):
        case = _cases._attention(backward, *operation)
    else:
        case = _cases._rows(operation, 60, 10, backward)
    call = other.build(case, data.arrays(case), 1)
    if call is None:
        pytest.skip(f"{peer} has no such operation")
    own = worker("with_miniattn").build(case, data.arrays(case), 1)
    expected = [a for a in flat(own()) if a is not None]
    found = in_our_order(flat(call()), peer, case)
    assert len(found) == len(expected)
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("peer", ["torch", "torch_compile", "jax", "onnxruntime"])
@pytest.mark.parametrize("op", ["train", "classify", "logits", "decode"])
def test_models_compute_the_same(worker, peer, op, monkeypatch):
    try:
        other = worker(f"with_{peer}")
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
    if peer == "torch_compile":  # the way that is compiled, without the minute that it takes
        monkeypatch.setattr(other.torch, "compile", lambda function, **options: function)
    case = _cases._model(op, 2, 16, 2, 3, 9)
    call = other.build(case, data.arrays(case), 1)
    if call is None:
        pytest.skip(f"{peer} has no such operation")
    own = worker("with_miniattn").build(case, data.arrays(case), 1)
    for _ in range(3):  # steps of training follow each other
        expected, found = own(), flat(call())[0]
        np.testing.assert_allclose(expected, np.asarray(found), rtol=2e-4, atol=1e-4)
    if op == "decode":
        assert len(np.unique(expected)) > 5  # else they would be the same by chance


def test_torch_compile_is_for_models_alone(worker):
    pytest.importorskip("torch")
    case = _cases._rows("gelu", 40, 10)
    assert worker("with_torch_compile").build(case, data.arrays(case), 1) is None


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are counted there")
def test_beside_others_there_are_others():
    before = len(_children())
    with _measure.busy(2):
        assert len(_children()) == before + 2
    assert len(_children()) == before


def _children():
    """The processes that this one has started."""
    return [
        path
        for path in Path("/proc").glob("[0-9]*/stat")
        if (words := _words(path)) and words[1] == str(os.getpid()) and words[0] != "Z"
    ]


def _words(path):
    try:
        return path.read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None


def test_adamw_is_the_same(worker):
    case = _cases._rows("adamw", 40, 10)
    values = []
    for name in ("miniattn", "numpy", "torch"):
        try:
            library = worker(f"with_{name}")
        except ModuleNotFoundError:
            continue
        inputs = data.arrays(case)
        step = library.build(case, inputs, 1)
        for _ in range(3):
            step()
        values.append(inputs["x"])  # updated in place
    for other in values[1:]:
        np.testing.assert_allclose(values[0], other, rtol=1e-5, atol=1e-6)


def flat(results):
    """The arrays in nested tuples, in order; JAX's dictionaries with their names."""
    if isinstance(results, tuple | list):
        return [a for r in results for a in flat(r)]
    return [results]


def in_our_order(found, peer, case):
    """JAX keeps (B, T, H, D), and names its gradients."""
    if peer == "jax":
        y, *grads = found
        order = ("q", "k", "v", "x", "logits", "weight", "bias")
        arrays = [y, *(grads[0][n] for n in order if grads and n in grads[0])]
        found = [np.swapaxes(a, 1, 2) if np.ndim(a) == 4 else a for a in arrays]
    return [np.asarray(a) for a in found]
