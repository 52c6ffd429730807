"""Kernels compiled in several processes: those that are asked for, once, and said in one line."""

import re

import pytest

pytestmark = pytest.mark.slow  # kernels are compiled anew

REHEARSAL = """
import numpy as np
import miniattn.functional as F

def rehearse(argument):
    assert argument == "told"
    x = np.ones((2, 4), np.float32)
    y, ctx = F.relu_forward(x)
    F.relu_backward(x, ctx)
    F.tanh(x)
    raise ValueError(y)  # as calls may, of results that hold anything
"""
RUN = """
import sys
sys.stderr = sys.stdout
import numpy as np
import miniattn.functional as F
from miniattn.kernels.compile import ahead, cache
ahead.compile_ahead("rehearsal:rehearse", "told", cores=3)
print(*sorted(path.name.split("-")[0] for path, _ in cache.entries(cache.folder())))
x = np.array([[-1.0, 2.0]], np.float32)
assert F.relu(x).tolist() == [[0.0, 2.0]]  # nothing of the rehearsal is left
from miniattn.kernels import activation
hits = [sum(k.dispatcher.stats.cache_hits.values()) for k in (activation.relu, activation.tanh)]
print(*hits)
"""


@pytest.fixture
def run(tmp_path, python):
    (tmp_path / "rehearsal.py").write_text(REHEARSAL)

    def lines(**env):
        return python(RUN, NUMBA_CACHE_DIR=str(tmp_path / "cache"), **env).splitlines()

    return lines


def test_what_is_missing_is_compiled_once_and_said_in_a_line(run):
    said, kept, _ = run()
    assert re.fullmatch(r"miniattn: compiling 3 kernels, once \.\.\. \d+ s", said)
    assert kept == "launch relu relu_backward tanh"
    # Nothing is said or compiled, `launch` for other arrays neither; tanh is not asked for.
    assert run() == ["launch relu relu_backward tanh", "1 0"]


def test_one_process_fewer_than_it_takes(run, python, tmp_path):
    """A single core, and no folder to keep things in: kernels are compiled where they are used."""
    code = RUN.replace("cores=3", "cores=1").split("print(*sorted")[0]
    assert python(code, NUMBA_CACHE_DIR=str(tmp_path / "cache")) == ""
    assert python(code.replace("cores=1", "cores=2"), MINIATTN_CACHE="0") == ""
    assert not (tmp_path / "cache").exists()


def test_helpers_that_fail_are_done_without(run, python, tmp_path):
    (tmp_path / "rehearsal.py").write_text("import os\nos._exit(1)\n")
    code = RUN.split("print(*sorted")[0]
    assert python(code, NUMBA_CACHE_DIR=str(tmp_path / "cache")) == ""


FIRST = """
import numpy as np
import miniattn.functional as F
from miniattn.kernels.compile import beside, launch
beside.cores = lambda: 2
assert F.relu(np.array([[-1.0, 2.0]], np.float32)).tolist() == [[0.0, 2.0]]
print(*(sum(x.values()) for x in launch.launch.dispatcher.stats[1:]))
"""


def test_the_launcher_is_compiled_beside_the_first_task(python, tmp_path):
    hits_and_misses = python(FIRST, NUMBA_CACHE_DIR=str(tmp_path)).split()
    assert hits_and_misses == ["1", "0"]
