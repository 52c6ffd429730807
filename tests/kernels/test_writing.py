"""Results written register by register, also past the caches."""

import numba
import numpy as np
import pytest

import miniattn.functional as F
from miniattn.functional import _rows
from miniattn.kernels.registers import LANES, load_first, pointer
from miniattn.kernels.rows.writing import fill, finish, one


@numba.njit
def twice(of, j, k, x):
    return load_first(x + j, k) * 2.0


@numba.njit
def fill_part(y, start, x, n, large):
    fill(pointer(y, start), n, large, twice, one, pointer(x, 0))
    finish(large)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_all_of_a_part_is_filled_and_nothing_beside_it(dtype, large):
    x = np.arange(1, 4 * LANES, dtype=dtype)
    for n in (0, 1, 3, LANES, 2 * LANES + 1, 3 * LANES + 2):
        for start in range(LANES + 1):
            y = np.zeros(6 * LANES, dtype)
            fill_part(y, start, x, n, large)
            np.testing.assert_array_equal(y[start : start + n], 2 * x[:n])
            assert not y[:start].any()
            assert not y[start + n :].any()


def both(name, *args):
    y, ctx = getattr(F, f"{name}_forward")(*args)
    dy = np.random.default_rng(1).normal(size=np.shape(y)).astype(np.asarray(y).dtype)
    gradients = getattr(F, f"{name}_backward")(dy if dy.ndim else 1.0, ctx)
    return [y, *(gradients if isinstance(gradients, tuple) else [gradients])]


@pytest.mark.parametrize("n", [1, 3, 16, 17, 100, 128, 129, 1000])
@pytest.mark.parametrize(
    "name", ["softmax", "log_softmax", "logsumexp", "cross_entropy", "layer_norm", "rms_norm"]
)
def test_past_the_caches_go_the_same_bits(monkeypatch, name, n):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(37, n)).astype(np.float32)
    others = {
        "cross_entropy": [rng.integers(0, n, 37)],
        "layer_norm": [x[1], x[2]],
        "rms_norm": [x[1]],
    }.get(name, [])
    if "norm" not in name:
        x[3, n // 2] = -np.inf
    expected = both(name, x, *others)
    monkeypatch.setattr(_rows, "LARGE", 0)
    for got, want in zip(both(name, x, *others), expected, strict=True):
        np.testing.assert_array_equal(got, want)
