"""The examples in the docstrings run, and print what they say."""

import doctest
import importlib
import pkgutil

import numba
import pytest

import miniattn

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(miniattn.__path__, "miniattn.")
    # Workers of the benchmark are programs of their own: each imports the library that it times.
    if not module.name.endswith("__main__") and ".bench.worker" not in module.name
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(importlib.import_module(name), optionflags=flags)
    miniattn.set_num_threads(numba.config.NUMBA_NUM_THREADS)  # one example sets it
    assert result.failed == 0
