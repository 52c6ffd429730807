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
    y, ctx = F.rms_norm_forward(x, weight, eps)
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
    only = F.layer_norm_backward(dy, ctx, needs_grad=(False, True, False))
    assert only[0] is None
    assert only[2] is None
    np.testing.assert_array_equal(only[1], dweight)
    only = F.layer_norm_backward(dy, ctx, needs_grad=(True, False, True))
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
