"""The checker: right answers pass, wrong ones are told where and why, and nothing else is taken."""

import ast

import numpy as np
import pytest
from lab_mistakes import TYPICAL

from miniattn import lab
from miniattn.lab import _bugs, _check, _variants
from miniattn.lab._exercises import ORDER
from miniattn.lab._record import Recorded

MISTAKES = [(name, *mistake) for name in ORDER for mistake in TYPICAL[name]]


def broken(name, old, new):
    """The solution's file with one edit of the function, and the line of the edit."""
    exercise = lab.find(name)
    head, mark, body = exercise.solution().partition(f"def {exercise.function}(")
    assert old in body
    source = head + mark + body.replace(old, new, 1)
    pairs = zip(exercise.solution().splitlines(), source.splitlines(), strict=True)
    return source, next(n for n, (a, b) in enumerate(pairs, 1) if a != b)


@pytest.mark.parametrize("name", ORDER)
def test_solution_passes_and_start_says_what_to_do(name):
    exercise = lab.find(name)
    assert lab.check(exercise.solution()).passed
    assert lab.check(exercise.solution(), dtype=np.float32).passed
    report = lab.check(exercise.start())
    assert report.verdict == "unwritten"
    for words in (exercise.function, *exercise.results, exercise.hints[0]):
        assert words in str(report)
    assert len(exercise.hints) == 3


@pytest.mark.parametrize(("name", "old", "new", "kind"), MISTAKES)
def test_a_typical_mistake_is_found(name, old, new, kind):
    source, line = broken(name, old, new)
    report = lab.check(source)
    assert (report.verdict, report.line, report.cause.kind) == ("wrong", line, kind), report


@pytest.mark.parametrize("seed", [0, 7])
def test_planted_bugs_are_found(seed):
    found = lab.score(30, seed)
    assert found.lines >= 0.95, found.missed
    assert found.causes >= 0.8, found.missed


def test_no_alarm_on_other_ways_to_write_it():
    dice = np.random.default_rng(3)
    for n in range(50):
        exercise = lab.exercises()[dice.integers(len(ORDER))]
        source = _variants.variant(exercise, dice)
        report = lab.check(source, dtype=(np.float32, np.float64)[n % 2])
        assert report.passed, f"{source}\n{report}"


def test_a_bug_is_the_same_for_the_same_seed_and_wrong():
    assert lab.plant(5) == lab.plant(5)
    assert lab.plant(5).source != lab.plant(6).source
    bug = lab.plant(5, "gelu")
    assert bug.exercise == "gelu"
    assert not lab.check(bug.source).passed
    assert 0 < bug.line <= len(bug.source.splitlines())


def test_a_report_shows_one_entry_and_its_ratio():
    source, line = broken("softmax_temperature", "dx = dz / temperature", "dx = dz")
    report = lab.check(source)
    assert (report.name, report.line) == ("dx", line)
    assert report.entry.ratio == pytest.approx(2.5)
    assert report.count == (12, 12)
    assert "ratio 2.5" in str(report)
    assert "dx = dz" in report.code


HEAD = '"""softmax: mine"""\nimport numpy as np\n'


@pytest.mark.parametrize(
    ("body", "problem", "line"),
    [
        ("    dy -= (y * dy).sum(-1, keepdims=True)\n    return y * dy", "dy is written to", 4),
        ("    return 0", "dx: expected shape (3, 4), got ()", 4),
        ("    return None", "dx: expected an array", 4),
        ("    return dy, y", "expected 1 results, dx, got 2", 4),
        (
            "    return (y * (dy - (y * dy).sum(-1, keepdims=True))).astype('f4')",
            "dx: expected dtype float64, got float32",
            4,
        ),
        ("    return y @ dy", "ValueError", 4),
        ("    return y * nothing", "NameError", 4),
        ("    return y * dy.mean(axis=9)", "AxisError", 4),
        ("    pass", "dx: expected an array", 0),
    ],
)
def test_what_else_can_be_wrong(body, problem, line):
    report = lab.check(f"{HEAD}def softmax_backward(dy, y):\n{body}\n")
    assert not report.passed
    assert problem in str(report)
    assert report.line == line


SOFTMAX = f"""{HEAD}def softmax_backward(dy, y):
    dx = y * (dy - (y * dy).sum(-1, keepdims=True))
"""


