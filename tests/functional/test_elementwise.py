"""The sum of two arrays: right for any layout, and fresh."""

import numpy as np
import pytest

from miniattn.functional._elementwise import add


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (3, 5, 9), (130, 129)])
def test_sum_in_any_layout(shape, dtype, rng):
    x, y = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    frozen = x.copy()
    frozen.flags.writeable = False
    for a, b in (
        (x, y),
        (frozen, np.asfortranarray(y)),
        (x.T.copy().T, y[::-1][::-1] if shape else y),
    ):
        total = add(a, b)
        np.testing.assert_array_equal(total, x + y)
        assert total.dtype == dtype
        assert not np.shares_memory(total, a)
        assert not np.shares_memory(total, b)


def test_nan_and_infinity_travel_on():
    total = add(np.array([np.nan, np.inf, np.inf]), np.array([1.0, 1.0, -np.inf]))
    np.testing.assert_array_equal(total, [np.nan, np.inf, np.nan])
