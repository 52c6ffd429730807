"""The softmax family against `reference`, and its fixed semantics."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import miniattn as ma
import miniattn.functional as F
from miniattn import reference

DTYPES = (np.float32, np.float64)
OPS = ("softmax", "log_softmax", "logsumexp")
# Around every size at which a kernel changes its way of working.
LENGTHS = (1, 2, 3, 7, 8, 9, 10, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 129, 1000, 5000)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def run(op, x, dy=None, **options):
    """Forward, and backward for a ``dy`` of the output's shape (random if not given)."""
    y, ctx = getattr(F, f"{op}_forward")(x, **options)
    if dy is None:
        dy = np.random.default_rng(9).standard_normal(y.shape).astype(x.dtype)
    return y, getattr(F, f"{op}_backward")(dy, ctx), dy


def expected(op, x, dy, **options):
    y = getattr(reference, op)(x, **options)
    return y, getattr(reference, f"{op}_backward")(dy, x, **options)


def plain(op, x, dy, axis=-1, temperature=1.0, mask=None):
    """What anyone would write in NumPy, in the precision of x: (y, dx)."""
    t = x.dtype.type(temperature)
    s = x / t if mask is None else np.where(mask, x / t, x.dtype.type(-np.inf))
    s = s - s.max(axis=axis, keepdims=True)
    e = np.exp(s)
    total = e.sum(axis=axis, keepdims=True)
    p = e / total
    if op == "softmax":
        return p, p * (dy - (p * dy).sum(axis=axis, keepdims=True)) / t
    if op == "log_softmax":
        return s - np.log(total), (dy - p * dy.sum(axis=axis, keepdims=True)) / t
    lse = x.max(axis=axis) + np.log(total).squeeze(axis)
    return lse, p * np.expand_dims(dy, axis)


def magnitudes(op, x, dy, axis=-1, temperature=1.0):
    """The sizes of the numbers that y and dx are sums of: what rounding is relative to."""
    p = np.abs(reference.softmax(x, axis=axis, temperature=temperature))
    size = np.abs(dy)
    if op == "softmax":
        return p, p * (size + (p * size).sum(axis=axis, keepdims=True)) / temperature
    if op == "log_softmax":
        largest = np.abs(reference.log_softmax(x, axis=axis, temperature=temperature))
        return largest, (size + p * size.sum(axis=axis, keepdims=True)) / temperature
    return np.abs(x).max(axis=axis) + 1, p * np.expand_dims(size, axis)


def assert_as_good_as_numpy(op, x, **options):
    """Errors at most twice those of plain NumPy in the same precision, plus a few roundings."""
    y, dx, dy = run(op, x, **options)
    for got, exact, naive, size in zip(
        (y, dx),
        expected(op, x, dy, **options),
        plain(op, x, dy, **options),
        magnitudes(op, x, dy, **options),
        strict=True,
    ):
        assert got.shape == exact.shape
        assert got.dtype == naive.dtype == x.dtype
        # The reference is float64 too, and no better than what it is compared with there.
        roundings = 2 if x.dtype == np.float32 else 4
        floor = roundings * np.finfo(x.dtype).eps * size.max()
        assert np.abs(got - exact).max() <= 2 * np.abs(naive - exact).max() + floor


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_rows_of_every_length(op, dtype, rng):
    for n in LENGTHS:
        for count in (1, 5, 37):
            x = (3 * rng.standard_normal((count, n))).astype(dtype)
            assert_as_good_as_numpy(op, x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("axis", [0, 1, 2, -2])
def test_every_axis(op, dtype, axis, rng):
    for shape in ((4, 5, 6), (3, 20, 37), (40, 3, 2)):
        x = (3 * rng.standard_normal(shape)).astype(dtype)
        assert_as_good_as_numpy(op, x, axis=axis)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 7.5])
def test_temperature(op, dtype, temperature, rng):
    x = rng.standard_normal((5, 33)).astype(dtype)
    assert_as_good_as_numpy(op, x, temperature=temperature)


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_temperatures_are_limits(dtype):
    x = np.array([[0.0, 1.0, -np.inf, 0.5]], dtype)
    assert F.softmax(x, temperature=1e-300).tolist() == [[0, 1, 0, 0]]
    np.testing.assert_allclose(
        F.softmax(x, temperature=1e300), [[1 / 3, 1 / 3, 0, 1 / 3]], rtol=1e-6
    )


@pytest.mark.parametrize("op", OPS)
def test_error_does_not_grow_with_the_row(op, rng):
    x = rng.standard_normal((1, 1_000_000)).astype(np.float32)
    y, dx, dy = run(op, x)
    exact_y, exact_dx = expected(op, x, dy)
    eps = np.finfo(np.float32).eps
    relative = np.abs(y - exact_y) / np.abs(exact_y)
    # Rounding x − m, here up to 10, costs 5 eps. A running float32 sum would be off by hundreds.
    assert relative.max() <= 8 * eps
    if op != "logsumexp":  # there dx is softmax itself, up to rounding in x - lse
        assert np.abs(dx - exact_dx).max() <= 4 * eps * np.abs(exact_dx).max()


