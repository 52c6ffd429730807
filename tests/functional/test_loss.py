"""Losses against `reference`, and their fixed semantics."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import miniattn as ma
import miniattn.functional as F
from miniattn import reference

DTYPES = (np.float32, np.float64)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def batch(rng, shape, dtype=np.float32, ignored=0.2):
    """Random logits, targets of which some are ignored."""
    logits = (3 * rng.standard_normal(shape)).astype(dtype)
    targets = rng.integers(0, shape[-1], shape[:-1])
    targets[rng.random(shape[:-1]) < ignored] = -100
    return logits, targets


def run(logits, targets, dloss=1.0, **options):
    loss, ctx = F.cross_entropy_forward(logits, targets, **options)
    return loss, F.cross_entropy_backward(dloss, ctx)


def plain(logits, targets, smoothing):
    """What anyone would write in NumPy, in the precision of the logits: (loss, dlogits)."""
    n = logits.shape[-1]
    shifted = logits - logits.max(-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    q = np.full_like(logits, smoothing / n)
    counted = targets != -100
    q[counted, targets[counted]] += logits.dtype.type(1 - smoothing)
    q[~counted] = 0
    gradient = np.where(counted[:, None], np.exp(log_p) - q, 0)
    return -(q * log_p).sum() / counted.sum(), gradient / logits.dtype.type(counted.sum())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("n", [1, 2, 10, 16, 17, 100, 1000, 5000])
def test_as_good_as_numpy(n, smoothing, dtype, rng):
    """Errors at most twice those of plain NumPy in the same precision, plus a few roundings."""
    logits, targets = batch(rng, (40, n), dtype)
    targets[0] = 0
    loss, dlogits = run(logits, targets, label_smoothing=smoothing)
    exact = reference.cross_entropy(logits, targets, label_smoothing=smoothing)
    exact_d = reference.cross_entropy_backward(1.0, logits, targets, label_smoothing=smoothing)
    naive, naive_d = plain(logits, targets, smoothing)
    eps = float(np.finfo(dtype).eps)
    assert type(loss) is dtype
    assert dlogits.dtype == dtype
    assert abs(loss - exact) <= 2 * abs(naive - exact) + 4 * eps * max(1, abs(exact))
    floor = 4 * eps / (targets != -100).sum()  # dlogits is a difference of numbers up to 1 / count
    assert np.abs(dlogits - exact_d).max() <= 2 * np.abs(naive_d - exact_d).max() + floor


@given(
    shape=st.lists(st.integers(0, 5), max_size=3),
    n=st.integers(1, 40),
    seed=st.integers(0, 1000),
    smoothing=st.sampled_from([0.0, 0.3]),
    dtype=st.sampled_from(DTYPES),
)
def test_any_shape_and_strides(shape, n, seed, smoothing, dtype):
    generator = np.random.default_rng(seed)
    logits, targets = batch(generator, (*shape, 2 * n), dtype)
    logits = logits[..., ::2]
    targets = np.where(targets == -100, -100, targets // 2)
    logits.flags.writeable = targets.flags.writeable = False
    before = logits.copy()
    loss, dlogits = run(logits, targets, 0.7, label_smoothing=smoothing)
    expected = reference.cross_entropy(logits, targets, label_smoothing=smoothing)
    expected_d = reference.cross_entropy_backward(0.7, logits, targets, label_smoothing=smoothing)
    tolerance = 30 * float(np.finfo(dtype).eps)
    assert loss == pytest.approx(expected, rel=tolerance, abs=tolerance)
    np.testing.assert_allclose(dlogits, expected_d, rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(logits, before)
    assert not np.shares_memory(logits, dlogits)


def test_targets_of_any_integer_type(rng):
    logits, targets = batch(rng, (6, 5), ignored=0)
    expected = F.cross_entropy(logits, targets)
    for dtype in (np.int8, np.uint8, np.int32, np.uint64):
        assert F.cross_entropy(logits, targets.astype(dtype)) == expected


@pytest.mark.parametrize("n", [3, 16, 40])
def test_ignored_rows_never_leak(n, rng):
    logits, targets = batch(rng, (9, n))
    targets[:3] = 1, -100, 1
    clean = run(logits, targets)
    poisoned = logits.copy()
    poisoned[targets == -100] = np.nan
    loss, dlogits = run(poisoned, targets)
    assert loss == clean[0]
    np.testing.assert_array_equal(dlogits, clean[1])
    assert not dlogits[targets == -100].any()


def test_ignore_index_may_be_a_class(rng):
    logits, _ = batch(rng, (4, 3))
    targets = np.array([0, 1, 2, 1])
    loss, dlogits = run(logits, targets, ignore_index=1)
    assert loss == F.cross_entropy(logits[[0, 2]], targets[[0, 2]])
    assert not dlogits[[1, 3]].any()


@pytest.mark.parametrize("shape", [(4, 3), (0, 3), (2, 0, 3)])
def test_nothing_counted_gives_zero(shape):
    logits = np.full(shape, np.nan, np.float32)
    loss, dlogits = run(logits, np.full(shape[:-1], -100))
    assert loss == 0
    assert type(loss) is np.float32
    assert dlogits.shape == shape
    assert not dlogits.any()


def test_no_classes_at_all():
    loss, dlogits = run(np.empty((3, 0), np.float32), np.full(3, -100))
    assert loss == 0
    assert dlogits.shape == (3, 0)
    with pytest.raises(ValueError, match=r"targets: .*N = 0.*got 0 at index \(0,\)"):
        F.cross_entropy(np.empty((1, 0), np.float32), np.array([0]))


@pytest.mark.parametrize("n", [3, 16, 40])
def test_minus_infinity(n, rng):
    logits, targets = batch(rng, (4, n), ignored=0)
    targets[:] = 0
    logits[0, 1] = -np.inf
    logits[1] = -np.inf
    logits[2, 0] = -np.inf
    ones = np.array([[0], [-100], [-100], [-100]])
    loss, dlogits = run(logits, targets)
    assert loss == np.inf
    assert dlogits[0, 1] == 0
    assert not dlogits[1].any()  # nothing to choose from
    assert np.isfinite(dlogits).all()
    assert np.isfinite(F.cross_entropy(logits, ones[:, 0]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("n", [3, 16, 40])
def test_nan_and_infinity_spoil_their_row(n, bad, rng):
    logits, targets = batch(rng, (5, n), ignored=0)
    clean = run(logits, targets)[1]
    logits[2, n - 1] = bad
    loss, dlogits = run(logits, targets)
    assert np.isnan(loss)
    assert np.isnan(dlogits[2]).all()
    np.testing.assert_array_equal(np.delete(dlogits, 2, 0), np.delete(clean, 2, 0))


def test_large_logits_keep_their_precision(rng):
    """A common offset of the logits costs no more than its own rounding."""
    logits = rng.integers(-8, 8, (20, 50)).astype(np.float32)
    targets = rng.integers(0, 50, 20)
    here, there = run(logits, targets), run(logits + np.float32(2.0**20), targets)
    assert here[0] == there[0]
    np.testing.assert_array_equal(here[1], there[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_do_not_change_the_bits(dtype, rng):
    for shape in ((5001, 10), (201, 300), (2, 40_000)):
        logits, targets = batch(rng, shape, dtype)
        results = []
        for n in (1, 2):
            with ma.threads(n):
                results.append(run(logits, targets, label_smoothing=0.1))
        assert results[0][0] == results[1][0]
        np.testing.assert_array_equal(results[0][1], results[1][1])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("n", [4, 20])
def test_finite_differences(n, smoothing, rng):
    logits, targets = batch(rng, (3, 2, n), np.float64)
    _, dlogits = run(logits, targets, 1.7, label_smoothing=smoothing)
    h = 1e-5
    for index in np.ndindex(logits.shape):
        step = np.zeros_like(logits)
        step[index] = h
        up, down = (
            F.cross_entropy(logits + s, targets, label_smoothing=smoothing) for s in (step, -step)
        )
        assert dlogits[index] == pytest.approx(1.7 * (up - down) / (2 * h), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_agrees_with_torch(smoothing, rng):
    torch = pytest.importorskip("torch")
    logits, targets = batch(rng, (30, 11))
    loss, dlogits = run(logits, targets, label_smoothing=smoothing)
    x = torch.from_numpy(logits).requires_grad_()
    expected = torch.nn.functional.cross_entropy(
        x, torch.from_numpy(targets), label_smoothing=smoothing
    )
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    np.testing.assert_allclose(dlogits, x.grad.numpy(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x, t: F.cross_entropy(x.astype(int), t), TypeError, "logits: .*int64"),
        (lambda x, t: F.cross_entropy(x, t.astype(float)), TypeError, "targets: .*float64"),
        (lambda x, t: F.cross_entropy(x, t.astype(bool)), TypeError, "targets: .*bool"),
        (lambda x, t: F.cross_entropy(x, t[:1]), ValueError, r"targets: .*got \(1,\)"),
        (lambda x, t: F.cross_entropy(np.float32(1), t), ValueError, "targets: "),
        (
            lambda x, t: F.cross_entropy(x, np.array([0, 3])),
            ValueError,
            r"targets: expected classes in \[0, N\) with N = 3.*got 3 at index \(1,\)",
        ),
        (lambda x, t: F.cross_entropy(x, np.array([0, -1])), ValueError, "targets: .*got -1"),
        (
            lambda x, t: F.cross_entropy(x, t, label_smoothing=1.1),
            ValueError,
            "label_smoothing: ",
        ),
        (lambda x, t: F.cross_entropy(x, t, ignore_index=0.5), TypeError, "ignore_index: "),
        (
            lambda x, t: F.cross_entropy_backward("1", F.cross_entropy_forward(x, t)[1]),
            TypeError,
            "dloss: ",
        ),
        (lambda x, t: F.mse(x, x[:1]), ValueError, r"target: expected shape \(2, 3\)"),
        (lambda x, t: F.mse(x, x.astype(np.float64)), TypeError, "target: .*float32"),
        (lambda x, t: F.mse(t, t), TypeError, "pred: .*int64"),
        (
            lambda x, t: F.mse_backward(np.ones(2), F.mse_forward(x, x)[1]),
            TypeError,
            "dloss: ",
        ),
    ],
)
def test_wrong_calls(call, error, words):
    with pytest.raises(error, match=words):
        call(np.ones((2, 3), np.float32), np.array([0, 2]))


# Mean squared error.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (3, 4), (0, 2), (2, 3, 5)])
def test_mse(shape, dtype, rng):
    pred = np.asarray(rng.standard_normal(shape), dtype)
    target = np.asarray(rng.standard_normal(shape), dtype)
    loss, ctx = F.mse_forward(pred, target)
    dpred = F.mse_backward(1.5, ctx)
    eps = float(np.finfo(dtype).eps)
    assert type(loss) is dtype
    assert loss == pytest.approx(reference.mse(pred, target), rel=4 * eps)
    assert dpred.dtype == dtype
    assert dpred.shape == shape
    np.testing.assert_allclose(
        dpred, reference.mse_backward(1.5, pred, target), rtol=4 * eps, atol=4 * eps
    )


def test_mse_accumulates_in_float64():
    pred = np.full(3_000_000, 0.1, np.float32)
    exact = float(np.float32(0.1)) ** 2
    assert F.mse(pred, np.zeros_like(pred)) == pytest.approx(exact, rel=1e-7)


def test_mse_finite_differences(rng):
    pred, target = rng.standard_normal((2, 3, 4))
    _, ctx = F.mse_forward(pred, target)
    dpred = F.mse_backward(2.0, ctx)
    h = 1e-5
    for index in np.ndindex(pred.shape):
        step = np.zeros_like(pred)
        step[index] = h
        change = F.mse(pred + step, target) - F.mse(pred - step, target)
        assert dpred[index] == pytest.approx(2.0 * change / (2 * h), rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_label_smoothing_of_1_counts_every_class_the_same(dtype):
    logits = np.array([[1, 2, 3], [3, 1, 2]], dtype)
    loss, dlogits = run(logits, np.array([0, 0]), label_smoothing=1.0)
    log_sum = np.log(np.exp([1.0, 2, 3]).sum())
    np.testing.assert_allclose(loss, log_sum - 2, rtol=4 * np.finfo(dtype).eps)
    p = np.exp(logits.astype(float) - log_sum)
    np.testing.assert_allclose(dlogits, (p - 1 / 3) / 2, atol=2 * np.finfo(dtype).eps)
    # A class of no probability makes the loss infinite, be it the target or another.
    for target in (0, 1):
        assert F.cross_entropy(
            np.array([[-np.inf, 0]], dtype), np.array([target]), label_smoothing=1.0
        ) == np.inf  # fmt: skip
    with pytest.raises(
        ValueError, match=r"label_smoothing: expected a number in \[0, 1\], got 1.1"
    ):
        F.cross_entropy(logits, np.array([0, 0]), label_smoothing=1.1)


def test_means_of_losses_whose_sum_is_no_number():
    logits = np.array([[0, 1.5e308], [0, 1.7e308]])
    loss, dlogits = run(logits, np.array([0, 0]))
    assert loss == 1.6e308
    np.testing.assert_array_equal(dlogits, [[-0.5, 0.5]] * 2)
    logits = np.array([[0, -1.5e308, -1.5e308, -1.5e308]])
    assert F.cross_entropy(logits, np.array([0]), label_smoothing=1.0) == 1.125e308


def test_mse_of_differences_whose_squares_are_no_numbers():
    pred = np.zeros((1000, 10), np.float32)
    pred[0, 0] = 1e20
    loss, ctx = F.mse_forward(pred, 0 * pred)
    assert loss == np.float32(float(pred[0, 0]) ** 2 / 1e4)
    assert F.mse_backward(1.0, ctx)[0, 0] == np.float32(2e20 / 1e4)
    wide = np.zeros(100)
    wide[:2] = 1e154, -1.2e154
    loss, ctx = F.mse_forward(wide, -wide)
    np.testing.assert_allclose(loss, 4 * (1 + 1.44) * 1e306, rtol=1e-15)
    for dtype, most in ((np.float32, 2.0**127), (np.float64, 2.0**1023)):
        pred = np.full(16, most, dtype)
        loss, ctx = F.mse_forward(pred, -pred)
        assert loss == np.inf
        for dloss in (1.0, 2.0**-120, 1e-30):  # the difference is 2 · most, which is no number
            np.testing.assert_array_equal(F.mse_backward(dloss, ctx), dtype(most / 4 * dloss))


@pytest.mark.parametrize("dloss", [3e38, 1e-40, 0.0])
def test_mse_gradients_of_any_size(dloss):
    difference = np.array([0.5, 0.0, -0.25, 1e-3], np.float32)
    _, ctx = F.mse_forward(difference, 0 * difference)
    right = (2 * dloss * difference.astype(float) / 4).astype(np.float32)
    np.testing.assert_allclose(F.mse_backward(dloss, ctx), right, rtol=2e-7, atol=1.5e-45)


# ------------------------------------------------ class weights, and targets that are distributions


def distributions(rng, shape, dtype):
    p = rng.random(shape)
    return (p / p.sum(axis=-1, keepdims=True)).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_weights_and_distributions_are_the_references(soft, weighted, smoothing, dtype, rng):
    logits, targets = batch(rng, (4, 6, 5), dtype)
    options = {"label_smoothing": smoothing}
    if weighted:
        options["class_weights"] = rng.random(5)
    if soft:
        targets = distributions(rng, logits.shape, dtype)
    loss, dlogits = run(logits, targets, 2.0, **options)
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(
        loss, reference.cross_entropy(logits, targets, **options), rtol=8 * eps
    )
    expected = reference.cross_entropy_backward(2.0, logits, targets, **options)
    np.testing.assert_allclose(dlogits, expected, rtol=64 * eps, atol=4 * eps)
    assert loss.dtype == dlogits.dtype == dtype


def test_a_distribution_with_one_class_is_that_class(rng):
    logits, targets = batch(rng, (7, 4), np.float64, ignored=0)
    hard, soft = run(logits, targets), run(logits, np.eye(4)[targets])
    np.testing.assert_allclose(soft[0], hard[0], rtol=1e-14)
    np.testing.assert_allclose(soft[1], hard[1], rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("soft", [False, True])
def test_weights_and_distributions_are_pytorchs(soft, rng):
    torch = pytest.importorskip("torch")
    logits, targets = batch(rng, (6, 5), np.float64)
    weights = rng.random(5)
    if soft:
        targets = distributions(rng, logits.shape, np.float64)
    x = torch.tensor(logits, requires_grad=True)
    theirs = torch.nn.functional.cross_entropy(
        x, torch.tensor(targets), weight=torch.tensor(weights), label_smoothing=0.1
    )
    theirs.backward()
    loss, dlogits = run(logits, targets, class_weights=weights, label_smoothing=0.1)
    np.testing.assert_allclose(loss, theirs.item(), rtol=1e-12)
    np.testing.assert_allclose(dlogits, x.grad.numpy(), rtol=1e-10, atol=1e-15)


def test_a_row_that_does_not_count_may_hold_anything(rng):
    logits, targets = batch(rng, (5, 3), np.float64, ignored=0)
    targets[2], logits[2] = -100, np.nan
    loss, dlogits = run(logits, targets, class_weights=np.array([1.0, 2.0, 3.0]))
    assert np.isfinite(loss)
    assert (dlogits[2] == 0).all()


def test_classes_that_count_nothing_give_nothing(rng):
    logits, targets = batch(rng, (5, 3), np.float64)
    loss, dlogits = run(logits, targets, class_weights=np.zeros(3))
    assert loss == 0
    assert (dlogits == 0).all()


@pytest.mark.parametrize(
    ("targets", "options", "message"),
    [
        (np.full((2, 3), 0.5), {}, "targets: expected probabilities, numbers >= 0 that sum to 1"),
        (np.array([[1.5, -0.5, 0.0]] * 2), {}, "targets: expected probabilities"),
        (np.array([0, 1]), {"class_weights": np.ones(2)}, "class_weights: expected shape"),
        (np.array([0, 1]), {"class_weights": -np.ones(3)}, "class_weights: expected finite"),
        (np.array([0, 1]), {"class_weights": np.array([1, np.nan, 1])}, "class_weights: expected"),
    ],
)
def test_wrong_weights_and_distributions(targets, options, message):
    with pytest.raises(ValueError, match=message):
        F.cross_entropy(np.zeros((2, 3)), targets, **options)
