"""Batch normalisation of sequences: padding does not count, and running statistics are state."""

import numpy as np
import pytest

from miniattn import checkpoint, nn, optim

B, T, E = 3, 5, 4
LENGTHS = [5, 2, 3]
REAL = np.arange(T) < np.array(LENGTHS)[:, None]


def test_statistics_and_gradients_are_those_of_the_real_steps(rng):
    norm = nn.BatchNorm(E, dtype=np.float64)
    x, dy = rng.standard_normal((2, B, T, E))
    padded, dpadded = x.copy(), dy.copy()
    padded[~REAL] = dpadded[~REAL] = np.nan
    y, ctx = norm.forward(padded, lengths=LENGTHS)
    dx = norm.backward(dpadded, ctx)
    alone = nn.BatchNorm(E, dtype=np.float64)
    wanted, ctx = alone.forward(x[REAL])
    np.testing.assert_allclose(y[REAL], wanted, rtol=1e-12)
    np.testing.assert_allclose(dx[REAL], alone.backward(dy[REAL], ctx), rtol=1e-9, atol=1e-14)
    assert not y[~REAL].any()
    assert not dx[~REAL].any()
    for name, running in norm.state_dict().items():
        np.testing.assert_allclose(running, alone.state_dict()[name], rtol=1e-12, err_msg=name)


def test_running_statistics_are_those_of_torch(rng):
    torch = pytest.importorskip("torch")
    ours, theirs = nn.BatchNorm(E, momentum=0.3), torch.nn.BatchNorm1d(E, momentum=0.3)
    for _ in range(3):
        x = rng.normal(2.0, 3.0, (7, E)).astype(np.float32)
        y, ctx = ours.forward(x)
        np.testing.assert_allclose(y, theirs(torch.from_numpy(x)).detach(), rtol=1e-4, atol=1e-5)
        ours.backward(y, ctx)
    np.testing.assert_allclose(ours.mean.data, theirs.running_mean, rtol=1e-5)
    np.testing.assert_allclose(ours.variance.data, theirs.running_var, rtol=1e-5)
    x, theirs = rng.standard_normal((2, E), dtype=np.float32), theirs.eval()
    wanted = theirs(torch.from_numpy(x)).detach()
    np.testing.assert_allclose(ours(x), wanted, rtol=1e-5, atol=1e-6)


def test_an_inference_call_of_a_model_reaches_the_norm_in_it(rng):
    norm = nn.BatchNorm(E)
    norm.mean.data[...] = 5.0
    model = nn.Sequential(nn.Linear(E, E), norm)
    x = rng.standard_normal((B, E), dtype=np.float32)
    np.testing.assert_array_equal(model(x), norm(model.layers[0](x)))
    assert abs(model.forward(x)[0].mean()) < 1e-5  # the batch's own mean
    assert model(x).mean() < -4.0
    assert abs(model.forward(x)[0].mean()) < 1e-5  # and again, after an inference call


def test_only_a_backward_of_a_trainable_layer_moves_the_statistics(rng):
    norm = nn.BatchNorm(E)
    x = rng.standard_normal((B, E), dtype=np.float32) + 1
    y, ctx = norm.forward(x)
    norm(x)
    assert not norm.mean.data.any()
    norm.freeze().backward(y, ctx)
    assert not norm.mean.data.any()
    norm.unfreeze().backward(y, ctx)
    np.testing.assert_allclose(norm.mean.data, 0.1 * x.mean(axis=0), rtol=1e-5)
    assert [name for name, p in norm.named_parameters() if p.trainable] == ["weight", "bias"]


def test_statistics_are_saved_and_no_optimizer_touches_them(tmp_path, rng):
    norm = nn.BatchNorm(E)
    y, ctx = norm.forward(rng.standard_normal((B, E), dtype=np.float32))
    norm.backward(y, ctx)
    before = norm.mean.data.copy()
    optim.AdamW(norm.named_parameters(), lr=0.1, weight_decay=0.5).step()
    np.testing.assert_array_equal(norm.mean.data, before)
    checkpoint.save(tmp_path / "a", norm)
    twin = nn.BatchNorm(E)
    checkpoint.load(tmp_path / "a", into=twin)
    np.testing.assert_array_equal(twin.mean.data, before)
    np.testing.assert_array_equal(twin.variance.data, norm.variance.data)
    assert not twin.mean.trainable


def test_one_vector_and_none(rng):
    norm = nn.BatchNorm(E)
    x = rng.standard_normal((1, 2, E), dtype=np.float32)
    y, ctx = norm.forward(x, lengths=[1])
    norm.backward(y, ctx)
    assert not y.any()
    assert np.isfinite(norm.variance.data).all()
    moved = norm.mean.data.copy()
    y, ctx = norm.forward(x, lengths=[0])
    norm.backward(y, ctx)
    np.testing.assert_array_equal(norm.mean.data, moved)
