"""Rotary positions: both conventions against complex numbers, distances, layouts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import miniattn.functional as F


def turned(x, positions, base=10000.0, interleaved=False):
    """Rotation as a product of complex numbers, in float64."""
    x = x.astype(np.float64)
    width = x.shape[-1]
    if positions.ndim == 2:
        positions = positions[:, None, :]
    angle = positions[..., None] * base ** (-np.arange(0, width, 2) / width)
    if interleaved:
        z = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angle)
        return np.stack([z.real, z.imag], axis=-1).reshape(x.shape)
    z = (x[..., : width // 2] + 1j * x[..., width // 2 :]) * np.exp(1j * angle)
    return np.concatenate([z.real, z.imag], axis=-1)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2, 3, 5, 8), (3, 5, 6), (5, 2), (1, 1, 1, 64)])
def test_against_complex_numbers(shape, dtype, interleaved, rng):
    x = rng.normal(size=shape).astype(dtype)
    positions = rng.integers(0, 50, shape[-2])
    y = F.rotary(x, positions, interleaved=interleaved)
    assert y.dtype == dtype
    np.testing.assert_allclose(
        y, turned(x, positions, interleaved=interleaved), rtol=0, atol=8 * np.finfo(dtype).eps
    )


def test_positions_of_each_batch_row(rng):
    x = rng.normal(size=(2, 3, 4, 6))
    positions = np.array([[0, 1, 2, 3], [7, 8, 9, 10]])
    np.testing.assert_allclose(F.rotary(x, positions), turned(x, positions), atol=1e-14)
    np.testing.assert_array_equal(F.rotary(x, positions)[1], F.rotary(x[1], positions[1]))


@pytest.mark.parametrize("steps", [4, 300])  # one thread, and many
@pytest.mark.parametrize("per_batch", [False, True])
def test_heads_behind_steps_in_memory(steps, per_batch, rng):
    x = rng.normal(size=(2, steps, 3, 16)).transpose(0, 2, 1, 3)
    positions = rng.integers(0, 99, (2, steps) if per_batch else steps)
    for interleaved in (False, True):
        y = F.rotary(x, positions, interleaved=interleaved)
        np.testing.assert_allclose(y, turned(x, positions, interleaved=interleaved), atol=1e-14)
        np.testing.assert_array_equal(
            y, F.rotary(np.ascontiguousarray(x), positions, interleaved=interleaved)
        )


def test_scores_depend_on_distance_alone(rng):
    q, k = rng.normal(size=(2, 6, 16))
    for interleaved in (False, True):
        scores = [
            F.rotary(q, np.arange(6) + shift, interleaved=interleaved)
            @ F.rotary(k, np.arange(6) + shift, interleaved=interleaved).T
            for shift in (0, 1000)
        ]
        np.testing.assert_allclose(*scores, atol=1e-11)


def test_position_0_changes_nothing(rng):
    x = rng.normal(size=(4, 8)).astype(np.float32)
    np.testing.assert_array_equal(F.rotary(x, np.zeros(4, int)), x)


def test_backward_turns_back(rng):
    x = rng.normal(size=(2, 3, 5, 8))
    for interleaved in (False, True):
        y, ctx = F.rotary_forward(x, np.arange(5) * 11, base=500.0, interleaved=interleaved)
        np.testing.assert_allclose(F.rotary_backward(y, ctx), x, atol=1e-14)


def test_float32_is_exact_at_large_positions(rng):
    x = rng.normal(size=(3, 64)).astype(np.float32)
    positions = np.array([100_000, 1_000_003, 2**31])
    np.testing.assert_allclose(F.rotary(x, positions), turned(x, positions), rtol=0, atol=1e-6)


@given(step=st.integers(1, 2), heads_last=st.booleans(), count=st.integers(0, 3))
def test_strides_and_layout(step, heads_last, count):
    rng = np.random.default_rng(0)
    big = rng.normal(size=(count, 5, 2 * step, 8))
    x = big[:, :, ::step].transpose(0, 2, 1, 3) if heads_last else big[:, :2]
    y, ctx = F.rotary_forward(x, np.arange(x.shape[2]))
    np.testing.assert_allclose(y, turned(x, np.arange(x.shape[2])), atol=1e-14)
    assert not np.may_share_memory(x, y)
    if heads_last and step == 1 and count:
        assert y.transpose(0, 2, 1, 3).flags.c_contiguous  # heads merge without a copy
    assert F.rotary_backward(y, ctx).shape == x.shape


def test_wrong_calls():
    x, positions = np.zeros((2, 3, 4, 6)), np.arange(4)
    with pytest.raises(ValueError, match="even D, got"):
        F.rotary(x[..., :5], positions)
    with pytest.raises(ValueError, match=r"positions: expected shape \(T\) with T = 4"):
        F.rotary(x, np.arange(3))
    with pytest.raises(ValueError, match=r"positions: expected shape \(B, T\)"):
        F.rotary(x, np.zeros((3, 4), int))
    with pytest.raises(ValueError, match=r"x: expected shape \(B, H, T, D\)"):
        F.rotary(x[0], np.zeros((2, 4), int))
    with pytest.raises(TypeError, match="positions: expected an integer array"):
        F.rotary(x, positions * 1.0)
    with pytest.raises(ValueError, match="base: expected a number > 0"):
        F.rotary(x, positions, base=0.0)


def test_against_torch_llama(rng):
    torch = pytest.importorskip("torch")
    x = rng.normal(size=(2, 3, 7, 10))
    t = torch.tensor(x, requires_grad=True)
    angle = torch.outer(
        torch.arange(7.0).double(), 10000 ** (-torch.arange(0, 10, 2).double() / 10)
    )
    cos, sin = (torch.cat([f(angle)] * 2, dim=-1) for f in (torch.cos, torch.sin))
    half = torch.cat([-t[..., 5:], t[..., :5]], dim=-1)
    output = t * cos + half * sin
    dy = rng.normal(size=x.shape)
    output.backward(torch.tensor(dy))
    y, ctx = F.rotary_forward(x, np.arange(7))
    np.testing.assert_allclose(y, output.detach().numpy(), atol=1e-14)
    np.testing.assert_allclose(F.rotary_backward(dy, ctx), t.grad.numpy(), atol=1e-14)


def test_a_part_is_turned_and_the_rest_copied(rng):
    x = rng.normal(size=(2, 3, 4, 7)).astype(np.float32)
    at = np.arange(4)
    y = F.rotary(x, at, dim=4)
    np.testing.assert_array_equal(y[..., :4], F.rotary(x[..., :4], at))
    np.testing.assert_array_equal(y[..., 4:], x[..., 4:])
    given = F.rotary(x, at, frequencies=[1.0, 0.01])
    np.testing.assert_array_equal(given, y)
    np.testing.assert_allclose(
        F.rotary(x, at, dim=4, magnitude=2.0)[..., :4], 2 * y[..., :4], rtol=1e-6
    )
    for wrong in ({"dim": 3}, {"dim": 8}, {"dim": 2, "frequencies": [1.0, 2.0]}):
        with pytest.raises(ValueError, match=r"^(dim|frequencies): expected"):
            F.rotary(x, at, **wrong)
