"""Linear maps, look-ups, dropout and column sums."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import miniattn as ma
import miniattn.functional as F
from miniattn.functional._linear import sum_rows

DTYPES = (np.float32, np.float64)


def linear(x, weight, bias, dy):
    y, ctx = F.linear_forward(x, weight, bias)
    return y, *F.linear_backward(dy, ctx)


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_against_einsum(dtype, rng):
    x, weight, bias, dy = (
        rng.normal(size=shape).astype(dtype) for shape in [(2, 3, 5), (4, 5), (4,), (2, 3, 4)]
    )
    expected = (
        np.einsum("bte,fe->btf", x, weight) + bias,
        np.einsum("btf,fe->bte", dy, weight),
        np.einsum("btf,bte->fe", dy, x),
        dy.sum(axis=(0, 1)),
    )
    for ours, theirs in zip(linear(x, weight, bias, dy), expected, strict=True):
        assert ours.dtype == dtype
        assert ours.flags.c_contiguous
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=32 * np.finfo(dtype).eps)


# One row, one column, sums and edges that a BLAS cuts up by its number of threads.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 2, 33, 700])
@pytest.mark.parametrize("sizes", [(1, 64), (1040, 1), (700, 65), (65, 513), (1500, 100)])
def test_linear_gives_the_same_bits_for_any_number_of_threads(rows, sizes, dtype, rng):
    e, f = sizes
    x, weight, bias, dy = (
        rng.normal(size=shape).astype(dtype) for shape in [(rows, e), (f, e), (f,), (rows, f)]
    )
    with ma.threads(1):
        one = linear(x, weight, bias, dy)
    with ma.threads(2):
        two = linear(x, weight, bias, dy)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    exact = x.astype(np.float64) @ weight.T.astype(np.float64) + bias
    np.testing.assert_allclose(one[0], exact, rtol=0, atol=64 * e**0.5 * np.finfo(dtype).eps)


def test_linear_without_bias_and_with_frozen_inputs(rng):
    x, weight, dy = rng.normal(size=(3, 4, 4))
    y, ctx = F.linear_forward(x, weight)
    np.testing.assert_allclose(y, x @ weight.T)
    dx, dweight, dbias = F.linear_backward(dy, ctx)
    assert dbias is None
    some = F.linear_backward(dy, ctx, needs=("weight", "bias"))
    assert some[0] is None
    assert some[2] is None
    np.testing.assert_array_equal(some[1], dweight)
    some = F.linear_backward(dy, ctx, needs=("x",))
    assert some[1] is None
    np.testing.assert_array_equal(some[0], dx)


@given(
    lead=st.lists(st.integers(0, 3), max_size=2),
    e=st.integers(0, 5),
    f=st.integers(0, 5),
    dtype=st.sampled_from(DTYPES),
)
def test_linear_shapes(lead, e, f, dtype):
    x = np.ones((*lead, 2 * e), dtype)[..., ::2]
    weight = np.asfortranarray(np.ones((f, e), dtype))
    y, dx, dweight, dbias = linear(x, weight, np.ones(f, dtype), np.ones((*lead, f), dtype))
    np.testing.assert_array_equal(y, np.full((*lead, f), e + 1))
    np.testing.assert_array_equal(dx, np.full((*lead, e), f))
    count = int(np.prod(lead))
    np.testing.assert_array_equal(dweight, np.full((f, e), count))
    np.testing.assert_array_equal(dbias, np.full(f, count))


def test_infinity_passes_without_a_warning():
    y = F.linear(np.array([[np.inf, 1.0]]), np.array([[0.0, 1.0], [1.0, 1.0]]))
    np.testing.assert_array_equal(y, [[np.nan, np.inf]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 31, 32, 33, 2048, 2049, 5000])
def test_column_sums(count, dtype, rng):
    x = rng.normal(size=(count, 19)).astype(dtype)
    total = sum_rows(x)
    eps = np.finfo(dtype).eps
    size = np.abs(x).sum(axis=0)
    assert (np.abs(total - x.sum(axis=0, dtype=np.longdouble)) <= 4 * eps * size).all()


def test_column_sums_of_many_equal_numbers_stay_exact():
    # Added one by one in float32, the sum of 0.1 is off by a thousandth here.
    total = sum_rows(np.full((300_000, 3), 0.1, np.float32))
    np.testing.assert_allclose(total, 300_000 * np.float64(np.float32(0.1)), rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_embedding_adds_up_repeated_ids_in_order(dtype, rng):
    ids = rng.integers(0, 7, (5, 60))
    ids[:, ::2] = 3  # much padding
    weight = rng.normal(size=(9, 70)).astype(dtype)
    y, ctx = F.embedding_forward(ids, weight)
    np.testing.assert_array_equal(y, weight[ids])
    dy = rng.normal(size=y.shape).astype(dtype)
    expected = np.zeros_like(weight)
    np.add.at(expected, ids, dy)
    np.testing.assert_array_equal(F.embedding_backward(dy, ctx), expected)


def test_embedding_gives_the_same_bits_for_any_number_of_threads(rng):
    ids = rng.integers(0, 40, 900)
    y, ctx = F.embedding_forward(ids, np.zeros((40, 100), np.float32))
    dy = rng.normal(size=y.shape).astype(np.float32)
    with ma.threads(1):
        one = F.embedding_backward(dy, ctx)
    with ma.threads(2):
        two = F.embedding_backward(dy, ctx)
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("ids", "worst"),
    [([0, 5], 5), ([-1, 2], -1), ([-9, 6, 1], -9), ([-1, 99], 99), ([2**62], 2**62)],
)
def test_embedding_names_the_worst_id(ids, worst):
    with pytest.raises(
        ValueError, match=rf"ids: expected ids in \[0, V\) with V = 5, got {worst}$"
    ):
        F.embedding(np.array(ids), np.zeros((5, 2)))


def test_embedding_of_nothing():
    y, ctx = F.embedding_forward(np.zeros((2, 0), int), np.zeros((0, 3), np.float32))
    assert y.shape == (2, 0, 3)
    assert F.embedding_backward(y, ctx).shape == (0, 3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout(dtype):
    x = np.full((200, 500), 3.0, dtype)
    y, ctx = F.dropout_forward(x, 0.3, np.random.default_rng(1))
    dropped = y == 0
    # Five standard deviations of a binomial count.
    assert abs(dropped.mean() - 0.3) < 5 * (0.3 * 0.7 / x.size) ** 0.5
    np.testing.assert_allclose(y[~dropped], 3 / 0.7, rtol=4 * np.finfo(dtype).eps)
    dx = F.dropout_backward(np.ones_like(x), ctx)
    np.testing.assert_array_equal(dx == 0, dropped)
    np.testing.assert_allclose(dx[~dropped], 1 / 0.7, rtol=4 * np.finfo(dtype).eps)
    again = F.dropout(x, 0.3, np.random.default_rng(1))
    np.testing.assert_array_equal(again, y)


def test_dropout_of_nothing_is_a_copy():
    x = np.arange(3.0)
    y = F.dropout(x, 0.0, np.random.default_rng(0))
    np.testing.assert_array_equal(y, x)
    assert not np.may_share_memory(x, y)


def test_linear_and_embedding_against_torch(rng):
    torch = pytest.importorskip("torch")
    x, weight, bias, dy = (rng.normal(size=s) for s in [(7, 20), (9, 20), (9,), (7, 9)])
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    output = torch.nn.functional.linear(*leaves)
    output.backward(torch.tensor(dy))
    y, *gradients = linear(x, weight, bias, dy)
    np.testing.assert_allclose(y, output.detach().numpy(), atol=1e-13)
    for ours, leaf in zip(gradients, leaves, strict=True):
        np.testing.assert_allclose(ours, leaf.grad.numpy(), atol=1e-13)
