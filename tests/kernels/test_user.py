"""Functions that users write: found again where nothing changed, and never stale."""

import os
import subprocess
import sys
import types

import numpy as np
import pytest

from miniattn.kernels.attention import tile_map
from miniattn.kernels.compile import user
from miniattn.kernels.compile.launch import NO_FACTORS, launch

WIDTH = 3
PARTS = types.ModuleType("parts")
PARTS.shift = 1
TABLE = np.arange(4)


def helper(x):
    return x - WIDTH


def by_global(b, h, i, j):
    return j <= i + WIDTH


def by_helper(b, h, i, j):
    return helper(j) <= i


def by_module(b, h, i, j):
    return j <= i + PARTS.shift


def by_array(b, h, i, j):
    return j <= i + TABLE[1]


def by_table(b, h, i, j, table):
    return j <= i + table[h, 0]


def reach(function, *tables):
    """How far query 0 sees, by machine code."""
    kinds = tuple(user.table_type(x) for x in tables)
    frozen = [user.frozen(function)]
    code = user.compiled(tile_map.function_loop, frozen, tile_map.arguments(), key=(kinds,))
    words = np.zeros(64, np.uint64)
    sizes = np.array([1, 8, 8, 0, 1, 1, 1])
    described = [n for x in tables for n in (x.ctypes.data, *x.shape, 0, 0, 0, 0)[:5]]
    operands = np.array([words.ctypes.data, 0, 0, 0, 0, 0, 0, 1, 0, 1, *described])
    launch(code.address, 1, 1, sizes, NO_FACTORS, operands, 0, 0)
    assert operands[tile_map.DONE] == 1
    return int((words & 1).sum()) - 1  # bit 0 of each key's word is query 0


def closed_over(width):
    return lambda b, h, i, j: j <= i + width


@pytest.mark.parametrize(
    ("function", "where", "name", "value", "far"),
    [
        (by_global, globals(), "WIDTH", 5, (3, 5)),
        (by_helper, globals(), "WIDTH", 5, (3, 5)),
        (by_module, vars(PARTS), "shift", 4, (1, 4)),
        (by_array, globals(), "TABLE", np.arange(4) * 2, (1, 2)),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_what_a_function_reads_is_never_stale(function, where, name, value, far, monkeypatch):
    before = user.frozen(function)
    assert reach(function) == far[0]
    monkeypatch.setitem(where, name, value)
    assert user.frozen(function).fingerprint != before.fingerprint
    assert reach(function) == far[1]
    assert reach(before.function) == far[0]  # what was looked at stays what it was


def test_arrays_that_change_in_place_are_noticed(monkeypatch):
    monkeypatch.setitem(globals(), "TABLE", np.arange(4))
    before = user.frozen(by_array).fingerprint
    TABLE[1] = 6
    assert user.frozen(by_array).fingerprint != before


def test_closures_and_tables():
    assert [reach(closed_over(n)) for n in (2, 6)] == [2, 6]
    assert [reach(by_table, np.array([[n]])) for n in (2, 6)] == [2, 6]


def test_the_same_function_is_compiled_once():
    reach(closed_over(2))
    count = len(user._compiled)
    reach(closed_over(2))  # another object, of the same code
    assert len(user._compiled) == count


def test_arguments_that_are_not_read():
    assert [user.reads(by_table, n) for n in range(5)] == [False, True, True, True, True]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (len, "function: expected a function written with def or lambda, got <built-in"),
        (3, "got 3"),
        (closed_over(object()), "reads width, a object"),
        (lambda b, h, i, j: undefined, "'undefined'"),  # noqa: F821
        (lambda b, h, i, j: vars()["b"], "vars"),
        (lambda b, h, i, j: "s" + i, "add"),
    ],
)
def test_what_cannot_be_compiled_is_said(function, words):
    with pytest.raises(TypeError, match=words):
        reach(function)


def test_a_function_that_calls_itself_is_refused():
    def again(b, h, i, j):
        return again(b, h, i, j)

    with pytest.raises(TypeError, match="don't call themselves"):
        user.frozen(again)


def test_what_did_not_change_is_not_read_again(monkeypatch):
    """Reading all that a function reads takes as long as a small call of attention."""
    for function in (by_global, by_helper, by_module, closed_over(2)):
        assert user.frozen(function) is user.frozen(function)
    before = [user.frozen(f) for f in (by_global, by_helper, by_module, by_default)]
    monkeypatch.setitem(globals(), "WIDTH", WIDTH + 1)
    monkeypatch.setattr(PARTS, "shift", PARTS.shift + 1)
    monkeypatch.setattr(by_default, "__defaults__", (5,))
    after = [user.frozen(f) for f in (by_global, by_helper, by_module, by_default)]
    assert all(a.fingerprint != b.fingerprint for a, b in zip(before, after, strict=True))


def by_default(b, h, i, j, width=3):
    return j <= i + width


def test_helpers_of_a_task_are_nobody_elses():
    """What fills intervals and what fills by a function have helpers of the same names.

    LLVM gives those of a task other arguments. A function that found them called them with its own.
    """
    code = """
import numpy as np
from miniattn import masks
seen = masks.where(lambda b, h, i, j, odd: (i + j) % 2 == 0 or j < odd[h])(np.array([0, 1]))
masks.lower(masks.dilated(2), 1, 2, 100, 100)
assert (seen.to_array(1, 2, 100, 100) == seen.by_definition(1, 2, 100, 100)).all()
"""
    env = {**os.environ, "MINIATTN_CACHE": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
