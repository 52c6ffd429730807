"""Attention under other normalizers than softmax, on the options of `test_units`, against float64.

What they weigh is compared with `reference`, whose threshold is found by sorting, and with the form
written out in NumPy, whose threshold is found by rows.
"""

import numpy as np
import pytest
from test_units import OPTIONS, cast, operands

import miniattn as ma
import miniattn.functional as F
from miniattn import masks, nn, reference, trace
from miniattn.functional import _explicit
from miniattn.kernels.attention.whole.rows import LONG

NORMALIZERS = ("sigmoid", "sparsemax", "entmax15")
WORTH_COMPARING = ("a window", "a bool array", "a function", "a sink", "dropout", "all of it")


def flat(grads):
    """The gradients by name; of a score's tables the first."""
    found = {name: x for name, x in grads._asdict().items() if x is not None}
    if "dscore" in found:
        found["dscore"] = found["dscore"][0]
    return found


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", WORTH_COMPARING)
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_kernels_and_written_out_against_the_reference(normalizer, case, dtype, rng):
    options = cast(OPTIONS[case](rng), dtype)
    if normalizer == "sigmoid":
        options.pop("sink", None)
    *inputs, dout = operands(rng, dtype)
    draws = {"rng": np.random.default_rng(5)} if "dropout" in options else {}
    out, ctx = F.attention_forward(*inputs, **options, **draws, normalizer=normalizer)
    grads = flat(F.attention_backward(dout, ctx))
    written, made = _explicit.forward(ctx, lambda name, x: x)
    by_hand = flat(_explicit.backward(dout, ctx, None, made, lambda name, x: x))
    if "dropout" in options:
        options["keep"] = np.asarray(_explicit._kept(ctx)) > 0
    exact = reference.attention(*inputs, **options, normalizer=normalizer)
    right = flat(reference.attention_backward(dout, *inputs, **options, normalizer=normalizer))
    assert grads.keys() == by_hand.keys() == right.keys()
    right |= {"out": exact.out, "weights": exact.weights}
    weights = F._attention.weights_of(ctx)
    for found in ({**grads, "out": out, "weights": weights}, {**by_hand, "out": written.out}):
        for name, x in found.items():
            size = np.abs(right[name]).max(initial=1.0)
            error = 24 * np.finfo(dtype).eps * size
            np.testing.assert_allclose(x, right[name], rtol=0, atol=error, err_msg=name)


def test_weights_are_those_of_the_rows(rng):
    q, k = rng.standard_normal((2, 3, 70, 8))
    scores = q @ k.swapaxes(1, 2) / np.sqrt(8)
    for normalizer, rows in (("sparsemax", F.sparsemax), ("entmax15", F.entmax15)):
        weights = F.attention_weights(q, k, normalizer=normalizer)
        np.testing.assert_allclose(weights, rows(scores), rtol=0, atol=1e-15)
        assert 0.1 < (weights == 0).mean() < 1
    weights = F.attention_weights(q, k, normalizer="sigmoid")
    np.testing.assert_allclose(weights, F.sigmoid(scores), rtol=1e-14)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_rows_that_see_nothing_and_hidden_poison(normalizer, rng):
    q, k, v = rng.standard_normal((3, 2, 1, 70, 5))
    mask = masks.padding([60, 0])
    clean, _ = F.attention_forward(q, k, v, mask=mask, normalizer=normalizer)
    k[0, :, 65], v[0, :, 66] = np.nan, np.inf
    out, ctx = F.attention_forward(q, k, v, mask=mask, normalizer=normalizer)
    np.testing.assert_array_equal(out, clean)
    assert not out[1].any()
    for dx in F.attention_backward(np.ones_like(out), ctx)[:3]:
        assert np.isfinite(dx).all()
        assert not dx[1].any()


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_a_visible_nan_spoils_its_row_alone(normalizer, rng):
    q, k, v = rng.standard_normal((3, 70, 5))
    clean = F.attention(q, k, v, mask=masks.causal(), normalizer=normalizer)
    q[3] = np.nan
    out = F.attention(q, k, v, mask=masks.causal(), normalizer=normalizer)
    assert np.isnan(out[3]).all()
    np.testing.assert_array_equal(np.delete(out, 3, 0), np.delete(clean, 3, 0))
    weights = F.attention_weights(q, k, mask=masks.causal(), normalizer=normalizer)
    assert np.isnan(weights[3, :4]).all()
    assert not weights[3, 4:].any()


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_the_number_of_threads_changes_no_bit(normalizer, rng):
    q, k, v, dout = rng.standard_normal((4, 1, 2, 200, 16))

    def bits(threads):
        with ma.runtime.threads(threads):
            out, ctx = F.attention_forward(q, k, v, normalizer=normalizer, mask=masks.causal())
            grads = F.attention_backward(dout, ctx)[:3]
            return [x.tobytes() for x in (out, F._attention.weights_of(ctx), *grads)]

    assert bits(1) == bits(2)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_long_rows_are_held_for_fewer_queries(normalizer, rng):
    q, k, v = (rng.standard_normal((n, 3)) for n in (20, LONG + 70, LONG + 70))
    out, ctx = F.attention_forward(q, k, v, normalizer=normalizer)
    rows = {"sigmoid": F.sigmoid, "sparsemax": F.sparsemax, "entmax15": F.entmax15}[normalizer]
    weights = rows(q @ k.T / np.sqrt(3))
    np.testing.assert_allclose(F._attention.weights_of(ctx), weights, rtol=0, atol=1e-14)
    np.testing.assert_allclose(out, weights @ v, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_huge_scores_are_done_in_float64(normalizer, rng):
    q, k, v = (x.astype(np.float32) for x in rng.standard_normal((3, 20, 4)))
    q *= 1e15
    out, ctx = F.attention_forward(q, k, v, normalizer=normalizer)
    assert ctx.stats.dtype == np.float64
    want = F.attention(*(x.astype(np.float64) for x in (q, k, v)), normalizer=normalizer)
    np.testing.assert_allclose(out, want, rtol=1e-6)


def test_lse_is_softmax_s_alone(rng):
    q, k, v = rng.standard_normal((3, 6, 4))
    for normalizer in NORMALIZERS:
        assert np.isnan(F.attention_forward(q, k, v, normalizer=normalizer)[1].lse).all()


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_a_trace_and_its_edits_follow_the_normalizer(normalizer, rng):
    attn = nn.MultiHeadAttention(8, 2, normalizer=normalizer, rng=rng, dtype=np.float64)
    assert normalizer in repr(attn)
    x, dy = rng.standard_normal((2, 1, 6, 8))
    y, t = trace.run(attn, x, mask=masks.causal())
    plain, ctx = attn.forward(x, mask=masks.causal())
    np.testing.assert_array_equal(y, plain)
    np.testing.assert_allclose(t["weights"], attn.weights(ctx), atol=1e-15)
    kept = trace.run(attn, x, mask=masks.causal(), edits={"scores": trace.scale(1.0)})
    np.testing.assert_allclose(kept[0], y, atol=1e-14)
    one, other = t.gradients(dy), kept[1].gradients(dy)
    for name in ("weights", "scores", "input"):
        np.testing.assert_allclose(one[name], other[name], atol=1e-13, err_msg=name)
