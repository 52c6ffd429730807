"""Activations: accuracy in both precisions, special values, sizes around a register and a task."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import miniattn as ma
import miniattn.functional as F
from miniattn.kernels.activation import CHUNK

DTYPES = (np.float32, np.float64)
_erfc = np.vectorize(math.erfc)


def gelu_tanh_forward(x):
    return F.gelu_forward(x, approximate="tanh")


PAIRS = {
    "relu": (F.relu_forward, F.relu_backward),
    "sigmoid": (F.sigmoid_forward, F.sigmoid_backward),
    "tanh": (F.tanh_forward, F.tanh_backward),
    "silu": (F.silu_forward, F.silu_backward),
    "gelu": (F.gelu_forward, F.gelu_backward),
    "gelu_tanh": (gelu_tanh_forward, F.gelu_backward),
}


def plain(op, x):
    """(y, dy/dx) as anyone would write them in NumPy, in the precision of x."""
    f = x.dtype.type
    if op == "relu":
        return np.maximum(x, f(0)), (x > 0).astype(x.dtype)
    if op == "tanh":
        y = np.tanh(x)
        return y, f(1) - y * y
    if op == "gelu":
        cdf = (f(0.5) * _erfc(-x * f(math.sqrt(0.5)))).astype(x.dtype)
        return x * cdf, cdf + x * np.exp(f(-0.5) * x * x) * f(math.sqrt(0.5 / math.pi))
    if op == "gelu_tanh":
        k = f(math.sqrt(2 / math.pi))
        t = np.tanh(k * (x + f(0.044715) * x * x * x))
        slope = k * (f(1) + f(3 * 0.044715) * x * x)
        return f(0.5) * x * (f(1) + t), f(0.5) * (f(1) + t) + f(0.5) * x * (f(1) - t * t) * slope
    s = f(1) / (f(1) + np.exp(-x))
    return (s, s * (f(1) - s)) if op == "sigmoid" else (x * s, s * (f(1) + x * (f(1) - s)))


def run(op, x, dy=None):
    forward, backward = PAIRS[op]
    y, ctx = forward(x)
    return y, backward(np.ones_like(x) if dy is None else dy, ctx)


@pytest.mark.parametrize("op", PAIRS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_as_accurate_as_numpy(op, dtype, rng):
    x = np.concatenate([rng.normal(size=20_000) * 4, np.linspace(-30, 30, 2001)]).astype(dtype)
    # math.erfc knows float64 only, and rounding its argument z costs the truth 2z² units.
    wide = np.float64 if dtype == np.float32 or op == "gelu" else np.longdouble
    for ours, theirs, truth in zip(
        run(op, x), plain(op, x), plain(op, x.astype(wide)), strict=True
    ):
        unit = np.spacing(np.maximum(np.abs(truth), 0.5).astype(dtype))
        error = np.abs(ours - truth) / unit
        floor = 8 if op == "gelu" and dtype == np.float64 else 1
        assert error.max() <= 2 * (np.abs(theirs - truth) / unit).max() + floor


def test_the_tails_keep_their_digits():
    # 1 + erf(x / √2) and 1 / (1 + e^-x) - 1 hold no correct digit here.
    x = np.array([-1.0, -3.0, -8.0, -20.0, -35.0])
    cdf = 0.5 * _erfc(-x * math.sqrt(0.5))
    assert F.gelu(x) == pytest.approx(x * cdf, rel=1e-12, abs=0)
    assert F.sigmoid(-np.abs(x)) == pytest.approx(np.exp(x) / (1 + np.exp(x)), rel=1e-14, abs=0)
    x = np.array([-1.0, -3.0, -6.0, -9.0, -12.0], np.float32)
    cdf = 0.5 * _erfc(-x.astype(np.float64) * math.sqrt(0.5))
    assert F.gelu(x) == pytest.approx(x * cdf, rel=5e-6, abs=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", PAIRS)
def test_special_values(op, dtype):
    nan, inf = math.nan, math.inf
    limit = {
        "relu": [nan, inf, 0, 0, 0],
        "sigmoid": [nan, 1, 0, 0.5, 0.5],
        "tanh": [nan, 1, -1, 0, 0],
    }.get(op, [nan, inf, nan, 0, 0])  # -inf · 0 is NaN, as in PyTorch
    y, dx = run(op, np.array([nan, inf, -inf, 0.0, -0.0], dtype))
    np.testing.assert_array_equal(y, np.array(limit, dtype))
    slope = {"relu": 0, "sigmoid": 0.25, "tanh": 1}.get(op, 0.5)
    np.testing.assert_array_equal(dx[3:], np.array([slope, slope], dtype))


@pytest.mark.parametrize("op", PAIRS)
def test_large_arguments_do_not_overflow(op):
    x = np.array([-1e4, -100, 100, 1e4], np.float32)
    y, dx = run(op, x)
    one_sided = {"sigmoid": [0, 0, 1, 1], "tanh": [-1, -1, 1, 1]}.get(op, [0, 0, 100, 1e4])
    np.testing.assert_array_equal(y, np.array(one_sided, np.float32))
    np.testing.assert_array_equal(dx, [0, 0, 0, 0] if op in ("sigmoid", "tanh") else [0, 0, 1, 1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_size_around_a_register_and_a_task(dtype, rng):
    for n in (0, 1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5):
        x, dy = rng.normal(size=(2, n)).astype(dtype)
        y, dx = run("silu", x, dy)
        truth, slope = plain("silu", x.astype(np.float64))
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(y, truth, rtol=16 * eps, atol=eps)
        np.testing.assert_allclose(dx, dy * slope, rtol=32 * eps, atol=2 * eps)


@given(
    shape=st.lists(st.integers(0, 5), max_size=4),
    op=st.sampled_from(sorted(PAIRS)),
    flip=st.booleans(),
    step=st.integers(1, 3),
)
def test_shapes_and_strides(shape, op, flip, step):
    rng = np.random.default_rng(0)
    big = rng.normal(size=[n * step for n in shape]).astype(np.float32)
    x = big[tuple(slice(None, None, step) for _ in shape)]
    x = x.T if flip else x
    dy = rng.normal(size=x.shape).astype(np.float32)
    before = x.copy()
    for a, b in zip(run(op, x, dy), run(op, x.copy(), dy.copy()), strict=True):
        assert a.shape == x.shape
        np.testing.assert_array_equal(a, b)
        assert not np.may_share_memory(a, x)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("op", PAIRS)
def test_the_same_bits_for_any_number_of_threads(op, rng):
    x, dy = rng.normal(size=(2, 3 * CHUNK + 7)).astype(np.float32)
    with ma.threads(1):
        one = run(op, x, dy)
    with ma.threads(2):
        two = run(op, x, dy)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("op", PAIRS)
def test_against_torch(op, rng):
    torch = pytest.importorskip("torch")
    function = {
        "relu": torch.relu,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "silu": torch.nn.functional.silu,
        "gelu": torch.nn.functional.gelu,
        "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    }[op]
    x, dy = rng.normal(size=(2, 3, 50))
    leaf = torch.tensor(x, requires_grad=True)
    output = function(leaf)
    output.backward(torch.tensor(dy))
    y, dx = run(op, x, dy)
    np.testing.assert_allclose(y, output.detach().numpy(), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(dx, leaf.grad.numpy(), rtol=1e-12, atol=1e-15)


def test_unknown_approximation():
    with pytest.raises(ValueError, match="approximate: expected one of"):
        F.gelu(np.zeros(3), approximate="erf")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", PAIRS)
def test_numbers_whose_powers_overflow(op, dtype):
    """Far out every activation is x, ±1 or 0, and its derivative 1 or 0: never NaN."""
    most = float(np.finfo(dtype).max)
    x = np.array([-most, -(most**0.4), -200.0 * most**0.1, 200.0 * most**0.1, most**0.4, most])
    y, dx = run(op, x.astype(dtype))
    far = {"sigmoid": (0, 1), "tanh": (-1, 1)}.get(op, (0, x[3:].astype(dtype)))
    np.testing.assert_array_equal(y[:3], far[0])
    np.testing.assert_array_equal(y[3:], far[1])
    np.testing.assert_array_equal(dx[:3], 0)
    np.testing.assert_array_equal(dx[3:], 0 if op in ("sigmoid", "tanh") else 1)