@st.composite
def calls(draw):
    """An array of any shape and strides, an axis and perhaps a mask that broadcasts to it."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=7))
    seed = draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    wide = tuple(2 * n for n in shape)
    order = draw(st.permutations(range(len(shape))))
    x = 3 * generator.standard_normal([wide[i] for i in order])
    x = x.transpose(np.argsort(order))[tuple(slice(None, None, 2) for _ in shape)]
    if draw(st.booleans()):
        x = x[..., ::-1]
    x = x.astype(draw(st.sampled_from(DTYPES)), order="K")
    x.flags.writeable = draw(st.booleans())
    mask = None
    if draw(st.booleans()):
        keep = [n if draw(st.booleans()) else 1 for n in shape]
        mask = generator.random(keep[draw(st.integers(0, len(shape) - 1)) :]) < 0.6
    return x, draw(st.integers(-len(shape), len(shape) - 1)), mask


@pytest.mark.parametrize("op", OPS)
@given(call=calls())
def test_any_shape_strides_and_mask(op, call):
    x, axis, mask = call
    before = x.copy()
    y, dx, dy = run(op, x, axis=axis, mask=mask)
    exact_y, exact_dx = expected(op, x, dy, axis=axis, mask=mask)
    tolerance = 30 * np.finfo(x.dtype).eps
    assert y.dtype == dx.dtype == x.dtype
    assert dx.shape == x.shape
    np.testing.assert_allclose(y, exact_y, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(dx, exact_dx, rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(x, before)
    assert not np.shares_memory(x, y)
    assert not np.shares_memory(x, dx)
    assert not np.shares_memory(y, dx)


# The fixed semantics, at every length at which another kernel does the work.


def layouts(n):
    """The same rows of length n along the last axis, and along an axis with others behind it."""
    return [((6, n), -1), ((2, n, 3), 1), ((1, n, 40), 1)]


@pytest.mark.parametrize("n", [1, 5, 10, 16, 33, 200])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_visible_gives_zeros(n, dtype, rng):
    for shape, axis in layouts(n):
        x = rng.standard_normal(shape).astype(dtype)
        mask = np.broadcast_to(False, shape)
        empty = np.full(shape, -np.inf, dtype)
        for options in ({"x": x, "mask": mask}, {"x": empty}):
            y, dx, _ = run("softmax", **options, axis=axis)
            assert not y.any()
            assert not dx.any()
            y, dx, _ = run("log_softmax", **options, axis=axis)
            assert (y == -np.inf).all()
            assert not dx.any()
            y, dx, _ = run("logsumexp", **options, axis=axis)
            assert (y == -np.inf).all()
            assert not dx.any()


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("n", [2, 5, 10, 16, 33, 200])
@pytest.mark.parametrize("op", OPS)
def test_hidden_values_never_leak(op, n, poison, rng):
    for shape, axis in layouts(n):
        x = rng.standard_normal(shape).astype(np.float32)
        mask = rng.random(shape) < 0.5
        y, dx, dy = run(op, x, axis=axis, mask=mask)
        bad = np.where(mask, x, np.float32(poison))
        bad_dy = dy if op == "logsumexp" else np.where(mask, dy, np.float32(poison))
        bad_y, bad_dx, _ = run(op, bad, bad_dy, axis=axis, mask=mask)
        np.testing.assert_array_equal(bad_y, y)
        np.testing.assert_array_equal(bad_dx, dx)
        assert np.isfinite(dx).all()
        assert not dx[~mask].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("n", [2, 5, 10, 16, 33, 200])
@pytest.mark.parametrize("op", OPS)
def test_visible_nan_or_inf_spoils_its_own_row_only(op, n, bad, rng):
    x = rng.standard_normal((40, n)).astype(np.float32)
    clean = run(op, x)
    for spot in (0, n // 2, n - 1):
        poisoned = x.copy()
        poisoned[3, spot] = bad
        y, dx, _ = run(op, poisoned)
        assert np.isnan(y[3]).all()
        assert np.isnan(dx[3]).all()
        np.testing.assert_array_equal(np.delete(y, 3, 0), np.delete(clean[0], 3, 0))
        np.testing.assert_array_equal(np.delete(dx, 3, 0), np.delete(clean[1], 3, 0))


@pytest.mark.parametrize("n", [3, 10, 17, 200])
def test_hidden_entries_of_a_nan_row_keep_their_value(n):
    x = np.zeros((2, n), np.float32)
    x[:, 0] = np.nan
    mask = np.arange(n) != 1
    assert (F.softmax(x, mask=mask)[:, 1] == 0).all()
    assert np.isnan(F.softmax(x, mask=mask)[:, mask]).all()
    assert (F.log_softmax(x, mask=mask)[:, 1] == -np.inf).all()
    assert not F.softmax_backward(x, F.softmax_forward(x, mask=mask)[1])[:, 1].any()


@pytest.mark.parametrize("n", [3, 10, 17, 200])
def test_minus_infinity_has_weight_and_gradient_zero(n, rng):
    x = rng.standard_normal((4, n)).astype(np.float32)
    x[:, 1] = -np.inf
    dy = rng.standard_normal((4, n)).astype(np.float32)
    dy[:, 1] = np.inf
    mask = np.arange(n) != 1
    for op in ("softmax", "log_softmax"):
        y, dx, _ = run(op, x, dy)
        same_y, same_dx, _ = run(op, x, dy, mask=mask)
        np.testing.assert_array_equal(y, same_y)
        np.testing.assert_array_equal(dx, same_dx)
        assert not dx[:, 1].any()
    _, dx, _ = run("logsumexp", x)
    assert not dx[:, 1].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_values_do_not_overflow(dtype):
    big = np.finfo(dtype).max / 2
    x = np.array([[big, 0, -big] * 8, [-big] * 24], dtype)
    y = F.softmax(x)
    np.testing.assert_allclose(y[0], [1 / 8, 0, 0] * 8)
    np.testing.assert_allclose(y[1], 1 / 24, rtol=1e-6)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0), (2, 0, 3), (0, 0)])
@pytest.mark.parametrize("op", OPS)
def test_empty_axes(op, shape):
    for axis in range(len(shape)):
        y, dx, _ = run(op, np.empty(shape, np.float32), axis=axis)
        assert dx.shape == shape
        left = shape if op != "logsumexp" else shape[:axis] + shape[axis + 1 :]
        assert y.shape == left
        assert op != "logsumexp" or (y == -np.inf).all()


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_do_not_change_the_bits(op, dtype, rng):
    for shape, axis in (((4001, 10), 1), ((301, 300), 1), ((3, 50_000), 1), ((7, 33, 300), 1)):
        x = rng.standard_normal(shape).astype(dtype)
        results = []
        for n in (1, 2):
            with ma.threads(n):
                results.append(run(op, x, axis=axis)[:2])
        for one, two in zip(*results, strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("op", OPS)
def test_rows_do_not_depend_on_their_neighbours(op, rng):
    """A row gives the same bits alone, in a small batch and in a large one."""
    for n in (3, 10, 40, 300):
        x = rng.standard_normal((2000, n)).astype(np.float32)
        y, dx, dy = run(op, x)
        for r in (0, 17, 1999):
            y_r, dx_r, _ = run(op, x[r : r + 1], dy[r : r + 1])
            np.testing.assert_array_equal(y_r[0], y[r])
            np.testing.assert_array_equal(dx_r[0], dx[r])


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("n", [4, 11, 40])
def test_finite_differences(op, n, rng):
    x = rng.standard_normal((3, n, 2))
    mask = rng.random((n, 1)) < 0.8
    mask[0] = True
    options = {"axis": 1, "mask": mask} | ({} if op == "logsumexp" else {"temperature": 0.7})
    _, dx, dy = run(op, x, **options)
    h = 1e-5
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = h
        up, down = (getattr(F, op)(x + s, **options) for s in (step, -step))
        change = np.where(np.isfinite(up), up, 0) - np.where(np.isfinite(down), down, 0)
        assert dx[index] == pytest.approx((dy * change).sum() / (2 * h), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("n", [10, 100])
def test_agrees_with_torch(op, n, rng):
    torch = pytest.importorskip("torch")
    x = rng.standard_normal((6, n, 5)).astype(np.float32)
    y, dx, dy = run(op, x, axis=1)
    tx = torch.from_numpy(x).requires_grad_()
    ty = getattr(torch, op)(tx, 1)
    ty.backward(torch.from_numpy(dy))
    np.testing.assert_allclose(y, ty.detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dx, tx.grad.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: F.softmax(x.astype(np.float16)), TypeError, "x: .*float16"),
        (lambda x: F.softmax(x.astype(">f4")), TypeError, "x: .*byte-swapped"),
        (lambda x: F.softmax(np.float32(1)), ValueError, "x: expected at least one axis"),
        (lambda x: F.softmax(x, axis=2), ValueError, "axis: .*got 2"),
        (lambda x: F.softmax(x, axis=1.0), TypeError, "axis: "),
        (lambda x: F.softmax(x, temperature=0), ValueError, "temperature: .*got 0"),
        (lambda x: F.log_softmax(x, temperature=np.nan), ValueError, "temperature: "),
        (lambda x: F.softmax(x, mask=np.ones((2, 3), int)), TypeError, "mask: .*int64"),
        (lambda x: F.softmax(x, mask=np.ones(4, bool)), ValueError, r"mask: .*\(4,\)"),
        (lambda x: F.softmax(x, mask=np.ones((1, 2, 3), bool)), ValueError, "mask: "),
        (lambda x: F.logsumexp(x, axis=-3), ValueError, "axis: .*got -3"),
        (
            lambda x: F.softmax_backward(x[:1], F.softmax_forward(x)[1]),
            ValueError,
            r"dy: expected .*\(2, 3\), got \(1, 3\)",
        ),
        (
            lambda x: F.log_softmax_backward(x.astype(np.float64), F.log_softmax_forward(x)[1]),
            TypeError,
            "dy: .*float32",
        ),
        (
            lambda x: F.logsumexp_backward(x, F.logsumexp_forward(x)[1]),
            ValueError,
            r"dlse: expected .*\(2,\)",
        ),
    ],
)
def test_wrong_calls(call, error, words):
    with pytest.raises(error, match=words):
        call(np.ones((2, 3), np.float32))


@pytest.mark.parametrize("op", ["softmax", "log_softmax", "logsumexp"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_mask_that_hides_nothing_changes_no_bit(op, dtype):
    """Masked rows are copied first, into memory that must live as long as it is read."""
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 5, 8, 16, 17, 31, 40, 300):
        for count in (1, 2, 3, 17):
            x = rng.standard_normal((count, n)).astype(dtype)
            y, ctx = getattr(F, f"{op}_forward")(x)
            masked, masked_ctx = getattr(F, f"{op}_forward")(x, mask=np.ones((count, n), bool))
            np.testing.assert_array_equal(masked, y)
            dy = rng.standard_normal(y.shape).astype(dtype)
            backward = getattr(F, f"{op}_backward")
            np.testing.assert_array_equal(backward(dy, masked_ctx), backward(dy, ctx))


# ------------------------------------------------------------------------------------ magnitudes


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_differences_and_quotients_that_are_no_numbers(dtype):
    most, least = np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal
    x = np.array([most, -most], dtype)
    np.testing.assert_array_equal(F.softmax(x), [1, 0])
    np.testing.assert_array_equal(F.log_softmax(x), [0, -np.inf])
    np.testing.assert_array_equal(F.log_softmax(x, temperature=2.0), [0, -most])
    np.testing.assert_allclose(
        F.softmax(x, temperature=float(most)), 1 / (1 + np.exp([-2, 2])), rtol=1e-6
    )
    np.testing.assert_array_equal(F.softmax(np.full(3, -most)), np.full(3, 1 / 3, dtype))
    np.testing.assert_array_equal(F.logsumexp(np.full(3, -most)), -most)
    np.testing.assert_array_equal(F.logsumexp(np.full(3, most)), most)
    # A temperature that is no number of the dtype, and a difference that is the smallest of it.
    tiny = F.softmax(np.array([0, least]), temperature=5e-324)
    np.testing.assert_allclose(tiny[1], 1 if dtype == np.float32 else 1 / (1 + np.exp(-1)))
    for temperature, difference in ((1e-60, 3e-45), (1e-300, 1e-299), (1e300, 3e38)):
        x = np.array([difference, 0], dtype)
        ratio = float(x[0]) / temperature
        y = F.log_softmax(x, temperature=temperature)
        np.testing.assert_allclose(
            y, [-np.log1p(np.exp(-ratio)), -ratio - np.log1p(np.exp(-ratio))]
        )


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e-10, 1e10, 1e30, 1e300])
@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
def test_any_temperature(op, temperature, axis, rng):
    """x and dy in the unit of the temperature, as far as it goes, against the temperature 1."""
    x, dy = rng.standard_normal((2, 4, 6))
    y, ctx = getattr(F, f"{op}_forward")(x, axis=axis)
    dx = getattr(F, f"{op}_backward")(dy, ctx)
    mask = rng.random((4, 6)) < 0.9
    masked = getattr(F, op)(x, axis=axis, mask=mask)
    hidden = np.where(mask, x * temperature, np.nan)
    np.testing.assert_allclose(
        getattr(F, op)(hidden, axis=axis, mask=mask, temperature=temperature), masked, rtol=1e-12
    )
    for unit in (1.0, temperature):
        got, ctx = getattr(F, f"{op}_forward")(x * temperature, axis=axis, temperature=temperature)
        np.testing.assert_allclose(got, y, rtol=1e-13, atol=1e-14)
        right = dx * (unit / temperature)
        found = getattr(F, f"{op}_backward")(dy * unit, ctx)
        np.testing.assert_allclose(found, right, atol=1e-13 * np.abs(right).max())
