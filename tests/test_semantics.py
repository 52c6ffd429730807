"""The fixed semantics, one section each: what users may rely on in every operation.

1 a row that may attend to nothing is exactly 0    5 the same bits for any number of threads
2 what is hidden cannot leak                       6 dropout depends on its seed and place only
3 a visible NaN spoils its row, and no other       7 dtypes, strides, empty axes
4 asking for weights changes nothing               8 inputs are not written to, nor aliased

Rules that hold for every pair are tested on the rows of the gradient table.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import begin, choose, dice, fresh, normal
from test_gradcheck import PAIRS, qkv, with_bias
from test_reference import LARGER, as_dtype, several

import miniattn as ma
import miniattn.functional as F
from miniattn import masks

begin(__name__)

# One row of the table for every pair, more where the code takes another way.
EVERY_PAIR = [
    pytest.param(
        name, inputs, {k: v for k, v in options.items() if k != "samples"}, id=f"{name}-{i}"
    )
    for name, rows in PAIRS.items()
    for i, (inputs, options) in enumerate(rows)
]


def run(name, inputs, options, dy=None):
    """(dy, [y, *gradients]) of a pair; a generator among the options is always a fresh one."""
    y, ctx = getattr(F, f"{name}_forward")(**inputs, **fresh(options))
    if dy is None:
        dtype = np.result_type(*(x for x in inputs.values() if x.dtype.kind == "f"))
        dy = np.asarray(np.random.default_rng(1).standard_normal(np.shape(y))).astype(dtype)
    return dy, [y, *several(getattr(F, f"{name}_backward")(dy[()], ctx))]


def attention_run(inputs, dout, **options):
    """out, lse, dq, dk, dv and, with a bias, dbias, by name."""
    out, ctx = F.attention_forward(**inputs, **options)
    grads = F.attention_backward(dout, ctx)._asdict()
    found = {"out": out, "lse": ctx.lse, **grads}
    return {name: x for name, x in found.items() if x is not None}


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


# ------------------------------------------------------------------- 1 rows that see nothing


EMPTY_ROWS = {
    "padding": (masks.padding([0, 5]), np.s_[0]),
    "causal": (masks.causal(-2), np.s_[:, :, :2]),
    "window": (masks.window(0, 0, -1), np.s_[:, :, 0]),
    "documents": (masks.documents([7, 1, 1], key_ids=[1, 1, 1, 2, 2]), np.s_[:, :, 0]),
    "rows": (np.array([False, True, True])[:, None], np.s_[:, :, 0]),
    "heads": (np.array([True, False, True, True])[:, None, None], np.s_[:, 1]),
    "everything": (np.zeros((1, 1), bool), np.s_[...]),
    "intersection": (
        masks.padding([2, 5]) & masks.window(None, None) & (np.arange(5) > 2),
        np.s_[0],
    ),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", EMPTY_ROWS)
def test_rows_that_see_nothing_are_exactly_zero(case, dtype):
    mask, rows = EMPTY_ROWS[case]
    inputs, _ = as_dtype(with_bias(2, 4, 3, 5), {}, dtype)
    got = attention_run(inputs, normal(2, 4, 3, 3).astype(dtype), mask=mask)
    weights = F.attention_weights(inputs["q"], inputs["k"], mask=mask, bias=inputs["bias"])
    assert (got["lse"][rows] == -np.inf).all()
    for x in (got["out"], weights, got["dq"], got["dbias"]):
        assert not x[rows].any()
        assert np.isfinite(x).all()
    seen = ~np.isneginf(got["lse"])
    np.testing.assert_allclose(weights.sum(-1), seen, rtol=1e-5)


def test_keys_that_nobody_sees_have_no_gradient():
    got = attention_run(qkv(), normal(2, 4, 3, 3), mask=masks.padding([2, 0]))
    for name in ("dk", "dv"):
        assert got[name][0, :, :2].any()
        assert not got[name][0, :, 2:].any()
        assert not got[name][1].any()


def test_empty_rows_of_the_softmax_family():
    x, mask = normal(2, 3), np.array([[False] * 3, [True, False, True]])
    y, ctx = F.softmax_forward(x, mask=mask)
    assert not y[0].any()
    assert not F.softmax_backward(normal(2, 3), ctx)[0].any()
    for forward, backward in (
        (F.sparsemax_forward, F.sparsemax_backward),
        (F.entmax15_forward, F.entmax15_backward),
    ):
        y, ctx = forward(x, mask=mask)
        assert not y[0].any()
        assert not backward(normal(2, 3), ctx)[0].any()
    y, ctx = F.log_softmax_forward(x, mask=mask)
    assert (y[0] == -np.inf).all()
    assert y[1, 1] == -np.inf
    assert not F.log_softmax_backward(normal(2, 3), ctx)[0].any()
    y, ctx = F.logsumexp_forward(x, mask=mask)
    assert y[0] == -np.inf
    assert not F.logsumexp_backward(normal(2), ctx)[0].any()


def test_cross_entropy_without_a_counted_target_is_zero():
    loss, ctx = F.cross_entropy_forward(normal(2, 3), np.array([-100, -100]))
    assert loss == 0
    assert not F.cross_entropy_backward(1.0, ctx).any()


# ----------------------------------------------------------------- 2 and 3 hidden and visible NaN

MASKS = {
    "none": lambda B, H, T, S: None,
    "causal": lambda B, H, T, S: masks.causal(),
    "causal at 0": lambda B, H, T, S: masks.causal(0),
    "causal by row": lambda B, H, T, S: masks.causal(np.arange(B) * 3 - 1),
    "window": lambda B, H, T, S: masks.window(2, 1),
    "wide window": lambda B, H, T, S: masks.window(70, 0),
    "sinks": lambda B, H, T, S: masks.window(3, 0, sinks=2),
    "padding": lambda B, H, T, S: masks.padding(np.maximum(S - 1 - 2 * np.arange(B), 0)),
    "documents": lambda B, H, T, S: masks.documents(np.arange(T) // 5, np.arange(S) // 5),
    "array": lambda B, H, T, S: np.random.default_rng(2).random((B, H, T, S)) < 0.6,
    "array of keys": lambda B, H, T, S: np.random.default_rng(3).random((B, 1, 1, S)) < 0.6,
    "causal and padding": lambda B, H, T, S: masks.causal() & masks.padding([S // 2 + 1] * B),
    "all of them": lambda B, H, T, S: (
        masks.causal()
        & masks.window(40, None)
        & masks.padding([max(S - 1, 0)] * B)
        & masks.documents(np.arange(T) // 50, np.arange(S) // 50)
        & (np.random.default_rng(4).random((H, 1, S)) < 0.9)
    ),
}

SIZES = [(1, 1), (1, 65), (3, 5), (5, 3), (63, 64), (64, 64), (65, 63), (66, 130), (130, 129)]


def check_poison(sizes, mask, where, index, value, dtype=np.float32, **options):
    """Put ``value`` at one place and compare with the same call without it.

    A row is spoilt when it may see the place. All other rows, and the gradients of keys that only
    other rows see, must be what they are without the poison; spoilt rows of a NaN must be NaN.
    (But for a value whose weight is dropped: there 0 * NaN may be left out.)
    """
    B, H, G, T, S, D = sizes
    inputs = {"q": normal(B, H, T, D), "k": normal(B, G, S, D), "v": normal(B, G, S, D)}
    inputs["bias"] = normal(B, H, T, S)
    inputs, _ = as_dtype(inputs, {}, dtype)
    dout = normal(B, H, T, D).astype(dtype)
    rule = masks.as_mask(mask)
    visible = np.ones((B, H, T, S), bool) if rule is None else rule.to_array(B, H, T, S)
    b, h, i, j = index
    group = np.s_[h // (H // G) * (H // G) : (h // (H // G) + 1) * (H // G)]

    spoilt = np.zeros((B, H, T), bool)
    dirty = {name: x.copy() for name, x in {**inputs, "dout": dout}.items()}
    if where in ("k", "v"):
        dirty[where][b, h // (H // G), j] = value
        spoilt[b, group] = visible[b, group, :, j]
    elif where == "bias":
        dirty["bias"][b, h, i, j] = value
        spoilt[b, h, i] = visible[b, h, i, j]
    else:
        dirty[where][b, h, i] = value
        spoilt[b, h, i] = visible[b, h, i].any()

    clean = attention_run(inputs, dout, mask=mask, **fresh(options))
    dirty_dout = dirty.pop("dout")
    got = attention_run(dirty, dirty_dout, mask=mask, **fresh(options))
    may_be_lost = where == "v" and "dropout" in options
    same = all(np.array_equal(got[name], clean[name], equal_nan=True) for name in got)
    assert same <= (not spoilt.any() or may_be_lost), "the poison is not even in the second call"

    close = {"rtol": 1e-4, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-10, "atol": 1e-12}
    sound = ~spoilt
    for name in ("out", "lse", "dq", "dbias"):
        np.testing.assert_allclose(got[name][sound], clean[name][sound], **close, err_msg=name)
    # A key is spoilt when a spoilt row may see it.
    touched = (visible & spoilt[..., None]).any(2).reshape(B, G, H // G, S).any(2)
    for name in ("dk", "dv"):
        np.testing.assert_allclose(
            got[name][~touched], clean[name][~touched], **close, err_msg=name
        )
    assert not got["dbias"][~visible].any()
    if np.isnan(value) and not may_be_lost:
        assert np.isnan(got["dq"][spoilt]).all()
        assert where == "dout" or np.isnan(got["out"][spoilt]).all()
    weights = F.attention_weights(dirty["q"], dirty["k"], mask=mask, bias=dirty["bias"])
    assert not weights[~visible].any()
    assert np.isfinite(weights[sound]).all()


@pytest.mark.parametrize("where", ["k", "v", "q", "bias", "dout"])
@pytest.mark.parametrize("kind", MASKS)
def test_poison_reaches_only_rows_that_see_it(kind, where):
    for T, S in SIZES:
        sizes = (2, 2, 1, T, S, 5)
        mask = MASKS[kind](*sizes[:2], T, S)
        for index in {(0, 0, 0, 0), (0, 1, T - 1, S - 1), (1, 0, T // 2, S // 2), (1, 1, 0, S - 1)}:
            check_poison(sizes, mask, where, index, np.nan)


@pytest.mark.slow
@given(
    data=st.data(),
    where=st.sampled_from(["k", "v", "q", "bias", "dout"]),
    kind=st.sampled_from(sorted(MASKS)),
    value=st.sampled_from([np.nan, np.inf, -np.inf, 3e38]),
    B=st.integers(1, 2),
    G=st.integers(1, 2),
    heads_per_group=st.integers(1, 2),
    T=st.integers(1, 140),
    S=st.integers(1, 140),
    D=st.integers(1, 20),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_poison_anywhere(data, where, kind, value, B, G, heads_per_group, T, S, D):
    H = G * heads_per_group
    index = tuple(data.draw(st.integers(0, n - 1)) for n in (B, H, T, S))
    begin(f"{where} {kind} {B} {G} {H} {T} {S} {D}")  # an example by itself is the same
    check_poison((B, H, G, T, S, D), MASKS[kind](B, H, T, S), where, index, value)


OPTIONS = {
    "softcap": {"softcap": 2.0},
    "dropout": {"dropout": 0.3, "rng": dice},
    "both": {"softcap": 2.0, "dropout": 0.3, "rng": dice},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("where", ["k", "v", "q", "bias", "dout"])
def test_poison_with_options(where, options):
    for T, S in [(3, 5), (66, 130)]:
        mask = masks.causal() & masks.padding([S - 1, S // 2])
        for index in [(1, 0, T - 1, S - 1), (0, 1, T - 1, S - 2), (1, 1, T // 2, 0)]:
            check_poison((2, 2, 1, T, S, 5), mask, where, index, np.nan, **OPTIONS[options])


def test_a_spoilt_column_of_values_stays_in_its_column():
    inputs = qkv()
    inputs["v"][0, 0, 2, 1] = np.nan
    out = F.attention(**inputs)
    assert np.isnan(out[0, :2, :, 1]).all()
    assert np.isfinite(out[0, :2, :, [0, 2]]).all()
    assert np.isfinite(out[1]).all()


def test_infinite_scores():
    """+inf gives NaN in its row; -inf is a weight of 0."""
    inputs = qkv(B=1, H=1, G=1, T=2)
    bias = np.zeros((2, 5))
    bias[0, 1], bias[1, 3] = np.inf, -np.inf
    out, weights = F.attention(**inputs, bias=bias, return_weights=True)
    assert np.isnan(out[0, 0, 0]).all()
    assert np.isnan(weights[0, 0, 0]).all()
    assert weights[0, 0, 1, 3] == 0
    np.testing.assert_allclose(weights[0, 0, 1].sum(), 1)
    got = attention_run({**inputs, "bias": bias}, normal(1, 1, 2, 3))
    assert got["dbias"][1, 3] == 0
    assert np.isfinite(got["dq"][0, 0, 1]).all()


SOFTMAX_FAMILY = ["softmax", "log_softmax", "logsumexp", "sparsemax", "entmax15"]


@pytest.mark.parametrize("n", [1, 5, 64, 300])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", SOFTMAX_FAMILY)
def test_hidden_poison_in_the_softmax_family(name, value, n):
    mask = np.arange(n) % 3 != 1
    mask = np.stack([mask, ~mask, np.ones(n, bool)])
    x = normal(3, n)
    dirty = np.where(mask, x, value)
    dy, (y, dx) = run(name, {"x": x}, {"mask": mask})
    _, (y2, dx2) = run(name, {"x": dirty}, {"mask": mask}, dy)
    assert_same([y2, dx2], [y, dx])
    assert not dx[~mask].any()
    if name != "logsumexp":
        _, (_, dx3) = run(name, {"x": x}, {"mask": mask}, np.where(mask, dy, value))
        assert_same([dx3], [dx])
        assert (y[~mask] == (-np.inf if name == "log_softmax" else 0)).all()


@pytest.mark.parametrize("n", [1, 5, 64, 300])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", SOFTMAX_FAMILY)
def test_visible_poison_in_the_softmax_family(name, value, n):
    x = normal(3, n)
    _, (clean, dclean) = run(name, {"x": x}, {})
    x[1, n // 2] = value
    _, (y, dx) = run(name, {"x": x}, {})
    assert np.isnan(y[1]).all()
    assert np.isnan(dx[1]).all()
    assert_same([y[::2], dx[::2]], [clean[::2], dclean[::2]])


def test_ignored_targets_hide_their_logits():
    logits, targets = normal(3, 4), np.array([1, -100, 3])
    loss, ctx = F.cross_entropy_forward(logits, targets)
    dlogits = F.cross_entropy_backward(1.0, ctx)
    logits[1] = np.nan
    dirty, ctx = F.cross_entropy_forward(logits, targets)
    assert dirty == loss
    assert_same([F.cross_entropy_backward(1.0, ctx)], [dlogits])
    logits[0, 0] = np.nan
    assert np.isnan(F.cross_entropy(logits, targets))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("layer_norm", {"weight": np.ones(70), "bias": np.ones(70)}),
        ("rms_norm", {"weight": np.ones(70)}),
        ("linear", {"weight": np.ones((3, 70))}),
    ],
)
def test_nan_spoils_its_row_only(name, options):
    x = normal(3, 70)
    _, (clean, dclean, *_) = run(name, {"x": x, **options}, {})
    x[1, 69] = np.nan
    _, (y, dx, *_) = run(name, {"x": x, **options}, {})
    assert np.isnan(y[1]).all()
    assert_same([y[::2], dx[::2]], [clean[::2], dclean[::2]])


@pytest.mark.parametrize("name", ["relu", "sigmoid", "tanh", "silu", "gelu"])
def test_nan_stays_in_its_place(name):
    x = normal(70)
    x[3] = np.nan
    _, (y, _) = run(name, {"x": x}, {})
    assert np.flatnonzero(np.isnan(y)).tolist() == [3]


# ----------------------------------------------------------------- 4 the weights are free of effect


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("T", "S"), [(1, 1), (3, 5), (64, 64), (65, 130), (1, 300)])
@pytest.mark.parametrize("kind", ["none", "causal", "sinks", "array", "all of them"])
def test_asking_for_weights_does_not_change_out(kind, T, S, dtype):
    inputs, _ = as_dtype(qkv(T=T, S=S, D=16, Dv=7), {}, dtype)
    options = {"mask": MASKS[kind](2, 4, T, S), "softcap": 5.0}
    for extra in ({}, {"dropout": 0.3}):
        rng = {"rng": dice()} if extra else {}
        out = F.attention(**inputs, **options, **extra, **rng)
        rng = {"rng": dice()} if extra else {}
        same, weights = F.attention(**inputs, **options, **extra, **rng, return_weights=True)
        np.testing.assert_array_equal(out, same)
        exact = F.attention_weights(inputs["q"], inputs["k"], **options)
        np.testing.assert_array_equal(weights, exact)  # before dropout
    sums = weights.sum(-1)
    seen = np.ones((2, 4, T), bool)
    if options["mask"] is not None:
        seen = masks.as_mask(options["mask"]).to_array(2, 4, T, S).any(-1)
    np.testing.assert_allclose(sums, seen, rtol=1e-5)
    heads = np.repeat(inputs["v"], 2, axis=1)
    np.testing.assert_allclose(
        weights @ heads, F.attention(**inputs, **options), rtol=1e-4, atol=1e-5
    )


# ------------------------------------------------------------------------ 5 any number of threads

BIG = [
    *LARGER,
    ("softmax", {"x": normal(3000, 11)}, {}),
    ("cross_entropy", {"logits": normal(3000, 17)}, {"targets": np.arange(3000) % 17}),
    ("layer_norm", {"x": normal(3000, 33), "weight": normal(33), "bias": normal(33)}, {}),
    ("rms_norm", {"x": normal(3000, 33), "weight": normal(33)}, {}),
    ("linear", {"x": normal(700, 33), "weight": normal(65, 33), "bias": normal(65)}, {}),
    (
        "linear_cross_entropy",
        {"x": normal(700, 33), "weight": normal(3000, 33), "bias": normal(3000)},
        {"targets": np.arange(700) * 4, "label_smoothing": 0.1},
    ),
    ("embedding", {"ids": np.arange(3000) ** 2 % 37, "weight": normal(37, 40)}, {}),
    ("dropout", {"x": normal(300, 40)}, {"p": 0.3, "rng": dice}),
    ("relu", {"x": normal(300, 400)}, {}),
    ("gelu", {"x": normal(300, 400)}, {}),
    ("attention", qkv(B=1, H=1, G=1, T=200, S=333, D=16, Dv=16), {}),
    ("attention", qkv(B=1, H=3, G=1, T=257, S=257, D=24, Dv=8), {"mask": masks.causal()}),
    ("attention", qkv(B=1, H=1, G=1, T=1, S=3000, D=32, Dv=32), {}),
    ("attention", with_bias(1, 130, B=3, T=90, S=130), {"dropout": 0.3, "rng": dice}),
    ("attention", with_bias(4, 90, 1, B=3, T=90, S=130), {"mask": masks.window(20, 5)}),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("name", "inputs", "options"),
    [pytest.param(*case, id=f"{case[0]}-{i}") for i, case in enumerate(BIG)],
)
def test_same_bits_for_any_number_of_threads(name, inputs, options, dtype):
    inputs, options = as_dtype(inputs, options, dtype)
    with ma.threads(1):
        assert ma.get_num_threads() == 1
        dy, alone = run(name, inputs, options)
    with ma.threads(2):
        assert ma.get_num_threads() == 2
        for _ in range(3):  # a race would not show each time
            assert_same(run(name, inputs, options, dy)[1], alone)


# ------------------------------------------------------------------------------------- 6 dropout


def dropped_forward(inputs, rng, **options):
    """The weights as the forward drops them: its output for an identity matrix as value."""
    T, S = inputs["q"].shape[-2], inputs["k"].shape[-2]
    eye = np.broadcast_to(np.eye(S, dtype=inputs["q"].dtype), (*inputs["k"].shape[:-2], S, S))
    out, ctx = F.attention_forward(inputs["q"], inputs["k"], eye, rng=rng, **options)
    dout = np.broadcast_to(np.eye(T, dtype=out.dtype), (*out.shape[:-2], T, T))
    return out, ctx, dout


def dropped_backward(inputs, rng, **options):
    """The weights as the backward drops them: dv for an identity matrix as dout, transposed."""
    T = inputs["q"].shape[-2]
    value = np.zeros((*inputs["k"].shape[:-1], T), inputs["q"].dtype)
    out, ctx = F.attention_forward(inputs["q"], inputs["k"], value, rng=rng, **options)
    dout = np.broadcast_to(np.eye(T, dtype=out.dtype), (*out.shape[:-1], T))
    return F.attention_backward(dout, ctx).dv.swapaxes(-1, -2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("T", "S"), [(1, 1), (3, 5), (65, 130), (130, 65), (1, 300)])
@pytest.mark.parametrize("kind", ["none", "causal", "window", "array"])
def test_forward_backward_and_weights_agree_on_what_is_dropped(kind, T, S, dtype):
    inputs, _ = as_dtype(qkv(H=2, G=2, T=T, S=S), {}, dtype)
    options = {"mask": MASKS[kind](2, 2, T, S), "dropout": 0.4}
    forward, *_ = dropped_forward(inputs, dice(), **options)
    backward = dropped_backward(inputs, dice(), **options)
    np.testing.assert_array_equal(forward != 0, backward != 0)
    weights = F.attention_weights(inputs["q"], inputs["k"], mask=options["mask"])
    expected = np.where(forward != 0, weights / 0.6, 0)
    close = {"rtol": 1e-4, "atol": 1e-6} if dtype == np.float32 else {"rtol": 1e-10, "atol": 0}
    np.testing.assert_allclose(forward, expected, **close)
    np.testing.assert_allclose(backward, expected, **close)


def kept(T, S, B=2, H=4, seed=7, p=0.3, dtype=np.float64, **options):
    q, k = np.zeros((B, H, T, 2), dtype), np.zeros((B, H, S, 2), dtype)
    rng = np.random.default_rng(seed)
    return dropped_forward({"q": q, "k": k}, rng, dropout=p, **options)[0] != 0


def test_what_is_dropped_depends_on_seed_and_place_only():
    pattern = kept(70, 131)
    assert_same([kept(70, 131)], [pattern])
    assert_same([kept(3, 131)], [pattern[:, :, :3]])
    assert_same([kept(70, 9)], [pattern[..., :9]])
    assert_same([kept(70, 131, B=1, H=2)], [pattern[:1, :2]])
    assert_same([kept(70, 131, dtype=np.float32)], [pattern])
    seen = masks.causal().to_array(2, 4, 70, 131)
    assert_same([kept(70, 131, mask=masks.causal())], [pattern & seen])
    with ma.threads(1):
        assert_same([kept(70, 131)], [pattern])
    assert (kept(70, 131, seed=8) != pattern).mean() > 0.3


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_right_share_independently(p):
    pattern = kept(64, 256, p=p)
    count = pattern.size
    sigma = np.sqrt(p * (1 - p))
    assert abs(pattern.mean() - (1 - p)) < 4 * sigma / np.sqrt(count)
    noise = (pattern - (1 - p)) / sigma
    for axis in range(4):
        a, b = np.moveaxis(noise, axis, 0)[:-1], np.moveaxis(noise, axis, 0)[1:]
        assert abs((a * b).mean()) < 4 / np.sqrt(a.size), f"neighbours along axis {axis}"


def test_two_calls_with_one_generator_drop_differently():
    rng = np.random.default_rng(0)
    inputs = qkv(T=20, S=30)
    first, second = (F.attention(**inputs, dropout=0.5, rng=rng) for _ in range(2))
    assert (first != second).any()


def test_element_dropout():
    x = np.ones((500, 400))
    y, ctx = F.dropout_forward(x, 0.3, dice())
    assert set(np.unique(y)) == {0.0, 1 / 0.7}
    assert abs((y != 0).mean() - 0.7) < 4 * np.sqrt(0.21 / x.size)
    assert_same([F.dropout_backward(x, ctx)], [y])
    assert_same([F.dropout(x, 0.3, dice())], [y])
    assert_same([F.dropout(x, 0.0, dice())], [x])


# ------------------------------------------------------------------- 7 dtypes, strides, empty axes


def floats(inputs):
    return [name for name, x in inputs.items() if x.dtype.kind == "f"]


REFUSED = {
    "float16": lambda x: x.astype(np.float16),
    "int64": lambda x: x.astype(np.int64),
    "bool": lambda x: x > 0,
    "complex128": lambda x: x.astype(np.complex128),
    "object": lambda x: x.astype(object),
    "longdouble": lambda x: x.astype(np.longdouble),
    "byte-swapped": lambda x: x.astype(x.dtype.newbyteorder()),
}


@pytest.mark.parametrize("kind", [*REFUSED, "mixed"])
@pytest.mark.parametrize("name", PAIRS)
def test_refused_dtypes(name, kind):
    if kind == "longdouble" and np.dtype(np.longdouble) == np.float64:
        pytest.skip("long double is double here")
    inputs, options = PAIRS[name][-1]
    options = {k: v for k, v in options.items() if k != "samples"}
    if name == "mse":
        inputs, options = {**inputs, **options}, {}
    names = floats(inputs)
    if kind == "mixed" and len(names) == 1:
        names = []  # nothing to be mixed with, but for dy below
    for argument in names:
        change = REFUSED.get(kind, lambda x: x.astype(np.float32))
        wrong = {**inputs, argument: change(inputs[argument])}
        with pytest.raises(TypeError, match=r"^\w+(\[0\])?: expected ") as caught:
            getattr(F, f"{name}_forward")(**wrong, **fresh(options))
        if kind != "mixed":
            assert str(caught.value).partition(":")[0].removesuffix("[0]") == argument
    if name in ("cross_entropy", "linear_cross_entropy", "mse"):
        return  # dloss is a number
    y, ctx = getattr(F, f"{name}_forward")(**inputs, **fresh(options))
    change = REFUSED.get(kind, lambda x: x.astype(np.float32))
    with pytest.raises(TypeError, match=r"^d\w+: expected "):
        getattr(F, f"{name}_backward")(change(np.ones_like(y)), ctx)


def misaligned(x):
    raw = np.zeros(x.nbytes + 1, np.uint8)
    view = raw[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    assert not view.flags.aligned
    return view


def spread(x):
    """Every second entry of a larger array along every axis."""
    big = np.full(tuple(2 * n for n in x.shape), np.nan)
    view = big[(slice(None, None, 2),) * x.ndim]
    view[...] = x
    return view


def field(x):
    """The same as a field of records without padding: 1.125 elements lie between neighbours."""
    records = np.zeros(x.shape, [("kind", np.int8), ("x", x.dtype)])
    records["x"] = x
    return records["x"]


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


LAYOUTS = {
    "Fortran order": np.asfortranarray,
    "reversed": lambda x: x[(slice(None, None, -1),) * x.ndim].copy()[
        (slice(None, None, -1),) * x.ndim
    ],
    "every second": spread,
    "field": field,
    "field, reversed": lambda x: field(x[(slice(None, None, -1),) * x.ndim])[
        (slice(None, None, -1),) * x.ndim
    ],
    "read-only": read_only,
    "misaligned": misaligned,
    "heads from (B, T, H, D)": lambda x: (
        x.swapaxes(-2, -3).copy().swapaxes(-2, -3) if x.ndim > 2 else x.T.copy().T
    ),
    "subclass": lambda x: x.view(type("Sub", (np.ndarray,), {})),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("name", "inputs", "options"), EVERY_PAIR)
def test_any_strides(name, inputs, options, layout):
    dy, plain = run(name, inputs, options)
    change = LAYOUTS[layout]

    def changed(x):
        return change(x) if isinstance(x, np.ndarray) and x.dtype == np.float64 and x.ndim else x

    strange = {key: changed(x) for key, x in inputs.items()}
    _, got = run(name, strange, options, changed(dy))
    for a, b in zip(got, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("strides", "letters"),
    [("broadcast", "k and v shared by the batch"), ("stacked", "q, k, v from one array")],
)
def test_views_that_people_make(strides, letters):
    if strides == "broadcast":
        k = np.broadcast_to(normal(1, 2, 5, 4), (2, 2, 5, 4))
        inputs = {"q": normal(2, 4, 3, 4), "k": k, "v": k}
    else:
        qkv3 = normal(2, 3, 3, 2, 4).transpose(2, 0, 3, 1, 4)  # (B, T, 3, H, D)
        inputs = dict(zip("qkv", qkv3, strict=True))
    copies = {name: x.copy() for name, x in inputs.items()}
    dy, got = run("attention", inputs, {})
    for a, b in zip(got, run("attention", copies, {}, dy)[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


EMPTY = [
    *(
        ("attention", qkv(**{letter: 0}), {"mask": mask})
        for letter in ("B", "T", "S", "D", "Dv")
        for mask in (None, masks.causal())
    ),
    *(
        ("attention", inputs(H=0, G=G, T=T, S=70, D=32), {"mask": mask})
        for inputs in (qkv, lambda **sizes: with_bias(1, 1, sizes["T"], 70, **sizes))
        for G in (0, 2)
        for T in (1, 70)
        for mask in (None, masks.causal())
    ),
    ("attention", with_bias(2, 4, 3, 0, S=0), {}),
    ("attention", with_bias(4, 1, 5, T=0), {}),
    ("attention", qkv(S=0), {"dropout": 0.5, "rng": 0}),
    *(
        (name, {"x": np.zeros(shape)}, {})
        for name in SOFTMAX_FAMILY
        for shape in [(0,), (3, 0), (0, 3)]
    ),
    ("softmax", {"x": np.zeros((3, 0, 2))}, {"axis": 1, "mask": np.zeros((1, 0, 2), bool)}),
    ("softmax", {"x": np.zeros((3, 0, 2))}, {"axis": 0}),
    ("sparsemax", {"x": np.zeros((3, 0, 2))}, {"axis": 1}),
    ("entmax15", {"x": np.zeros((3, 0, 2))}, {"axis": 0}),
    ("cross_entropy", {"logits": np.zeros((0, 5))}, {"targets": np.zeros(0, np.int64)}),
    (
        "linear_cross_entropy",
        {"x": np.zeros((0, 4)), "weight": normal(5, 4), "bias": normal(5)},
        {"targets": np.zeros(0, np.int64)},
    ),
    (
        "linear_cross_entropy",
        {"x": np.zeros((2, 0)), "weight": normal(3, 0), "bias": normal(3)},
        {"targets": np.array([0, 2])},
    ),
    (
        "linear_cross_entropy",
        {"x": normal(2, 4), "weight": normal(0, 4)},
        {"targets": np.array([-100, -100])},
    ),
    ("mse", {"pred": np.zeros((0, 2))}, {"target": np.zeros((0, 2))}),
    ("linear", {"x": np.zeros((0, 4)), "weight": normal(3, 4), "bias": normal(3)}, {}),
    ("linear", {"x": np.zeros((2, 0)), "weight": normal(3, 0), "bias": normal(3)}, {}),
    ("linear", {"x": normal(2, 4), "weight": normal(0, 4), "bias": normal(0)}, {}),
    ("embedding", {"ids": np.zeros((2, 0), np.int64), "weight": normal(3, 4)}, {}),
    ("embedding", {"ids": np.zeros(2, np.int64), "weight": normal(3, 0)}, {}),
    ("dropout", {"x": np.zeros((0, 3))}, {"p": 0.5, "rng": 0}),
    ("layer_norm", {"x": np.zeros((0, 3)), "weight": normal(3), "bias": normal(3)}, {}),
    ("layer_norm", {"x": np.zeros((3, 0)), "weight": normal(0), "bias": normal(0)}, {}),
    ("batch_norm", {"x": np.zeros((0, 3)), "weight": normal(3), "bias": normal(3)}, {}),
    ("batch_norm", {"x": np.zeros((3, 0)), "weight": normal(0), "bias": normal(0)}, {}),
    ("batch_norm", {"x": normal(2, 3), "weight": normal(3)}, {"mask": np.zeros(2, bool)}),
    ("rms_norm", {"x": np.zeros((0, 3)), "weight": normal(3)}, {}),
    ("rms_norm", {"x": np.zeros((3, 0)), "weight": normal(0)}, {}),
    *((name, {"x": np.zeros((2, 0))}, {}) for name in ("relu", "sigmoid", "tanh", "silu", "gelu")),
    ("rotary", {"x": np.zeros((2, 3, 0, 4))}, {"positions": np.zeros(0, np.int64)}),
    ("rotary", {"x": np.zeros((0, 3, 2, 4))}, {"positions": np.arange(2)}),
    ("rotary", {"x": np.zeros((2, 3, 2, 0))}, {"positions": np.arange(2)}),
    ("merge_attention", {"outs": np.zeros((2, 0, 3)), "lses": np.zeros((2, 0))}, {}),
    ("merge_attention", {"outs": np.zeros((2, 3, 0)), "lses": np.zeros((2, 3))}, {}),
]

SHAPES = {
    "attention": lambda i, o: (*i["q"].shape[:-1], i["v"].shape[-1]),
    "merge_attention": lambda i, o: i["outs"].shape[1:],
    "logsumexp": lambda i, o: np.delete(i["x"].shape, o.get("axis", -1)),
    "cross_entropy": lambda i, o: (),
    "linear_cross_entropy": lambda i, o: (),
    "mse": lambda i, o: (),
    "linear": lambda i, o: (*i["x"].shape[:-1], len(i["weight"])),
    "embedding": lambda i, o: (*i["ids"].shape, i["weight"].shape[1]),
}


@pytest.mark.parametrize(
    ("name", "inputs", "options"),
    [pytest.param(*case, id=f"{case[0]}-{i}") for i, case in enumerate(EMPTY)],
)
def test_empty_axes(name, inputs, options):
    _, (y, *grads) = run(name, inputs, options)
    expected = SHAPES.get(name, lambda i, o: i["x"].shape)(inputs, options)
    assert np.shape(y) == tuple(expected)
    assert not np.isnan(y).any()
    for argument, grad in zip(floats(inputs), grads, strict=True):
        assert grad.shape == inputs[argument].shape
        assert grad.dtype == np.float64
        assert np.isfinite(grad).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("T", [1, 70, 200])
@pytest.mark.parametrize("absent", ["B", "H", "T"])
def test_without_queries_keys_get_no_gradient(dtype, T, absent):
    """Also where the kernels' arrays are empty: nothing is written beside them."""
    sizes = {"B": 2, "H": 2, "G": 2, "T": T, "S": 70, "D": 32, "Dv": 32} | {absent: 0}
    sizes["G"] = sizes["H"]
    inputs = {name: x.astype(dtype) for name, x in qkv(**sizes).items()}
    for _ in range(20):
        found = attention_run(inputs, np.zeros((*inputs["q"].shape[:-1], 32), dtype))
        assert found["out"].size == found["lse"].size == found["dq"].size == 0
        for name in "kv":
            assert found[f"d{name}"].shape == inputs[name].shape
            assert not found[f"d{name}"].any()
    weights = F.attention_weights(inputs["q"], inputs["k"])
    assert weights.shape == (*inputs["q"].shape[:3], 70)


