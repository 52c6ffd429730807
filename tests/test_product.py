"""The matrix product of linear maps: right for any shape and layout, one order of summation."""

import numpy as np
import pytest

import miniattn as ma
from miniattn.functional import _product
from miniattn.functional._product import product
from miniattn.kernels import matmul

SHAPES = [
    (1, 1, 1),
    (5, 3, 2),
    (6, 128, 64),
    (7, 129, 65),
    (48, 127, 63),
    (97, 300, 130),
    (100, 1, 200),
    (400, 20, 33),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_product_in_every_layout(m, k, n, dtype, rng):
    a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    wanted = a.astype(np.float64) @ b.astype(np.float64)
    layouts = [
        product(x, y)
        for x in (a, np.asfortranarray(a), np.repeat(a, 2, axis=0)[::2], _odd(a), a[::-1][::-1])
        for y in (b, np.asfortranarray(b), np.repeat(b, 2, axis=1)[:, ::2], _odd(b))
    ]
    bound = 4 * np.sqrt(k) * np.finfo(dtype).eps * np.abs(a).max() * np.abs(b).max()
    assert np.abs(layouts[0] - wanted).max() <= bound
    for c in layouts:
        assert c.flags.c_contiguous
        np.testing.assert_array_equal(c, layouts[0])  # the same sums in the same order


def _odd(x):
    """Return ``x`` where no element lies at a multiple of its size."""
    memory = np.zeros(x.nbytes + 1, np.uint8)
    y = memory[1:].view(x.dtype).reshape(x.shape)
    y[:] = x
    return y


def test_backwards_strides(rng):
    a, b = rng.standard_normal((9, 20)), rng.standard_normal((20, 70))
    np.testing.assert_array_equal(
        product(a[::-1, ::-1], b[::-1, ::-1]),
        product(a[::-1, ::-1].copy(), b[::-1, ::-1].copy()),
    )


@pytest.mark.parametrize("shape", [(0, 3, 2), (4, 0, 2), (4, 3, 0)])
def test_an_empty_product(shape):
    m, k, n = shape
    c = product(np.ones((m, k)), np.ones((k, n)))
    np.testing.assert_array_equal(c, np.zeros((m, n)))


@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_a_product_that_is_added(m, k, n, rng):
    a, b, c = rng.normal(size=(m, k)), rng.normal(size=(k, n)), rng.normal(size=(m, n))
    wanted = c + a @ b
    assert product(a, b, add_to=c) is c
    np.testing.assert_allclose(c, wanted, rtol=0, atol=1e-12)


def test_the_rows_beside_a_nan_do_not_see_it(rng):
    a, b = rng.standard_normal((20, 9)), rng.standard_normal((9, 70))
    clean = product(a, b)
    a[3], b[:, 65] = np.nan, np.inf
    spoilt = product(a, b)
    rest = np.ones(clean.shape, bool)
    rest[3], rest[:, 65] = False, False
    np.testing.assert_array_equal(spoilt[rest], clean[rest])
    assert np.isnan(spoilt[3]).all()


def test_nothing_beyond_the_result_is_written(rng):
    memory = np.full(7 * 65 + 200, 5.0, np.float32)
    c = memory[100:-100].reshape(7, 65)
    c[:] = 0
    a, b = rng.normal(size=(7, 9)).astype("f"), rng.normal(size=(9, 65)).astype("f")
    product(a, b, add_to=c)
    np.testing.assert_array_equal(c, product(a, b))
    assert (memory[:100] == 5).all()
    assert (memory[-100:] == 5).all()


@pytest.mark.parametrize("turned", [False, True])
def test_the_same_bits_for_any_number_of_threads(turned, rng, monkeypatch):
    a = rng.standard_normal((777, 333), dtype=np.float32)
    b = rng.standard_normal((777 if turned else 333, 130), dtype=np.float32)
    a = a.T if turned else a
    one = product(a, b)
    with ma.threads(1):
        np.testing.assert_array_equal(product(a, b), one)
    monkeypatch.setattr(matmul, "LEAST", 1)  # other pieces
    monkeypatch.setattr(matmul, "PIECES", 40)
    np.testing.assert_array_equal(product(a, b), one)


def test_long_sums_are_cut(rng, monkeypatch):
    a, b = rng.standard_normal((3, 700)), rng.standard_normal((700, 5))
    whole = product(a, b)
    monkeypatch.setattr(_product, "LONGEST", 300)
    np.testing.assert_allclose(product(a, b), whole, rtol=0, atol=1e-12)
    c = np.ones((3, 5))
    np.testing.assert_allclose(product(a, b, add_to=c), whole + 1, rtol=0, atol=1e-12)


@pytest.mark.parametrize("threads", [1, 2, 64])
def test_a_plan_covers_every_row(threads):
    for height in (1, 5, 6, 59, 60, 768, 5000):
        for n in (1, 64, 65, 1000):
            pieces, rows = matmul.plan(height, n, 4, threads)
            panels = -(-n // (matmul.WIDE * matmul.LANES))
            assert pieces % panels == 0
            blocks = pieces // panels
            assert (blocks - 1) * rows < height <= blocks * rows
            assert rows % matmul.TILE == 0
