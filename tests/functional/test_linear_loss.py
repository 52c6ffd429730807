"""Cross-entropy of a linear map, run by run: against `reference`, and what runs must not change."""

import tracemalloc

import numpy as np
import pytest

import miniattn as ma
import miniattn.functional as F
from miniattn import reference
from miniattn.functional import _linear_loss

INPUTS = "x", "weight", "bias"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def in_runs(monkeypatch):
    """Let runs have so many words."""

    def cut(words):
        monkeypatch.setattr(_linear_loss, "LEAST", words)
        monkeypatch.setattr(_linear_loss, "ELEMENTS", 0)

    return cut


def problem(rng, shape, words, dtype=np.float64, ignored=0.2):
    x = rng.standard_normal(shape).astype(dtype)
    weight = rng.standard_normal((words, shape[-1])).astype(dtype)
    bias = (3 * rng.standard_normal(words)).astype(dtype)
    targets = rng.integers(0, words, shape[:-1])
    targets[rng.random(shape[:-1]) < ignored] = -100
    return {"x": x, "weight": weight, "targets": targets, "bias": bias}


def run(arrays, dloss=1.0, **options):
    loss, ctx = F.linear_cross_entropy_forward(**arrays, **options)
    return loss, F.linear_cross_entropy_backward(dloss, ctx)


@pytest.mark.parametrize("smoothing", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("words", [1, 3, 16, 70, 1000])
def test_runs_of_any_length(words, smoothing, rng, in_runs):
    """A run may have one word, or be so narrow that several rows are worked on at a time."""
    arrays = problem(rng, (2, 20, 5), 131)
    arrays["bias"][:70] -= 40  # the maxima of later runs are far above the first's
    in_runs(words)
    loss, grads = run(arrays, 0.5, label_smoothing=smoothing)
    exact = reference.linear_cross_entropy(**arrays, label_smoothing=smoothing)
    np.testing.assert_allclose(loss, exact, rtol=1e-14)
    exact = reference.linear_cross_entropy_backward(0.5, **arrays, label_smoothing=smoothing)
    for got, right in zip(grads, exact, strict=True):
        np.testing.assert_allclose(got, right, rtol=0, atol=2e-15 * np.abs(right).max())


def test_as_good_as_the_two_operations(rng, in_runs):
    """In float32 against float64: at most twice the errors of `linear` and `cross_entropy`."""
    arrays = problem(rng, (50, 40), 500, np.float32)
    in_runs(64)
    loss, grads = run(arrays, label_smoothing=0.1)
    z, linear = F.linear_forward(arrays["x"], arrays["weight"], arrays["bias"])
    two, ctx = F.cross_entropy_forward(z, arrays["targets"], label_smoothing=0.1)
    others = F.linear_backward(F.cross_entropy_backward(1.0, ctx), linear)
    exact = reference.linear_cross_entropy(**arrays, label_smoothing=0.1)
    assert abs(loss - exact) <= 2 * abs(two - exact) + 4 * np.finfo(np.float32).eps * exact
    rights = reference.linear_cross_entropy_backward(1.0, **arrays, label_smoothing=0.1)
    for got, other, right in zip(grads, others, rights, strict=True):
        floor = 4 * np.finfo(np.float32).eps * np.abs(right).max()
        assert np.abs(got - right).max() <= 2 * np.abs(other - right).max() + floor


@pytest.mark.parametrize("needs", [("x",), ("weight",), ("bias",), ()])
def test_only_what_is_needed(needs, rng, in_runs):
    arrays = problem(rng, (9, 4), 50)
    in_runs(20)
    _, whole = run(arrays)
    _, ctx = F.linear_cross_entropy_forward(**arrays)
    grads = F.linear_cross_entropy_backward(1.0, ctx, needs=needs)
    for name, got, right in zip(INPUTS, grads, whole, strict=True):
        if name in needs:
            np.testing.assert_array_equal(got, right)
        else:
            assert got is None


def test_rows_that_do_not_count_are_not_read(rng):
    """Not even by the products: 0 · NaN would reach all of dweight."""
    arrays = problem(rng, (6, 4), 7, ignored=0)
    arrays["targets"][[1, 4]] = -100
    loss, grads = run(arrays)
    arrays["x"][[1, 4]] = np.nan
    dirty, others = run(arrays)
    assert dirty == loss
    for got, right in zip(others, grads, strict=True):
        np.testing.assert_array_equal(got, right)
    assert not grads.dx[[1, 4]].any()


def test_no_row_counts(rng):
    arrays = problem(rng, (3, 4), 5, ignored=2)
    loss, grads = run(arrays)
    assert loss == 0
    for name, grad in zip(INPUTS, grads, strict=True):
        assert grad.shape == arrays[name].shape
        assert not grad.any()


@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_words_that_cannot_be(smoothing, rng, in_runs):
    """A bias of -inf takes a word away, a whole run of them too; without any the loss is inf."""
    arrays = problem(rng, (5, 4), 12, ignored=0)
    arrays["bias"][:8] = -np.inf
    arrays["targets"][:] = [8, 9, 11, 10, 8]
    in_runs(4)
    loss, grads = run(arrays)
    logits = reference.linear(arrays["x"], arrays["weight"], arrays["bias"])
    assert loss == pytest.approx(reference.cross_entropy(logits, arrays["targets"]), rel=1e-14)
    assert not grads.dbias[:8].any()
    assert run(arrays, label_smoothing=0.5)[0] == np.inf
    arrays["bias"][:] = -np.inf
    loss, grads = run(arrays, label_smoothing=smoothing)
    assert loss == np.inf
    assert not any(grad.any() for grad in grads)


def test_logits_that_float32_cannot_hold(rng, in_runs):
    arrays = problem(rng, (6, 4), 9, np.float32, ignored=0)
    arrays["x"] *= np.float32(1e30)
    arrays["weight"] *= np.float32(1e30)
    in_runs(4)
    logits = reference.linear(arrays["x"], arrays["weight"], arrays["bias"])
    arrays["targets"] = logits.argmax(-1)
    loss, grads = run(arrays)
    assert loss == 0
    assert not any(grad.any() for grad in grads)
    arrays["targets"][0] = logits[0].argmin()
    loss, grads = run(arrays)
    assert loss == np.inf
    right = np.zeros(9, np.float32)
    right[arrays["targets"][0]], right[logits[0].argmax()] = -1 / 6, 1 / 6
    np.testing.assert_array_equal(grads.dbias, right)
    assert all(grad.dtype == np.float32 for grad in grads)


def test_nan_makes_the_loss_nan(rng, in_runs):
    arrays = problem(rng, (5, 4), 12, ignored=0)
    arrays["x"][2, 1] = np.nan
    in_runs(4)
    loss, grads = run(arrays)
    assert np.isnan(loss)
    assert np.isnan(grads.dx[2]).all()
    assert np.isfinite(np.delete(grads.dx, 2, axis=0)).all()


def test_memory_is_that_of_a_run(rng):
    """The logits alone would be 128 MiB, and their gradient as much."""
    arrays = problem(rng, (1024, 2), 2**15, np.float32, ignored=0)
    run(arrays)
    ma.runtime.keep_memory(0)
    tracemalloc.start()
    try:
        run(arrays)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        ma.runtime.keep_memory(2**28)
    assert most < 24 * 2**20