def test_attention_without_keys_is_zero():
    got = attention_run(qkv(S=0), normal(2, 4, 3, 3))
    assert not got["out"].any()
    assert (got["lse"] == -np.inf).all()
    assert not got["dq"].any()
    assert F.attention_weights(qkv()["q"], qkv(S=0)["k"]).shape == (2, 4, 3, 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", PAIRS)
def test_results_have_the_dtype_of_the_inputs(name, dtype):
    inputs, options = PAIRS[name][0]
    inputs, options = as_dtype(inputs, options, dtype)
    for x in run(name, inputs, options)[1]:
        assert x.dtype == dtype


# ------------------------------------------------------------------------ 8 inputs are left alone


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "inputs", "options"), EVERY_PAIR)
def test_inputs_are_neither_written_nor_aliased(name, inputs, options, dtype):
    inputs, options = as_dtype(inputs, options, dtype)
    dy, _ = run(name, {key: x.copy() for key, x in inputs.items()}, options)
    given = {**inputs, **{k: v for k, v in options.items() if isinstance(v, np.ndarray)}, "dy": dy}
    before = {key: x.copy() for key, x in given.items()}
    _, results = run(name, inputs, options, dy)
    for key, x in given.items():
        np.testing.assert_array_equal(x, before[key])
        for result in results:
            assert not np.shares_memory(np.asarray(result), x), key
    for i, a in enumerate(results):
        assert np.asarray(a).flags.writeable or np.ndim(a) == 0
        for b in results[i + 1 :]:
            assert not np.shares_memory(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize(("name", "inputs", "options"), EVERY_PAIR)
def test_plain_function_returns_what_forward_returns(name, inputs, options):
    _, (y, *_) = run(name, inputs, options)
    plain = getattr(F, name)(**inputs, **fresh(options))
    out = plain[0] if isinstance(plain, tuple) else plain  # lse comes with what is merged
    np.testing.assert_array_equal(out, y)


@pytest.mark.parametrize(("name", "inputs", "options"), EVERY_PAIR)
def test_backward_may_be_called_twice(name, inputs, options):
    y, ctx = getattr(F, f"{name}_forward")(**inputs, **fresh(options))
    dy = np.ones(np.shape(y))[()]
    backward = getattr(F, f"{name}_backward")
    assert_same(several(backward(dy, ctx)), several(backward(dy, ctx)))


def test_attention_map_leaves_inputs_alone():
    q, k = normal(1, 2, 40, 4), normal(1, 2, 50, 4)
    before = q.copy(), k.copy()
    pooled = F.attention_map(q, k, mask=choose(40, 50), bins=(4, 5))
    assert pooled.shape == (1, 2, 4, 5)
    assert_same([q, k], before)
