"""Attention in parts: merged exactly, and with gradients that are those of the whole."""

import numpy as np
import pytest

import miniattn as ma
import miniattn.functional as F
from miniattn import masks
from miniattn.kernels.attention.units import FEW_QUERIES

PARTS = (slice(0, 40), slice(40, 41), slice(41, 83))


def whole_and_parts(T, dtype, rng, **options):
    """The gradients of attention over all keys, and those that merging hands to its parts."""
    shapes = (2, 4, T, 8), (2, 2, 83, 8), (2, 2, 83, 5), (2, 4, T, 5), (2, 4, T)
    q, k, v, dout, dlse = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    mask = rng.random((T, 83)) < 0.5
    mask[0] = False
    mask[-1, :50] = False
    out, ctx = F.attention_forward(q, k, v, mask=mask, **options)
    want = [out, *F.attention_backward(dout, ctx, dlse=dlse)[:3]]
    parts = [
        F.attention_forward(q, k[:, :, s], v[:, :, s], mask=mask[:, s].copy(), **options)
        for s in PARTS
    ]
    merged, merge = F.merge_attention_forward([o for o, _ in parts], [c for _, c in parts])
    douts, dlses = F.merge_attention_backward(dout, merge, dlse=dlse)
    grads = [F.attention_backward(douts[n], c, dlse=dlses[n]) for n, (_, c) in enumerate(parts)]
    got = [
        merged,
        sum(g.dq for g in grads),
        np.concatenate([g.dk for g in grads], axis=2),
        np.concatenate([g.dv for g in grads], axis=2),
    ]
    return got, want


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("unit", ["scalar", "decode", "vector", "auto"])
def test_gradients_of_parts_are_those_of_the_whole(unit, dtype, rng):
    T = FEW_QUERIES if unit == "decode" else 70
    with ma.runtime.use(unit):
        got, want = whole_and_parts(T, dtype, rng, softcap=3.0)
    for name, x, y in zip(("out", "dq", "dk", "dv"), got, want, strict=True):
        error = 24 * np.finfo(dtype).eps * np.abs(y).max()
        np.testing.assert_allclose(x, y, rtol=0, atol=error, err_msg=name)
    assert not got[1][:, :, 0].any()  # the row that sees nothing


def test_the_gradient_of_lse_by_differences(rng):
    def forward(q, k, v):
        _, ctx = F.attention_forward(q, k, v, mask=masks.causal(), scale=0.7)
        return ctx.lse, ctx

    def backward(dlse, ctx):
        grads = F.attention_backward(np.zeros_like(ctx.out), ctx, dlse=dlse)
        return grads.dq, grads.dk, grads.dv

    q, k, v = rng.standard_normal((3, 2, 5, 4))
    ma.gradcheck(forward, (q, k, v), backward=backward)


def test_the_gradient_of_a_merged_lse_by_differences(rng):
    def forward(outs, lses):
        _, ctx = F.merge_attention_forward(outs, lses)
        return ctx.lse, ctx

    def backward(dlse, ctx):
        grads = F.merge_attention_backward(np.zeros_like(ctx.out), ctx, dlse=dlse)
        return grads.douts, grads.dlses

    inputs = {"outs": rng.standard_normal((3, 4, 2)), "lses": rng.standard_normal((3, 4))}
    ma.gradcheck(forward, inputs, backward=backward)


def test_scores_too_large_for_float32_keep_the_gradient_of_lse(rng):
    """The call is done in float64, and dlse goes along."""
    q, k, v = (1e3 * rng.standard_normal((3, 6, 8))).astype(np.float32)
    dlse = rng.standard_normal(6).astype(np.float32)
    found = []
    for dtype in (np.float32, np.float64):
        out, ctx = F.attention_forward(q.astype(dtype), k.astype(dtype), v.astype(dtype))
        zero = np.zeros_like(out)
        found.append(F.attention_backward(zero, ctx, dlse=dlse.astype(dtype)).dk)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)
    assert found[0].any()


def test_a_part_without_a_share_gets_nothing():
    outs, lses = np.ones((2, 3, 2)), np.zeros((2, 3))
    outs[1], lses[1] = 0, -np.inf
    _, ctx = F.merge_attention_forward(outs, lses)
    dout = np.full((3, 2), np.nan)
    grads = F.merge_attention_backward(dout, ctx)
    assert not grads.douts[1].any()
    assert not grads.dlses[1].any()
    assert np.isnan(grads.douts[0]).all()
