"""What becomes of the helpers of a task: some are parts of it, some functions beside it."""

import numpy as np

from miniattn.kernels.compile.settings import inner, task
from miniattn.kernels.registers import load, store


@inner
def _often(x):
    return x * 3.0


@inner(apart=True)
def _seldom(x):
    return x + 1.0


@inner
def _total(array):
    total = 0.0
    for x in array:
        total += x
    return total


@task
def work(sizes, factors, operands, queue, scratch):
    store(scratch, _seldom(_often(load(scratch))))


def test_only_what_is_seldom_called_is_a_function_of_its_own(monkeypatch):
    monkeypatch.setenv("MINIATTN_CACHE", "0")  # of what was kept there is machine code alone
    work.address(np.dtype(np.float64))
    [compiled] = work.dispatcher.overloads.values()
    names = [function.name for function in compiled.library.get_defined_functions()]
    assert any("_seldom" in name for name in names)
    assert not any("_often" in name for name in names)


def test_helpers_run_as_the_python_that_they_are():
    assert _seldom(_often(2.0)) == 7.0


def test_a_helper_that_is_given_arrays_goes_through_all_passes():
    import numba

    @numba.njit
    def twice(array):
        return 2.0 * _total(array)

    x = np.arange(5.0)
    for _ in range(3):  # nothing is freed that is still in use
        assert twice(x) == 20.0
    assert x.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
