"""The losses of the trainer: counts, metrics, and gradients by central differences."""

import numpy as np
import pytest

import miniattn.functional as F
from miniattn.losses import MSE, CrossEntropy

CASES = {
    "cross-entropy, a class a sequence": (
        CrossEntropy(),
        (4, 3),
        lambda rng: rng.integers(0, 3, 4),
    ),
    "cross-entropy, a class a step": (
        CrossEntropy(label_smoothing=0.1),
        (2, 3, 4),
        lambda rng: np.array([[0, 3, -100], [1, -100, -100]]),
    ),
    "mse": (MSE(), (4, 2), lambda rng: rng.standard_normal((4, 2))),
    "mse, padded": (
        MSE(),
        (2, 3),
        lambda rng: np.array([[0.5, 1.0, np.nan], [2.0, np.nan, np.nan]]),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients(name, rng):
    loss, shape, draw = CASES[name]
    outputs, targets = rng.standard_normal(shape), draw(rng)
    _, ctx = loss.forward(outputs, targets)
    gradient = loss.backward(0.7, ctx)
    for index in np.ndindex(shape):
        shift = np.zeros(shape)
        shift[index] = 1e-6
        up, _ = loss.forward(outputs + shift, targets)
        down, _ = loss.forward(outputs - shift, targets)
        assert gradient[index] == pytest.approx(0.7 * (up - down) / 2e-6, rel=1e-6, abs=1e-8)


def test_only_counted_targets_count(rng):
    logits, targets = rng.standard_normal((2, 3, 4)), np.array([[0, 3, -100], [1, -100, -100]])
    counted = targets != -100
    loss, _ = CrossEntropy().forward(logits, targets)
    assert loss == pytest.approx(F.cross_entropy(logits[counted], targets[counted]))
    assert CrossEntropy().count(targets) == 3
    right = logits[counted].argmax(axis=-1) == targets[counted]
    assert CrossEntropy().metrics(logits, targets) == {"accuracy": right.mean()}

    outputs, targets = rng.standard_normal((2, 2)), np.array([[1.0, np.nan], [3.0, 4.0]])
    loss, _ = MSE().forward(outputs, targets)
    assert loss == pytest.approx(np.nanmean((outputs - targets) ** 2))
    assert MSE().count(targets) == 3
    assert MSE().metrics(outputs, targets) == {}


def test_nothing_counts():
    loss, ctx = CrossEntropy().forward(np.ones((2, 3)), np.full(2, -100))
    assert loss == 0
    assert not CrossEntropy().backward(1.0, ctx).any()
    assert CrossEntropy().metrics(np.ones((2, 3)), np.full(2, -100)) == {"accuracy": 0.0}
    loss, ctx = MSE().forward(np.ones((2, 3)), np.full((2, 3), np.nan))
    assert loss == 0
    assert not MSE().backward(1.0, ctx).any()


def test_mse_takes_targets_in_float64_for_outputs_in_float32():
    outputs = np.ones((2, 3), np.float32)
    _, ctx = MSE().forward(outputs, np.zeros((2, 3)))
    assert MSE().backward(1.0, ctx).dtype == np.float32


def test_mse_does_not_broadcast():
    with pytest.raises(ValueError, match="targets: expected shape"):
        MSE().forward(np.ones((2, 1)), np.ones(2))
