"""Layer and RMS norm: accuracy over widths, long rows, many rows, large means, threads, peers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import miniattn as ma
import miniattn.functional as F

WIDTHS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 24, 48, 64, 65, 100, 129, 1000, 5000)


def standardise(op, x, eps):
    """(x̂, rstd) in the precision of x, in plain NumPy."""
    if op == "layer_norm":
        x = x - x.mean(axis=-1, keepdims=True)
    rstd = 1 / np.sqrt((x * x).mean(axis=-1, keepdims=True) + x.dtype.type(eps))
    return x * rstd, rstd


def plain(op, x, weight, dy, eps=1e-3):
    """(y, dx, dweight) in the precision of x, in plain NumPy."""
    xhat, rstd = standardise(op, x, eps)
    g = dy * weight
    inside = g - xhat * (g * xhat).mean(axis=-1, keepdims=True)
    if op == "layer_norm":
        inside = inside - g.mean(axis=-1, keepdims=True)
    return xhat * weight, inside * rstd, (dy * xhat).reshape(-1, x.shape[-1]).sum(axis=0)


def run(op, x, weight, dy, eps=1e-3):
    if op == "layer_norm":
        y, ctx = F.layer_norm_forward(x, weight, eps=eps)
        dx, dweight, dbias = F.layer_norm_backward(dy, ctx)
        assert dbias is None
        return y, dx, dweight
    y, ctx = F.rms_norm_forward(x, weight, eps=eps)
    return y, *F.rms_norm_backward(dy, ctx)


def data(rng, count, n, dtype=np.float32, mean=0.5):
    x = (rng.normal(size=(count, n)) + mean).astype(dtype)
    return x, rng.normal(size=n).astype(dtype), rng.normal(size=(count, n)).astype(dtype)


def sizes(x, weight, dy, eps=1e-3):
    """The sizes of the numbers that a row of (y, dx, dweight) is made of, which rounding scales."""
    rstd = 1 / np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    row = 1 + np.abs(x).max(axis=-1, keepdims=True) * rstd
    g = np.abs(dy * weight).max(axis=-1, keepdims=True)
    return row * np.abs(weight).max(), row * rstd * g, np.abs(dy * row).sum(axis=0)


def assert_as_accurate_as_numpy(op, x, weight, dy, eps=1e-3):
    wide = [
        a.astype(np.float64 if x.dtype == np.float32 else np.longdouble) for a in (x, weight, dy)
    ]
    for ours, theirs, truth, size in zip(
        run(op, x, weight, dy, eps),
        plain(op, x, weight, dy, eps),
        plain(op, *wide, eps),
        sizes(*wide, eps),
        strict=True,
    ):
        unit = np.finfo(x.dtype).eps * size
        error = np.abs(ours - truth) / unit
        assert error.max() <= 2 * (np.abs(theirs - truth) / unit).max() + 1


@pytest.mark.parametrize("op", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_widths(op, dtype, rng):
    for n in WIDTHS:
        assert_as_accurate_as_numpy(op, *data(rng, 5, n, dtype))


@pytest.mark.parametrize("op", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("shape", [(3, 100_003), (20_011, 3)], ids=["long rows", "many rows"])
def test_the_error_does_not_grow_with_the_sums(op, shape, rng):
    x, weight, dy = data(rng, *shape)
    wide = [a.astype(np.float64) for a in (x, weight, dy)]
    y, dx, dweight = run(op, x, weight, dy)
    exact_y, exact_dx, exact_dweight = plain(op, *wide)
    size_y, size_dx, size_dweight = sizes(*wide)
    eps = np.finfo(np.float32).eps
    assert (np.abs(y - exact_y) <= 2 * eps * size_y).all()
    assert (np.abs(dx - exact_dx) <= 4 * eps * size_dx).all()
    # The terms' own roundings add up like a random walk; adding them adds nothing to speak of.
    assert (np.abs(dweight - exact_dweight) <= 8 * eps * size_dweight / np.sqrt(len(x))).all()


@pytest.mark.parametrize("op", ["layer_norm", "rms_norm"])
def test_a_large_mean(op, rng):
    # E[x²] − E[x]² would be off by more than the variance itself.
    assert_as_accurate_as_numpy(op, *data(rng, 4, 200, mean=3000.0))


def test_a_row_of_equal_numbers_gives_the_bias():
    bias = np.arange(5, dtype=np.float32)
    y = F.layer_norm(np.full((2, 5), 7.25, np.float32), np.ones(5, np.float32), bias)
    np.testing.assert_array_equal(y, [bias, bias])


@pytest.mark.parametrize(
    ("number", "n", "eps"),
    [
        (100000.1, 3, 1e-5),
        (14.1, 1000, 1e-12),
        (0.1, 67, 1e-30),
        (3e38, 7, 1e-5),
        (-1e-40, 9, 1e-70),
        (1e308, 11, 1e-5),
        (1.7e308, 300, 1e-60),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_numbers_are_exactly_their_mean(number, n, eps, dtype):
    """y is 0, and dx what is left of a normalisation where nothing varies: /√eps."""
    x, one = np.full((2, n), min(number, float(np.finfo(dtype).max)), dtype), np.ones(n, dtype)
    y, ctx = F.layer_norm_forward(x, one, eps=eps)
    assert not y.any()
    dy = (np.linspace(-1, 1, 2 * n).reshape(2, n) * np.sqrt(eps)).astype(dtype)
    dx, dweight, _ = F.layer_norm_backward(dy, ctx)
    assert not dweight.any()
    wide = dy.astype(np.longdouble)
    right = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(np.longdouble(eps))
    np.testing.assert_allclose(dx, right, rtol=0, atol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [3, 40, 300])
@pytest.mark.parametrize("op", ["layer_norm", "rms_norm"])
def test_squares_that_are_no_numbers(op, n, dtype):
    """1, −2, 3, 1, −2, ... in units of any size, beside which eps is nothing: the same result."""
    row = np.resize(np.array([1, -2, 3], dtype), n)
    weight, dy = np.linspace(1, 2, n).astype(dtype), np.linspace(-1, 2, n).astype(dtype)[None]
    y, dx, dweight = plain(op, *(a.astype(np.longdouble) for a in (row, weight, dy)), eps=0)
    info = np.finfo(dtype)
    for power in np.linspace(max(2 - info.maxexp, -480), info.maxexp - 2, 9).astype(int):
        unit = np.ldexp(dtype(1), power)
        # dy in the same unit: dx is of the size of 1.
        got = run(op, row[None] * unit, weight, dy * unit, eps=1e-320)
        for ours, right in zip(got, (y, dx, dweight * unit), strict=True):
            error = np.abs(ours - right).max()
            assert error <= 16 * info.eps * np.abs(right).max() + info.smallest_subnormal, power


def test_norms_of_huge_and_tiny_rows_by_hand():
    one = np.ones(3, np.float32)
    for unit in (1, 1e20, 1e-20):
        x = np.array([1, -2, 3], np.float32) * np.float32(unit)
        y = F.layer_norm(x, one, eps=1e-60)
        np.testing.assert_allclose(y, [0.16222142, -1.2977714, 1.13555], rtol=1e-6)
        y = F.rms_norm(x, one, eps=1e-60)
        np.testing.assert_allclose(y, [0.46291005, -0.9258201, 1.3887302], rtol=1e-6)
    # One entry beside which the others are nothing: −√(n − 1), and all but it are equal.
    x = np.array([1, 2, -3e38, 4], np.float32)
    y = F.layer_norm(x, np.ones(4, np.float32))
    np.testing.assert_allclose(y, np.array([1, 1, -3, 1]) / np.sqrt(3), rtol=1e-6)


@pytest.mark.parametrize("op", ["layer_norm", "rms_norm"])
def test_gradients_whose_product_with_the_gain_is_no_number(op):
    """dx is 1e30 · 1e30 / 1e30, and 1e-30 · 1e-30 / 1e-30: numbers, as their products are not."""
    x, weight, dy = (np.array([a], np.float32) for a in ([1, -2, 3], [1, 2, 1], [1, 2, 4]))
    _, dx, _ = run(op, x, weight[0], dy, eps=1e-30)
    for unit in (np.float32(2.0**100), np.float32(2.0**-100)):
        _, got, _ = run(op, x * unit, weight[0] * unit, dy * unit, eps=1e-90)
        np.testing.assert_allclose(got / unit, dx, rtol=1e-5)
    # x of the size of 1 as well, where dx is as large as can be, or no number but of a known sign.
    _, got, _ = run(op, x, weight[0] * np.float32(1e19), dy * np.float32(1e19), eps=1e-30)
    np.testing.assert_allclose(got, dx * np.float32(1e38), rtol=1e-5)
    _, got, _ = run(op, x, weight[0] * np.float32(1e30), dy * np.float32(1e30), eps=1e-30)
    np.testing.assert_array_equal(got, np.sign(dx) * np.inf)


def test_gradients_against_differences(rng):
    x, weight, dy = data(rng, 3, 5, np.float64)
    bias = rng.normal(size=5)
    _, ctx = F.layer_norm_forward(x, weight, bias)
    for value, gradient in zip((x, weight, bias), F.layer_norm_backward(dy, ctx), strict=True):
        numeric = np.empty_like(value)
        for index in np.ndindex(value.shape):
            ends = []
            for step in (1e-6, -1e-6):
                kept = value[index]
                value[index] += step
                ends.append((F.layer_norm(x, weight, bias) * dy).sum())
                value[index] = kept
            numeric[index] = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-8)


def test_nan_stays_in_its_row(rng):
    x, weight, dy = data(rng, 40, 33)
    clean = run("layer_norm", x, weight, dy)
    x[7, 32] = np.nan
    y, dx, dweight = run("layer_norm", x, weight, dy)
    assert np.isnan(y[7]).all()
    assert np.isnan(dx[7]).all()
    assert np.isnan(dweight).all()
    others = np.arange(40) != 7
    np.testing.assert_array_equal(y[others], clean[0][others])
    np.testing.assert_array_equal(dx[others], clean[1][others])


@pytest.mark.parametrize("op", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("shape", [(1000, 40), (7, 3000)])
def test_the_same_bits_for_any_number_of_threads(op, shape, rng):
    args = data(rng, *shape)
    with ma.threads(1):
        one = run(op, *args)
    with ma.threads(2):
        two = run(op, *args)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


@given(lead=st.lists(st.integers(0, 3), max_size=3), n=st.integers(0, 20), step=st.integers(1, 2))
def test_shapes_and_strides(lead, n, step):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(*lead, n * step)).astype(np.float32)[..., ::step]
    weight = rng.normal(size=n * step).astype(np.float32)[::step]
    dy = np.asfortranarray(rng.normal(size=x.shape).astype(np.float32))
    for op in ("layer_norm", "rms_norm"):
        strided = run(op, x, weight, dy)
        compact = run(op, x.copy(), weight.copy(), np.ascontiguousarray(dy))
        for a, b, like in zip(strided, compact, (x, x, weight), strict=True):
            assert a.shape == like.shape
            np.testing.assert_array_equal(a, b)


def test_what_is_not_needed_is_none(rng):
    x, weight, dy = data(rng, 4, 6)
    _, ctx = F.layer_norm_forward(x, weight, weight)
    dx, dweight, dbias = F.layer_norm_backward(dy, ctx)
    only = F.layer_norm_backward(dy, ctx, needs=["weight"])
    assert only[0] is None
    assert only[2] is None
    np.testing.assert_array_equal(only[1], dweight)
    only = F.layer_norm_backward(dy, ctx, needs={"x", "bias"})
    assert only[1] is None
    np.testing.assert_array_equal(only[0], dx)
    np.testing.assert_array_equal(only[2], dbias)


def test_against_torch(rng):
    torch = pytest.importorskip("torch")
    x, weight, dy = data(rng, 12, 37, np.float64)
    bias = rng.normal(size=37)
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    output = torch.nn.functional.layer_norm(leaves[0], (37,), leaves[1], leaves[2])
    output.backward(torch.tensor(dy))
    y, ctx = F.layer_norm_forward(x, weight, bias)
    np.testing.assert_allclose(y, output.detach().numpy(), atol=1e-13)
    for ours, leaf in zip(F.layer_norm_backward(dy, ctx), leaves, strict=True):
        np.testing.assert_allclose(ours, leaf.grad.numpy(), atol=1e-13)

    leaves = [torch.tensor(a, requires_grad=True) for a in (x, weight)]
    output = torch.nn.functional.rms_norm(leaves[0], (37,), leaves[1], 1e-6)
    output.backward(torch.tensor(dy))
    y, ctx = F.rms_norm_forward(x, weight)
    np.testing.assert_allclose(y, output.detach().numpy(), atol=1e-13)
    for ours, leaf in zip(F.rms_norm_backward(dy, ctx), leaves, strict=True):
        np.testing.assert_allclose(ours, leaf.grad.numpy(), atol=1e-13)
