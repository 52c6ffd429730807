"""Attention against its formula in float64: every argument, ragged sizes, layouts, few queries.

The fixed semantics that all operations share (poison, threads, dtypes, empties) are in
test_semantics.py; here is what belongs to attention alone.
"""

import hypothesis
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import miniattn as ma
import miniattn.functional as F
from miniattn import masks
from miniattn.functional import _attention_calls
from miniattn.kernels.attention.masking import (
    ALL_GROUPS,
    GROUP,
    PARTIAL,
    Rule,
    Tile,
    keys_seen,
    queries_that_see,
    visible,
)
from miniattn.kernels.compile.tables import address_of
from miniattn.masks._array import borrowed


def formula(q, k, v, *, mask=None, bias=None, scale=None, softcap=None, dtype=np.float64):
    """Attention as it is written, in NumPy: (weights, out, lse, slopes of the softcap)."""
    B, H, T, D = q.shape
    G, S = k.shape[1:3]
    q, k, v = (x.astype(dtype) for x in (q, k, v))
    k, v = np.repeat(k, H // G, axis=1), np.repeat(v, H // G, axis=1)
    scores = q @ k.swapaxes(-1, -2) * dtype(D**-0.5 if scale is None else scale)
    slopes = np.ones_like(scores)
    if softcap is not None:
        t = np.tanh(scores / dtype(softcap))
        scores, slopes = dtype(softcap) * t, 1 - t * t
    if bias is not None:
        scores = scores + bias.astype(dtype)
    if mask is not None:
        scores = np.where(masks.as_mask(mask).to_array(B, H, T, S), scores, -np.inf)
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    top = np.where(top == -np.inf, 0, top)
    e = np.exp(scores - top)
    total = e.sum(axis=-1, keepdims=True)
    weights = e / np.where(total == 0, 1, total)
    with np.errstate(divide="ignore"):
        lse = (top + np.log(total))[..., 0]
    return weights, weights @ v, lse, slopes


def gradients(dout, q, k, v, bias=None, scale=None, dtype=np.float64, **options):
    """The gradients as the derivation page writes them, in NumPy."""
    B, H, _, D = q.shape
    G, S = k.shape[1:3]
    P, _, _, slopes = formula(q, k, v, bias=bias, scale=scale, dtype=dtype, **options)
    dout, q, k, v = (x.astype(dtype) for x in (dout, q, k, v))
    k_all, v_all = np.repeat(k, H // G, axis=1), np.repeat(v, H // G, axis=1)
    dP = dout @ v_all.swapaxes(-1, -2)
    dS = P * (dP - (P * dP).sum(axis=-1, keepdims=True))
    scale = dtype(D**-0.5 if scale is None else scale)
    dq = scale * (dS * slopes) @ k_all
    dk = scale * (dS * slopes).swapaxes(-1, -2) @ q
    dv = P.swapaxes(-1, -2) @ dout
    dk, dv = (x.reshape(B, G, H // G, S, x.shape[-1]).sum(axis=2) for x in (dk, dv))
    dbias = None
    if bias is not None:
        own = (1,) * (4 - bias.ndim) + bias.shape
        dbias = dS
        for axis in range(4):
            if own[axis] == 1:
                dbias = dbias.sum(axis=axis, keepdims=True)
        dbias = dbias.reshape(bias.shape)
    return dq, dk, dv, dbias


def assert_as_good_as_numpy(got, exact, numpy, floor=2e-6):
    """Error at most twice that of plain NumPy in the same precision, plus a small floor."""
    size = max(1.0, float(np.abs(exact).max(initial=0)))
    if got.dtype == np.float64:
        floor *= 2e-8
    allowed = 2 * np.abs(numpy - exact).max(initial=0) + floor * size
    assert got.shape == exact.shape
    assert np.abs(got - exact).max(initial=0) <= allowed


def draw(rng, dtype, B, H, G, T, S, D, Dv):
    shapes = ((B, H, T, D), (B, G, S, D), (B, G, S, Dv), (B, H, T, Dv))
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def check(q, k, v, dout, **options):
    """Compare out, lse, weights and all gradients with the formula."""
    out, ctx = F.attention_forward(q, k, v, **options)
    P, exact, lse, _ = formula(q, k, v, **options)
    P_numpy, numpy, lse_numpy, _ = formula(q, k, v, dtype=q.dtype.type, **options)
    assert_as_good_as_numpy(out, exact, numpy)
    seen = lse != -np.inf
    np.testing.assert_array_equal(ctx.lse == -np.inf, ~seen)
    assert_as_good_as_numpy(ctx.lse[seen], lse[seen], lse_numpy[seen])
    weights = F.attention_weights(
        q, k, **{name: x for name, x in options.items() if name != "dropout"}
    )
    assert_as_good_as_numpy(weights, P, P_numpy)
    grads = F.attention_backward(dout, ctx)
    exact_grads = gradients(dout, q, k, v, **options)
    numpy_grads = gradients(dout, q, k, v, dtype=q.dtype.type, **options)
    for got, want, plain in zip(grads, exact_grads, numpy_grads, strict=True):
        assert (got is None) == (want is None)
        if got is not None:
            assert_as_good_as_numpy(got, want, plain, floor=8e-6)


MASKS = {
    "none": lambda rng, B, H, T, S: None,
    "causal": lambda rng, B, H, T, S: masks.causal(),
    "top-left": lambda rng, B, H, T, S: masks.causal(0),
    "window": lambda rng, B, H, T, S: masks.window(5, 3, 0, sinks=2),
    "padding": lambda rng, B, H, T, S: masks.padding(rng.integers(0, S + 1, B)),
    "documents": lambda rng, B, H, T, S: masks.documents(
        np.sort(rng.integers(0, 4, (B, T)), axis=1), np.sort(rng.integers(0, 4, (B, S)), axis=1)
    ),
    "dense": lambda rng, B, H, T, S: rng.random((B, 1, T, S)) < 0.3,
    "keys": lambda rng, B, H, T, S: rng.random((1, H, 1, S)) < 0.5,
    "queries": lambda rng, B, H, T, S: rng.random((B, 1, T, 1)) < 0.5,
    "dense band": lambda rng, B, H, T, S: (
        masks.as_mask(rng.random((B, H, T, S)) < 0.7) & masks.window(20, 9)
    ),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(
    ("B", "H", "G", "T", "S", "D", "Dv"),
    [
        (2, 4, 2, 64, 64, 16, 16),
        (1, 2, 1, 100, 130, 20, 33),
        (1, 1, 1, 150, 70, 80, 48),
        (2, 2, 2, 1, 150, 64, 64),
        (1, 4, 2, 3, 1100, 24, 5),
        (1, 1, 1, 5, 7, 3, 2),
    ],
)
def test_against_the_formula(dtype, mask, B, H, G, T, S, D, Dv):
    rng = np.random.default_rng(0)
    q, k, v, dout = draw(rng, dtype, B, H, G, T, S, D, Dv)
    rule = MASKS[mask](rng, B, H, T, S)
    check(q, k, v, dout, mask=rule)
    bias = rng.standard_normal((1, H, T, S)).astype(dtype)
    check(q, k, v, dout, mask=rule, bias=bias, softcap=2.0, scale=0.4)
    check(q, k, v, dout, mask=rule, bias=bias[0, 0, 0])
    check(q, k, v, dout, mask=rule, bias=bias[0, :, :, :1])


def test_forward_and_backward_at_a_glance():
    """A little of everything in float32, compiled for each register width in test_simd.py."""
    rng = np.random.default_rng(1)
    q, k, v, dout = draw(rng, np.float32, 1, 2, 1, 70, 90, 20, 12)
    options = {"mask": masks.causal() & masks.padding([80]), "softcap": 3.0}
    out, ctx = F.attention_forward(q, k, v, **options)
    np.testing.assert_allclose(out, formula(q, k, v, **options)[1], atol=2e-6)
    wanted = gradients(dout, q, k, v, **options)
    for got, want in zip(F.attention_backward(dout, ctx)[:3], wanted[:3], strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    T=st.integers(0, 140),
    S=st.integers(0, 140),
    D=st.integers(0, 70),
    Dv=st.integers(0, 40),
    group=st.sampled_from([1, 2, 3]),
    mask=st.sampled_from(sorted(MASKS)),
    layout=st.sampled_from(["plain", "heads inside", "every second", "reversed"]),
)
def test_any_shape_and_layout(seed, T, S, D, Dv, group, mask, layout):
    rng = np.random.default_rng(seed)
    arrays = draw(rng, np.float32, 2, 2 * group, 2, T, S, D, Dv)
    rule = MASKS[mask](rng, 2, 2 * group, T, S)
    plain, ctx = F.attention_forward(*arrays[:3], mask=rule)
    grads = F.attention_backward(arrays[3], ctx)

    def again(x):
        if layout == "heads inside":
            return np.ascontiguousarray(x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
        if layout == "every second":
            wide = np.full((*x.shape[:2], 2 * x.shape[2], x.shape[3] + 3), np.nan, x.dtype)
            wide[:, :, ::2, : x.shape[3]] = x
            return wide[:, :, ::2, : x.shape[3]]
        if layout == "reversed":
            return np.ascontiguousarray(x[:, :, ::-1, ::-1])[:, :, ::-1, ::-1]
        return x

    moved = [again(x) for x in arrays]
    out, ctx = F.attention_forward(*moved[:3], mask=rule)
    np.testing.assert_array_equal(out, plain)
    for got, want in zip(F.attention_backward(moved[3], ctx)[:3], grads[:3], strict=True):
        np.testing.assert_array_equal(got, want)
    _, exact, _, _ = formula(*arrays[:3], mask=rule, scale=1 / max(1, D) ** 0.5)
    np.testing.assert_allclose(out, exact, atol=1e-5)


def test_memory_layout_of_heads_is_kept():
    x = np.zeros((2, 5, 3, 8), np.float32).transpose(0, 2, 1, 3)  # (B, H, T, D) in (B, T, H, D)
    out, ctx = F.attention_forward(x, x, x)
    grads = F.attention_backward(np.zeros_like(out), ctx)
    for y in (out, *grads[:3]):
        assert y.transpose(0, 2, 1, 3).flags.c_contiguous


@pytest.mark.parametrize("shape", [(9, 4), (2, 9, 4), (3, 2, 9, 4)])
def test_missing_leading_axes(shape):
    rng = np.random.default_rng(2)
    q, k, v, dout = (rng.standard_normal(shape) for _ in range(4))
    four = [x.reshape((1,) * (4 - x.ndim) + x.shape) for x in (q, k, v, dout)]
    out, ctx = F.attention_forward(q, k, v, mask=masks.causal())
    full, full_ctx = F.attention_forward(*four[:3], mask=masks.causal())
    assert out.shape == shape
    assert ctx.lse.shape == shape[:-1]
    np.testing.assert_array_equal(out, full.reshape(shape))
    grads = F.attention_backward(dout, ctx)
    full_grads = F.attention_backward(four[3], full_ctx)
    for got, want in zip(grads[:3], full_grads[:3], strict=True):
        np.testing.assert_array_equal(got, want.reshape(shape))
    assert F.attention_weights(q, k).shape == (*shape[:-1], shape[-2])


@pytest.mark.parametrize(
    "shape", [(2, 4, 70, 90), (1, 4, 1, 90), (2, 1, 70, 1), (90,), (70, 1), (4, 1, 1), ()]
)
def test_gradient_of_bias_has_its_shape(shape):
    rng = np.random.default_rng(3)
    q, k, v, dout = draw(rng, np.float64, 2, 4, 2, 70, 90, 8, 8)
    check(q, k, v, dout, mask=masks.causal(), bias=rng.standard_normal(shape))


def test_dropout_is_the_same_in_both_directions():
    rng = np.random.default_rng(4)
    q, k, _, _ = draw(rng, np.float64, 1, 2, 2, 70, 80, 8, 8)
    v = np.broadcast_to(np.eye(80), (1, 2, 80, 80))  # so that out is what is left of the weights
    dropped, ctx = F.attention_forward(q, k, v, dropout=0.3, rng=np.random.default_rng(7))
    weights = F.attention_weights(q, k)
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], weights[kept] / 0.7, rtol=1e-12)
    assert kept.mean() == pytest.approx(0.7, abs=0.02)
    dout = rng.standard_normal(dropped.shape)
    grads = F.attention_backward(dout, ctx)
    scale = kept / 0.7
    np.testing.assert_allclose(grads.dv, (weights * scale).swapaxes(-1, -2) @ dout, atol=1e-12)
    dP = dout * scale
    dS = weights * (dP - (weights * dP).sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(grads.dq, dS @ k / np.sqrt(8), atol=1e-12)
    np.testing.assert_allclose(grads.dk, dS.swapaxes(-1, -2) @ q / np.sqrt(8), atol=1e-12)


def test_dropout_depends_on_the_place_alone():
    """The same entries whether computed by many queries or by few, which takes another kernel."""
    rng = np.random.default_rng(5)
    q, k, _, _ = draw(rng, np.float32, 1, 1, 1, 70, 600, 8, 8)
    v = np.eye(600, dtype=np.float32)[None, None]
    many = F.attention(q, k, v, dropout=0.5, rng=np.random.default_rng(1))
    few = F.attention(q[:, :, :2], k, v, dropout=0.5, rng=np.random.default_rng(1))
    np.testing.assert_array_equal(many[:, :, :2] == 0, few == 0)
    other = F.attention(q, k, v, dropout=0.5, rng=np.random.default_rng(2))
    assert ((many == 0) == (other == 0)).mean() == pytest.approx(0.5, abs=0.02)


def test_random_numbers_are_unrelated():
    """Neither rows, columns, heads nor batch rows of the dropout pattern go together."""
    v = np.broadcast_to(np.eye(512, dtype=np.float32), (2, 2, 512, 512))
    zero = np.zeros((2, 2, 512, 1), np.float32)
    out = F.attention(zero, zero, v, dropout=0.5, rng=np.random.default_rng(0))
    sign = np.where(out == 0, -1.0, 1.0)
    limit = 5 / np.sqrt(512 * 512)  # five standard deviations of a mean of so many
    for shift in (1, 2, 16, 64):
        for axis in (2, 3):
            assert abs((sign * np.roll(sign, shift, axis)).mean()) < limit
    assert abs((sign[0] * sign[1]).mean()) < limit
    assert abs((sign[:, 0] * sign[:, 1]).mean()) < limit
    assert np.abs(sign.mean(axis=3)).max() < 6 / np.sqrt(512)
    assert np.abs(sign.mean(axis=2)).max() < 6 / np.sqrt(512)


@pytest.mark.parametrize("T", [1, 100])
@pytest.mark.parametrize("where", ["k", "v", "bias", "q", "dout"])
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_poison_inside_a_partial_tile(T, where, poison):
    """A value hidden from some queries of a tile reaches the others only: 0 * NaN is the trap."""
    rng = np.random.default_rng(6)
    q, k, v, dout = draw(rng, np.float32, 1, 1, 1, T, 100, 12, 12)
    bias = rng.standard_normal((1, 1, T, 100)).astype(np.float32)
    visible = rng.random((T, 100)) < 0.5
    visible[:, 40] = np.arange(T) % 2 == 1  # hidden from even queries
    visible[T // 2, :] = False
    clean, clean_ctx = F.attention_forward(q, k, v, mask=visible, bias=bias)
    clean_grads = F.attention_backward(dout, clean_ctx)
    row = T // 2  # sees nothing
    if where in ("k", "v"):
        {"k": k, "v": v}[where][0, 0, 40, 3] = poison
        spared_q, spared_k = ~visible[:, 40], np.zeros(100, bool)
    elif where == "bias":
        bias[..., ~visible] = poison
        spared_q, spared_k = np.ones(T, bool), np.ones(100, bool)
    else:
        {"q": q, "dout": dout}[where][0, 0, row, 3] = poison
        spared_q, spared_k = np.arange(T) != row, np.ones(100, bool)
    out, ctx = F.attention_forward(q, k, v, mask=visible, bias=bias)
    grads = F.attention_backward(dout, ctx)
    np.testing.assert_allclose(out[0, 0, spared_q], clean[0, 0, spared_q], atol=1e-5)
    np.testing.assert_allclose(grads.dq[0, 0, spared_q], clean_grads.dq[0, 0, spared_q], atol=1e-4)
    for got, want in ((grads.dk, clean_grads.dk), (grads.dv, clean_grads.dv)):
        np.testing.assert_allclose(got[0, 0, spared_k], want[0, 0, spared_k], atol=1e-4)
    assert grads.dbias is not None
    assert (grads.dbias[0, 0][~visible] == 0).all()
    if where in ("k", "v") and T > 1:
        assert np.isnan(out[0, 0, visible[:, 40]]).any() or poison == np.inf


def test_bits_do_not_depend_on_threads_or_parts():
    rng = np.random.default_rng(8)
    for shape in ((1, 2, 1, 300, 300, 16, 16), (1, 1, 1, 1, 3000, 32, 32), (3, 2, 2, 50, 60, 8, 8)):
        q, k, v, dout = draw(rng, np.float32, *shape)
        results = []
        for threads in (1, 2):
            before = numba.get_num_threads()
            numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
            out, ctx = F.attention_forward(q, k, v, mask=masks.causal())
            results.append((out, ctx.lse, *F.attention_backward(dout, ctx)[:3]))
            numba.set_num_threads(before)
        for one, two in zip(*results, strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("bins", [(1, 1), (7, 5), (64, 64), (150, 3), (1000, 1000)])
def test_map_is_the_pooled_weights(bins):
    rng = np.random.default_rng(9)
    q, k, _, _ = draw(rng, np.float64, 2, 2, 1, 150, 130, 8, 8)
    weights, _, _, _ = formula(q, k, k, mask=masks.causal())
    got = F.attention_map(q, k, mask=masks.causal(), bins=bins)
    rows, columns = min(bins[0], 150), min(bins[1], 130)
    r = np.arange(rows + 1) * 150 // rows
    c = np.arange(columns + 1) * 130 // columns
    sums = np.add.reduceat(np.add.reduceat(weights, r[:-1], axis=2), c[:-1], axis=3)
    np.testing.assert_allclose(got, sums / np.diff(r)[:, None], atol=1e-14)


def test_merging_is_attention_over_all_keys():
    rng = np.random.default_rng(10)
    q, k, v, _ = draw(rng, np.float64, 2, 3, 3, 40, 90, 8, 8)
    visible = rng.random((40, 90)) < 0.2
    visible[0] = False
    visible[1, :50] = False
    pieces = [slice(0, 50), slice(50, 51), slice(51, 90)]
    parts = [
        F.attention_forward(q, k[:, :, s], v[:, :, s], mask=visible[:, s].copy()) for s in pieces
    ]
    out, lse = F.merge_attention([o for o, _ in parts], [c.lse for _, c in parts])
    whole, ctx = F.attention_forward(q, k, v, mask=visible)
    np.testing.assert_allclose(out, whole, atol=1e-14)
    np.testing.assert_allclose(lse, ctx.lse, atol=1e-14)
    assert (out[:, :, 0] == 0).all()


def test_a_long_row_costs_no_matrix():
    """A T x S matrix of this size would take 16 GB."""
    x = np.ones((1, 1, 65_536, 4), np.float32)
    out = F.attention(x, x, x, mask=masks.window(8, 8))
    np.testing.assert_allclose(out, 1, rtol=1e-6)
    assert F.attention_map(x, x, mask=masks.window(8, 8), bins=(16, 16)).trace(0, 2, 3) > 15


# --- What is worked out once ----------------------------------------------------------------------


def test_plans_and_rules_are_made_once_for_the_same_layouts():
    x = np.ones((2, 3, 20, 8), np.float32)
    _attention_calls.plan_of.cache_clear()
    for _ in range(3):
        F.attention(x, x, x, mask=masks.causal())
    assert _attention_calls.plan_of.cache_info().misses == 1
    rules = _attention_calls._rules(masks.causal(), 2, 3, 20, 20)
    F.attention(x[:, :, :10], x, x, mask=masks.causal())
    assert _attention_calls.plan_of.cache_info().misses == 2
    assert _attention_calls._rules(masks.causal(), 2, 3, 20, 20) is rules
    assert _attention_calls._rules(masks.causal(), 2, 3, 10, 20) is not rules
    for documents in range(3):  # of other tiles, which are as many
        ids = np.arange(20) // (7 + documents)
        F.attention(x, x, x, mask=masks.documents(ids))
    assert _attention_calls.plan_of.cache_info().misses == 3
    assert len(_attention_calls._recent) <= _attention_calls._RECENT


@pytest.mark.parametrize("size", [4, 200])  # known by what it says, and too large for that
def test_a_bool_array_is_read_anew_at_each_call(size):
    """It is the user's own, and may have changed; masks never do."""
    x = np.eye(size, dtype=np.float32)
    array = np.ones((size, size), bool)
    mask = masks.as_mask(array)
    before = F.attention(x, x, x, mask=array)
    array[3], array[3, 0] = False, True
    np.testing.assert_array_equal(F.attention(x, x, x, mask=array)[3], x[0])
    np.testing.assert_array_equal(F.attention(x, x, x, mask=mask), before)


@pytest.mark.parametrize("combine", [lambda m: m, lambda m: borrowed(m) & masks.causal()])
@pytest.mark.parametrize("size", [4, 200])
def test_a_backward_sees_the_array_of_its_forward(size, combine, rng):
    q, k, v = rng.standard_normal((3, size, 8))
    array = rng.random((size, size)) < 0.5
    _, ctx = F.attention_forward(q, k, v, mask=combine(array))
    before = F.attention_backward(v, ctx)
    array[:] = ~array
    for got, was in zip(F.attention_backward(v, ctx)[:3], before[:3], strict=True):
        np.testing.assert_array_equal(got, was)


def test_another_number_of_threads_has_another_plan():
    x = np.ones((4, 4, 64, 16), np.float32)
    _attention_calls.plan_of.cache_clear()
    counts = {1, numba.config.NUMBA_NUM_THREADS}
    for threads in counts:
        with ma.threads(threads):
            F.attention(x, x, x)
    assert _attention_calls.plan_of.cache_info().misses == len(counts)


def test_an_array_is_found_where_numpy_says_it_is():
    for x in (np.empty(3), np.empty((4, 4))[1:, ::-1], np.empty(0), np.broadcast_to(1.0, (2, 2))):
        assert address_of(x) == x.__array_interface__["data"][0]


# --- Few queries take kernels of their own, in both directions ------------------------------------


def by_many(dout, *operands, **options):
    """Gradients by the kernels for many queries, whatever their number."""
    with ma.runtime.use("vector"):
        return F.attention_backward(dout, F.attention_forward(*operands, **options)[1])


@pytest.mark.parametrize("mask", [None, "causal", "padding", "dense", "empty rows"])
@pytest.mark.parametrize(
    ("T", "S", "D", "Dv", "G"),
    [(1, 70, 16, 32, 4), (3, 200, 20, 7, 2), (4, 1100, 8, 16, 1), (2, 1, 5, 3, 4)],
)
@pytest.mark.parametrize("options", [{}, {"softcap": 3.0}, {"dropout": 0.4}, {"bias": True}])
def test_gradients_of_few_queries(mask, T, S, D, Dv, G, options):
    B, H, rng = 2, 4, np.random.default_rng(S)
    q, dout = rng.standard_normal((B, H, T, D)), rng.standard_normal((B, H, T, Dv))
    k, v = rng.standard_normal((B, G, S, D)), rng.standard_normal((B, G, S, Dv))
    dense = rng.random((B, 1, T, S)) < 0.6
    options = dict(options)
    options["mask"] = {
        None: None,
        "causal": masks.causal(),
        "padding": masks.padding([S, S // 2]),
        "dense": dense,
        "empty rows": dense & (np.arange(T)[:, None] % 2 == 1),
    }[mask]
    if "bias" in options:
        options["bias"] = rng.standard_normal((1, H, T, S))

    def seeded():
        return {"rng": np.random.default_rng(7)} if "dropout" in options else {}

    few = F.attention_backward(dout, F.attention_forward(q, k, v, **options, **seeded())[1])
    many = by_many(dout, q, k, v, **options, **seeded())
    for name, a, b in zip(few._fields, few, many, strict=True):
        if a is not None:
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("poisoned", ["k", "v", "q", "dout"])
def test_hidden_poison_does_not_reach_the_gradients_of_few_queries(poisoned):
    rng = np.random.default_rng(0)
    arrays = {n: rng.standard_normal((1, 2, 3, 8)) for n in ("q", "dout")}
    arrays |= {n: rng.standard_normal((1, 2, 100, 8)) for n in ("k", "v")}
    mask = masks.padding([60]) if poisoned in "kv" else np.arange(300).reshape(3, 100) < 200

    def grads(arrays):
        ctx = F.attention_forward(arrays["q"], arrays["k"], arrays["v"], mask=mask)[1]
        return F.attention_backward(arrays["dout"], ctx)

    clean = grads(arrays)
    spoilt = {n: a.copy() for n, a in arrays.items()}
    spoilt[poisoned][:, :, -1, ::3] = np.nan
    found = grads(spoilt)
    assert np.isfinite(found.dk).all()
    np.testing.assert_allclose(found.dk, clean.dk, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found.dv, clean.dv, rtol=1e-12, atol=1e-14)
    if poisoned in "kv":
        np.testing.assert_allclose(found.dq, clean.dq, rtol=1e-12, atol=1e-14)


def test_a_bias_that_nobody_learns():
    rng = np.random.default_rng(0)
    q, k, v, dout = (rng.standard_normal((1, 2, 6, 4)) for _ in range(4))
    _, ctx = F.attention_forward(q, k, v, bias=rng.standard_normal((2, 6, 6)))
    with_it = F.attention_backward(dout, ctx)
    without = F.attention_backward(dout, ctx, needs=("q", "k", "v"))
    assert with_it.dbias is not None
    assert without.dbias is None
    for a, b in zip(with_it[:3], without[:3], strict=True):
        np.testing.assert_array_equal(a, b)
    for name in ("q", "k", "v", "bias"):
        only = F.attention_backward(dout, ctx, needs={name})._asdict()
        np.testing.assert_array_equal(only.pop(f"d{name}"), getattr(with_it, f"d{name}"))
        assert list(only.values()) == [None] * 3


# --- What bounds leave of a tile ------------------------------------------------------------------


@given(
    lo=st.integers(-90, 40),
    hi=st.integers(-40, 90),
    sinks=st.sampled_from([0, 3, 70, 100]),
    i0=st.sampled_from([0, 64, 128]),
    j0=st.sampled_from([0, 64]),
    n=st.integers(1, 64),
    m=st.integers(1, 64),
    shown=st.one_of(st.none(), st.integers(1, 2**16 - 1)),
)
@settings(max_examples=300, deadline=None)
def test_both_views_of_a_tile_leave_the_same_groups_and_nothing_visible_out(
    lo, hi, sinks, i0, j0, n, m, shown
):
    rule = Rule(lo, hi, sinks, j0 + m, None, 0, None, False)
    groups = ALL_GROUPS
    if shown is not None:  # of a tile map, of which these groups are visible
        array = np.zeros((i0 + n, j0 + m), bool)
        parts = shown >> np.arange(16).reshape(4, 4).T & 1
        array[i0:, j0:] = parts.repeat(16, axis=0).repeat(16, axis=1)[:n, :m]
        form = masks.lower(array, 1, 1, *array.shape)
        across = form.tiles.shape[3]
        rule = Rule(lo, hi, sinks, j0 + m, form.tiles.ravel(), across, form.words.ravel(), True)
        groups = int(form.tiles[0, 0, -1, -1]) & ALL_GROUPS
        hypothesis.assume(groups != 0)
    tile = Tile(0, 0, i0, n, j0, m, 64, True, PARTIAL, groups)
    computed, read = np.zeros((2, 64, 64), bool)
    for c in range(0, n, GROUP):
        start, stop = keys_seen(rule, tile, c, GROUP)
        computed[c : c + GROUP, start:stop] = True
    for r in range(0, m, GROUP):
        start, stop = queries_that_see(rule, tile, r, GROUP)
        read[start:stop, r : r + GROUP] = True
    seen = np.array([[visible(rule, i0 + i, j0 + j) for j in range(m)] for i in range(n)])
    assert not (seen & ~computed[:n, :m]).any()
    assert not (seen & ~read[:n, :m]).any()
    assert not (read & ~computed)[:n, :m].any()
    if sinks <= j0 and lo <= hi and shown is None:  # and nothing that could be left out is computed
        for i in range(0, n, GROUP):
            for j in range(0, m, GROUP):
                group = slice(i, i + GROUP), slice(j, j + GROUP)
                assert seen[group].any() == computed[:n, :m][group].any()
