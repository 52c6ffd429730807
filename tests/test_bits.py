"""Where the same bits are promised: each line of the first table of docs/bits.md.

That they are the same for any number of threads, with and without the weights, is in
test_semantics.py.
"""

import math
from fractions import Fraction

import numpy as np
import pytest

import miniattn.functional as F
from miniattn import masks

DTYPES = [np.float32, np.float64]


def same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def both(q, k, v, dout, **options):
    """out, lse and the gradients of attention."""
    out, ctx = F.attention_forward(q, k, v, **options)
    return [out, ctx.lse, *F.attention_backward(dout, ctx)[:3]]


@pytest.fixture
def operands(rng):
    """Arrays of attention: B = 5, H = G = 4, T = 70, S = 90, D = Dv = 40."""

    def make(dtype, T=70, S=90):
        shapes = (5, 4, T, 40), (5, 4, S, 40), (5, 4, S, 40), (5, 4, T, 40)
        return [rng.standard_normal(shape).astype(dtype) for shape in shapes]

    return make


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [70, 130])  # the matrix unit begins between the two
@pytest.mark.parametrize("mask", [None, masks.causal(), masks.window(20, 0)])
def test_attention_of_a_batch_row_or_a_head_whatever_stands_beside_it(operands, mask, size, dtype):
    q, k, v, dout = operands(dtype, size, size)
    out, lse, dq, *_ = both(q, k, v, dout, mask=mask)
    for b, h in [(0, 0), (4, 3)]:
        part = np.s_[b : b + 1, h : h + 1]
        alone = both(q[part], k[part], v[part], dout[part], mask=mask)
        same(alone[:3], [out[part], lse[part], dq[part]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T", [1, 4])
def test_decoding_whatever_stands_beside_it_up_to_a_thousand_keys(operands, T, dtype):
    q, k, v, dout = operands(dtype, T, S=1023)
    whole = both(q, k, v, dout)
    part = np.s_[2:3, 1:2]
    same(both(q[part], k[part], v[part], dout[part]), [x[part] for x in whole])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T", [1, 70])
def test_attention_of_any_layout(operands, T, dtype):
    arrays = operands(dtype, T)
    bias = arrays[0][0, 0, :, :1] * np.ones(90, dtype)
    whole = both(*arrays, bias=bias)
    interleaved = [x.swapaxes(1, 2).copy().swapaxes(1, 2) for x in arrays]
    same(both(*interleaved, bias=np.asfortranarray(bias)), whole)
    spread = [np.repeat(x, 2, axis=-1)[..., ::2] for x in arrays]  # a copy is made of these
    same(both(*spread, bias=np.repeat(bias, 2, axis=1)[:, ::2]), whole)
    reversed_ = [x[::-1, :, ::-1].copy()[::-1, :, ::-1] for x in arrays]
    same(both(*reversed_, bias=bias), whole)


def rows_alone(pair, x, dy, take, **options):
    """y and dx of all rows, and of those that are taken alone."""
    forward, backward = getattr(F, f"{pair}_forward"), getattr(F, f"{pair}_backward")
    y, ctx = forward(x, **options)
    dx = backward(dy, ctx)
    y_alone, ctx = forward(x[take], **options)
    dx_alone = backward(dy[take], ctx)
    if isinstance(dx, tuple):
        dx, dx_alone = dx[0], dx_alone[0]
    return [y[take], dx[take]], [y_alone, dx_alone]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [7, 300, 5000])
@pytest.mark.parametrize("pair", ["softmax", "log_softmax", "layer_norm", "rms_norm"])
def test_a_row_whatever_stands_beside_it(rng, pair, n, dtype):
    x, dy = rng.standard_normal((2, 100, n)).astype(dtype)
    gain = rng.standard_normal((2, n)).astype(dtype)
    names = {"layer_norm": ("weight", "bias"), "rms_norm": ("weight",)}.get(pair, ())
    options = dict(zip(names, gain, strict=False))
    for take in (slice(0, 1), slice(99, 100), slice(13, 50)):
        same(*rows_alone(pair, x, dy, take, **options))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pair", ["relu", "sigmoid", "tanh", "silu", "gelu"])
def test_an_element_whatever_stands_beside_it(rng, pair, dtype):
    x, dy = (3 * rng.standard_normal((2, 5000))).astype(dtype)
    for take in (slice(0, 1), slice(4999, 5000), slice(13, 50)):
        same(*rows_alone(pair, x, dy, take))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_a_linear_map_among_few_and_among_many(rng, dtype):
    """Up to 8 rows by one kernel; more by another, in one order below 768 features."""
    x = rng.standard_normal((500, 767)).astype(dtype)
    weight, bias = rng.standard_normal((33, 767)).astype(dtype), np.ones(33, dtype)
    few, many = F.linear(x[:8], weight, bias), F.linear(x, weight, bias)
    for take in (slice(0, 1), slice(7, 8), slice(2, 5)):
        same([F.linear(x[take], weight, bias)], [few[take]])
    for take in (slice(0, 9), slice(491, 500), slice(13, 50)):
        same([F.linear(x[take], weight, bias)], [many[take]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_bias_of_few_rows_is_added_last(rng, dtype):
    x, weight = (rng.standard_normal(n).astype(dtype) for n in ((3, 50), (77, 50)))
    bias = rng.standard_normal(77).astype(dtype)
    same([F.linear(x, weight, bias)], [F.linear(x, weight) + bias])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [5, 100])
def test_linear_of_any_layout(rng, rows, dtype):
    x, weight = rng.standard_normal((rows, 70)), rng.standard_normal((33, 70))
    dy = rng.standard_normal((rows, 33))

    def run(change):
        y, ctx = F.linear_forward(change(x.astype(dtype)), change(weight.astype(dtype)))
        dx, dweight, _ = F.linear_backward(change(dy.astype(dtype)), ctx)
        return y, dx, dweight

    plain = run(lambda a: a)
    same(run(np.asfortranarray), plain)
    same(run(lambda a: np.repeat(a, 2, axis=1)[:, ::2]), plain)
    same(run(lambda a: a[::-1].copy()[::-1]), plain)


@pytest.mark.parametrize("T", [17, 100])
def test_lse_is_rounded_once(rng, T):
    """m / sqrt(D) + log l, with l = 2: two keys that are one."""
    q, k = rng.standard_normal((T, 3)), np.repeat(rng.standard_normal((1, 3)), 2, axis=0)
    _, ctx = F.attention_forward(q, k, k)
    m, scale = ctx.stats[0].ravel(), Fraction(1 / math.sqrt(3))
    exact = [float(Fraction(top) * scale + Fraction(math.log(2))) for top in m.tolist()]
    same([ctx.lse], [exact])