def test_a_result_of_another_dtype_is_told():
    report = lab.check(f"{SOFTMAX}    return dx.astype(np.longdouble)\n")
    assert report.problem == f"dx: expected dtype float64, got {np.dtype(np.longdouble)}"
    source = f"{SOFTMAX}    return dx.astype(np.float64)\n"
    assert lab.check(source).passed
    assert lab.check(source, dtype="float32").problem == "dx: expected dtype float32, got float64"


def test_results_that_share_memory_are_told():
    source, line = broken("residual", "dx = dy + dbranch", "dy[...] = dy + dbranch; dx = dy")
    report = lab.check(source)
    assert (report.problem, report.line) == ("the input dy is written to; make a new array", line)
    source, _ = broken("lora", "    dbranch = scale * dy", "    scale = 1.0\n    dbranch = dy")
    assert not lab.check(source).passed
    source, _ = broken("mse", "dpred = 2.0 * error * share", "dpred = (2.0 * share * error).T.T")
    assert lab.check(source).passed
    exercise = lab.find("adam")
    source = exercise.solution().replace("    return new_p, new_m, new_v", "    return p, m, v")
    assert not lab.check(source).passed
    both = f"{SOFTMAX}    y = dx\n    return y\n"
    assert lab.check(both).passed


def test_a_result_that_is_an_input_is_told():
    """Right numbers, but memory of the caller's: tested where an input is the right result."""
    exercise = lab.find("relu")
    ones = {"dy": np.ones(3), "x": np.ones(3)}
    run = Recorded(ast.parse("def f(dy, x):\n    return dy\n"), "f", {}).run(ones)
    assert _check._shared(exercise, run, {"x": ones["x"]}) == ""
    assert "dx shares its memory with dy" in _check._shared(exercise, run, {"dy": run.outputs[0]})


def test_names_do_not_matter():
    report = lab.check(
        f"{HEAD}def softmax_backward(dy, y):\n    a = y * dy\n    b = a.sum(0, keepdims=True)\n"
        "    c = dy - b\n    return y * c\n"
    )
    assert (report.line, report.name, report.cause.kind) == (5, "b", "axis")


def test_two_mistakes_in_one_line_are_both_told():
    source, line = broken("rms_norm", "dx = (dz - z * stretch) / rms", "dx = dz + z * stretch")
    report = lab.check(source)
    assert report.line == line
    assert "; and " in report.cause.text


def test_a_loop_is_followed_to_its_first_wrong_turn():
    source, line = broken("online_softmax", "decay * total + weight", "total + weight")
    report = lab.check(source)
    assert (report.line, report.name) == (line, "total")


def test_a_function_can_be_checked_where_it_stands():
    def softmax_backward(dy, y):
        return y * (dy - (y * dy).sum(-1, keepdims=True))

    assert lab.check(softmax_backward, "softmax").passed


def product_with_sum(y, dy):
    return (y * dy).sum(-1, keepdims=True)


def softmax_backward(dy, y):
    return y * (dy - product_with_sum(y, dy))


def test_a_function_finds_what_is_beside_it():
    assert lab.check(softmax_backward, "softmax").passed


def test_wrong_calls(tmp_path):
    with pytest.raises(TypeError, match="dtype: expected"):
        lab.check(softmax_backward, "softmax", dtype="nonsense")
    with pytest.raises((TypeError, ValueError), match="seed: expected"):
        lab.plant(-1)
    with pytest.raises((TypeError, ValueError), match="count: expected"):
        lab.score(0)
    with pytest.raises(ValueError, match="name: expected the name of an exercise"):
        lab.check("x = 1\n")
    with pytest.raises(ValueError, match="name: expected one of"):
        lab.find("hardmax")
    with pytest.raises(TypeError, match="answer: expected a file"):
        lab.check(3)
    broken = lab.check('"""softmax: mine"""\ndef softmax_backward(dy, y:\n', "softmax")
    assert broken.verdict == "error"
    assert "not Python" in str(broken)
    other = lab.check("def other(x):\n    return x\n", "softmax")
    assert "expected a function softmax_backward, got other" in str(other)
    path = tmp_path / "relu.py"
    path.write_text(lab.find("relu").solution(), encoding="utf-8")
    assert lab.check(path).passed


def test_the_generator_changes_one_line_of_something_right():
    dice = np.random.default_rng(0)
    source = _variants.variant(lab.find("attention"), dice, changes=2)
    assert lab.check(source).passed
    bug = _bugs.plant(11, "attention")
    assert bug.source.splitlines()[bug.line - 1].strip()
