"""Shared settings and fixtures. The workers share compiled kernels through the cache on disk."""

import os
import subprocess
import sys

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("MINIATTN_CHECK", "1")  # before the package is imported, which asks once
# Two threads at least, on one core too: what is promised for any number of them is tested there.
os.environ["NUMBA_NUM_THREADS"] = str(
    max(
        2,
        int(os.environ.get("NUMBA_NUM_THREADS", 0))
        or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
    )
)

import numpy as np
import pytest
import samples
from hypothesis import settings

# No deadline: the first example of a test may compile a kernel.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def own_name(node):
    """The name of a test without its folder, so that a move changes no number."""
    return node.nodeid.rpartition("/")[2]


def pytest_runtest_setup(item):
    samples.begin(own_name(item))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    try:
        return (yield)
    finally:
        samples.end()


@pytest.fixture
def rng(request):
    """Random numbers of the test's own: the same in every run, whatever runs before."""
    return np.random.default_rng(samples.seed(own_name(request.node)))


@pytest.fixture
def python(tmp_path):
    """Run code in a fresh interpreter and return what it prints; keywords are its environment.

    None removes a variable. The code runs in ``tmp_path``, and imports what is there first.
    """

    def run(code, *, timeout=120, **env):
        cleared = (
            "NUMBA_THREADING_LAYER",
            "NUMBA_NUM_THREADS",
            "OMP_WAIT_POLICY",
            "MINIATTN_CACHE",
        )
        merged = {k: v for k, v in os.environ.items() if k not in cleared}
        merged |= {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"} | env
        process = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={k: v for k, v in merged.items() if v is not None},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert process.returncode == 0, process.stderr
        return process.stdout

    return run
