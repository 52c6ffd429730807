"""reference against mathematics, and every operation against reference.

The reference is checked by hand-worked numbers, SciPy and central differences, none of which it
shares anything with. Then each pair is compared with it on the rows of the gradient table and on
larger arrays: the error in float32 and float64 may be at most twice that of plain NumPy in the
same precision. Plain NumPy in another precision is the reference itself, with its conversion to
float64 replaced.
"""

import math

import numpy as np
import pytest
import scipy.special
from samples import begin, choose, dice, normal
from test_gradcheck import PAIRS, qkv, with_bias

import miniattn as ma
import miniattn.functional as F
from miniattn import masks, reference
from miniattn.reference import _arrays

begin(__name__)

# ------------------------------------------------------------- the reference against mathematics


def test_softmax_family_against_scipy():
    x = 10 * normal(3, 4, 5)
    np.testing.assert_allclose(reference.softmax(x), scipy.special.softmax(x, -1), rtol=1e-14)
    np.testing.assert_allclose(
        reference.softmax(x, axis=1, temperature=3.0), scipy.special.softmax(x / 3, 1), rtol=1e-14
    )
    np.testing.assert_allclose(
        reference.log_softmax(x, axis=0), scipy.special.log_softmax(x, 0), rtol=1e-13, atol=1e-15
    )
    np.testing.assert_allclose(
        reference.logsumexp(x, axis=1), scipy.special.logsumexp(x, 1), rtol=1e-14
    )


def test_softmax_family_with_a_mask():
    x = np.array([[1.0, np.nan, 1.0], [np.nan] * 3, [np.nan, 5.0, np.inf]])
    mask = np.array([[True, False, True], [False] * 3, [False, True, False]])
    np.testing.assert_array_equal(
        reference.softmax(x, mask=mask), [[0.5, 0, 0.5], [0, 0, 0], [0, 1, 0]]
    )
    np.testing.assert_allclose(reference.logsumexp(x, mask=mask), [1 + math.log(2), -np.inf, 5])
    np.testing.assert_allclose(
        reference.log_softmax(x, mask=mask),
        [[-math.log(2), -np.inf, -math.log(2)], [-np.inf] * 3, [-np.inf, 0, -np.inf]],
    )


def test_cross_entropy_by_hand():
    logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.2, 0.2, 0.6]])
    assert reference.cross_entropy(logits, [0, 2, -100]) == pytest.approx(
        -(math.log(0.5) + math.log(0.8)) / 2
    )
    smooth = -(0.9 + 0.1 / 3) * math.log(0.5) - 0.2 / 3 * math.log(0.25)
    assert reference.cross_entropy(logits[:1], [0], label_smoothing=0.1) == pytest.approx(smooth)
    assert reference.cross_entropy([[0.0, -np.inf]], [0]) == 0.0
    assert reference.cross_entropy([[0.0, -np.inf]], [1]) == np.inf
    assert reference.cross_entropy(logits, [-100, -100, -100]) == 0.0


def test_norms_by_their_definition():
    x = 3 * normal(4, 6) + 1
    y = reference.layer_norm(x, np.ones(6), np.zeros(6), eps=0.0)
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-15)
    np.testing.assert_allclose(y.std(-1), 1, rtol=1e-14)
    np.testing.assert_allclose((reference.rms_norm(x, np.ones(6), eps=0.0) ** 2).mean(-1), 1)


def test_activations_against_scipy():
    x = np.array([-800.0, -40.0, -3.0, -0.5, 0.0, 0.5, 3.0, 40.0, 800.0])
    np.testing.assert_allclose(reference.sigmoid(x), scipy.special.expit(x), rtol=1e-14)
    np.testing.assert_allclose(reference.silu(x), x * scipy.special.expit(x), rtol=1e-14)
    np.testing.assert_allclose(reference.gelu(x), x * scipy.special.ndtr(x), rtol=1e-13)
    near = np.linspace(-6, 6, 101)
    approximation = reference.gelu(near, approximate="tanh")
    assert 1e-5 < np.abs(approximation - reference.gelu(near)).max() < 5e-4


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_keeps_lengths_and_depends_on_distance_only(interleaved):
    q, k = normal(1, 1, 1, 8), normal(1, 1, 1, 8)

    def turn(x, at):
        return reference.rotary(x, np.array([at]), interleaved=interleaved)

    assert np.linalg.norm(turn(q, 5)) == pytest.approx(np.linalg.norm(q))
    near, far = (turn(q, 3) * turn(k, 1)).sum(), (turn(q, 103) * turn(k, 101)).sum()
    assert near == pytest.approx(far)
    np.testing.assert_array_equal(turn(q, 0), q)


def test_rotary_by_hand():
    x = np.array([[[[1.0, 0.0, 0.0, 0.0]]]])
    one, small = math.cos(1.0), math.sin(1.0)
    np.testing.assert_allclose(reference.rotary(x, [1])[0, 0, 0], [one, 0, small, 0])
    turned = reference.rotary(x, [1], interleaved=True)
    np.testing.assert_allclose(turned[0, 0, 0], [one, small, 0, 0])


def test_attention_by_hand():
    """Two keys of which one fits the query better by log(3)."""
    q = np.array([[[[math.log(3.0), 0.0]]]])
    k = np.array([[[[1.0, 0.0], [0.0, 1.0]]]])
    v = np.array([[[[4.0], [8.0]]]])
    out, weights, lse = reference.attention(q, k, v, scale=1.0)
    np.testing.assert_allclose(weights[0, 0, 0], [0.75, 0.25])
    np.testing.assert_allclose(out[0, 0, 0], [5.0])
    np.testing.assert_allclose(lse[0, 0], [math.log(4.0)])
    keep = np.array([[[[True, False]]]])
    dropped = reference.attention(q, k, v, scale=1.0, dropout=0.5, keep=keep)
    np.testing.assert_allclose(dropped.out[0, 0, 0], [0.75 / 0.5 * 4.0])
    np.testing.assert_allclose(dropped.weights, weights)
    capped = reference.attention(q, k, v, scale=1.0, softcap=1e-9).weights
    np.testing.assert_allclose(capped[0, 0, 0], [0.5, 0.5])
    biased = reference.attention(q, k, v, scale=1.0, bias=[0.0, math.log(3.0)]).weights
    np.testing.assert_allclose(biased[0, 0, 0], [0.5, 0.5])


def test_attention_with_everything_by_whole_arrays():
    """The row-by-row specification against the usual four lines of einsum."""
    inputs = with_bias(4, 1, 5)
    q, k, v, bias = inputs.values()
    visible = choose(2, 1, 3, 5)
    visible[..., 0] = True
    k4, v4 = np.repeat(k, 2, axis=1), np.repeat(v, 2, axis=1)
    s = 3.0 * np.tanh(0.5 * np.einsum("bhtd,bhsd->bhts", q, k4) / 3.0) + bias
    w = scipy.special.softmax(np.where(visible, s, -np.inf), -1)
    got = reference.attention(q, k, v, bias=bias, mask=visible, scale=0.5, softcap=3.0)
    np.testing.assert_allclose(got.weights, w, rtol=1e-13)
    np.testing.assert_allclose(got.out, np.einsum("bhts,bhsd->bhtd", w, v4), rtol=1e-12)


def test_attention_selects_instead_of_multiplying_by_zero():
    inputs = qkv()
    clean = reference.attention(**inputs, mask=masks.padding([4, 0]))
    for name in "kv":
        inputs[name][0, :, 4] = np.nan
        inputs[name][1] = np.inf
    dirty = reference.attention(**inputs, mask=masks.padding([4, 0]))
    for a, b in zip(clean, dirty, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not dirty.out[1].any()
    assert not dirty.weights[1].any()
    assert (dirty.lse[1] == -np.inf).all()
    grads = reference.attention_backward(normal(2, 4, 3, 3), **inputs, mask=masks.padding([4, 0]))
    assert all(np.isfinite(g).all() for g in grads[:3])
    assert not any(g[1].any() for g in grads[:3])
    assert not grads.dk[0, :, 4].any()


def test_merge_is_attention_over_all_keys():
    inputs = qkv(S=7)
    whole = reference.attention(**inputs)
    parts = [
        reference.attention(inputs["q"], inputs["k"][:, :, part], inputs["v"][:, :, part])
        for part in (np.s_[:3], np.s_[3:3], np.s_[3:])
    ]
    out, lse = reference.merge_attention([p.out for p in parts], [p.lse for p in parts])
    np.testing.assert_allclose(out, whole.out, rtol=1e-13)
    np.testing.assert_allclose(lse, whole.lse, rtol=1e-13)


def test_map_sums_columns_and_averages_rows():
    q, k = normal(2, 4, 7, 3), normal(2, 2, 11, 3)
    whole = reference.attention_weights(q, k)
    pooled = reference.attention_map(q, k, bins=(2, 3))
    assert pooled.shape == (2, 4, 2, 3)
    np.testing.assert_allclose(pooled.sum(-1), 1)
    np.testing.assert_allclose(pooled[..., 0, 2], whole[..., :3, 7:].sum(-1).mean(-1))
    np.testing.assert_array_equal(reference.attention_map(q, k, bins=(7, 99)), whole)


# ------------------------------------------------------------------ each pair against the reference


def cases():
    """(name, inputs, options) of every row of the gradient table, and of larger arrays."""
    for name, rows in PAIRS.items():
        for i, (inputs, options) in enumerate(rows):
            kept = {key: value for key, value in options.items() if key != "samples"}
            yield pytest.param(name, inputs, kept, id=f"{name}-{i}")
    for name, inputs, options in LARGER:
        yield pytest.param(name, inputs, options, id=f"{name}-larger")


LARGER = [
    ("softmax", {"x": 5 * normal(7, 1000)}, {}),
    ("softmax", {"x": 5 * normal(33, 3, 10)}, {"axis": 0, "mask": choose(33, 3, 10)}),
    ("log_softmax", {"x": 5 * normal(7, 1000)}, {"temperature": 0.5}),
    ("sparsemax", {"x": 0.05 * normal(7, 1000)}, {}),
    ("entmax15", {"x": 0.5 * normal(7, 1000)}, {}),
    ("logsumexp", {"x": 5 * normal(7, 1000)}, {}),
    ("cross_entropy", {"logits": 5 * normal(50, 100)}, {"targets": np.arange(50)}),
    (
        "linear_cross_entropy",
        {"x": normal(2, 20, 30), "weight": normal(1000, 30), "bias": normal(1000)},
        {"targets": np.arange(40).reshape(2, 20) * 25, "label_smoothing": 0.1},
    ),
    ("mse", {"pred": normal(50, 100)}, {"target": normal(50, 100)}),
    ("layer_norm", {"x": normal(9, 1000), "weight": normal(1000), "bias": normal(1000)}, {}),
    ("rms_norm", {"x": normal(9, 1000), "weight": normal(1000)}, {}),
    ("linear", {"x": normal(2, 40, 70), "weight": normal(50, 70), "bias": normal(50)}, {}),
    ("gelu", {"x": 3 * normal(50, 33)}, {}),
    ("gelu", {"x": 3 * normal(50, 33)}, {"approximate": "tanh"}),
    ("silu", {"x": 3 * normal(50, 33)}, {}),
    ("sigmoid", {"x": 3 * normal(50, 33)}, {}),
    ("tanh", {"x": 3 * normal(50, 33)}, {}),
    ("rotary", {"x": normal(2, 3, 50, 32)}, {"positions": np.arange(50)}),
    ("attention", qkv(T=130, S=130, D=64, Dv=64), {"mask": masks.causal()}),
    ("attention", qkv(T=65, S=190, D=16, Dv=16), {}),
    ("attention", qkv(T=1, S=300, D=32, Dv=32), {"mask": masks.padding([300, 17])}),
    ("attention", with_bias(4, 40, 70, T=40, S=70, D=20, Dv=24), {"softcap": 3.0}),
]


# What counts as exact; where long double is no longer than double it is only as good as that.
FINER = {np.float32: np.float64, np.float64: np.longdouble}


def as_dtype(inputs, options, dtype):
    def convert(x):
        is_float = isinstance(x, np.ndarray) and x.dtype == np.float64
        return x.astype(dtype) if is_float else x

    return tuple({key: convert(x) for key, x in d.items()} for d in (inputs, options))


def kept_weights(inputs, options):
    """The dropout mask of attention, read off an output with an identity matrix as value."""
    keys = inputs["k"].shape[-2]
    eye = np.broadcast_to(np.eye(keys, dtype=inputs["k"].dtype), (*inputs["k"].shape[:-1], keys))
    return F.attention(**{**inputs, "v": eye}, **options | {"rng": dice()}) != 0


def run_ours(name, inputs, options):
    """(y, gradients, dy) of a pair, the gradients of absent inputs left out."""
    y, ctx = getattr(F, f"{name}_forward")(**inputs, **options)
    dtype = np.result_type(*(x for x in inputs.values() if x.dtype.kind == "f"))
    dy = np.random.default_rng(1).standard_normal(np.shape(y)).astype(dtype)
    grads = getattr(F, f"{name}_backward")(dy[()], ctx)
    return y, several(grads), dy


def run_reference(name, inputs, options, dy):
    y = getattr(reference, name)(**inputs, **options)
    grads = getattr(reference, f"{name}_backward")(dy, **inputs, **options)
    return getattr(y, "out", y), several(grads)


def several(grads):
    return [g for g in (grads if isinstance(grads, tuple) else (grads,)) if g is not None]


def worst(got, exact):
    """Largest difference of entries; where one is not finite both must be the same."""
    got, exact = np.asarray(got), np.asarray(exact)
    assert got.shape == exact.shape
    finite = np.isfinite(exact)
    np.testing.assert_array_equal(got[~finite], exact[~finite])
    return largest(got[finite] - exact[finite])


def largest(x):
    x = np.abs(x)
    return x[np.isfinite(x)].max(initial=0.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "inputs", "options"), list(cases()))
def test_against_reference(name, inputs, options, dtype, monkeypatch):
    inputs, options = as_dtype(inputs, options, dtype)
    if "rng" in options:
        options["rng"] = dice()
    y, grads, dy = run_ours(name, inputs, options)

    spec = dict(options)
    if spec.pop("rng", None) is not None and name == "dropout":
        spec["keep"] = y != 0
    elif "rng" in options:
        spec["keep"] = kept_weights(inputs, options)
    if name == "attention" and inputs["q"].ndim < 4:
        inputs = {key: x.reshape((1,) * (4 - x.ndim) + x.shape) for key, x in inputs.items()}
        y, dy = y.reshape(1, -1, *y.shape[-2:]), dy.reshape(1, -1, *dy.shape[-2:])
        grads = [g.reshape(1, -1, *g.shape[-2:]) for g in grads]
    monkeypatch.setattr(_arrays, "PRECISION", FINER[dtype])
    exact = run_reference(name, inputs, spec, dy)
    monkeypatch.setattr(_arrays, "PRECISION", dtype)
    plain = run_reference(name, inputs, spec, dy)

    eps = np.finfo(dtype).eps
    assert worst(y, exact[0]) <= 2 * worst(plain[0], exact[0]) + 8 * eps * largest(exact[0])
    # The floor of all gradients is that of the largest: some are 0 but for rounding.
    floor = 8 * eps * max(largest(grad) for grad in exact[1])
    for ours, theirs, right in zip(grads, plain[1], exact[1], strict=True):
        assert worst(ours, right) <= 2 * worst(theirs, right) + floor


def test_reference_is_checked_by_central_differences():
    """Every backward of the reference, on the rows of the table, against its own forward."""
    for name, rows in PAIRS.items():
        for inputs, options in rows:
            if "rng" in options or "samples" in options or any(x.ndim < 2 for x in inputs.values()):
                continue
            if name == "attention" and inputs["q"].ndim < 4:
                continue

            def forward(name=name, **arguments):
                y = getattr(reference, name)(**arguments)
                return getattr(y, "out", y), arguments

            def backward(dy, arguments, name=name):
                return getattr(reference, f"{name}_backward")(dy, **arguments)

            samples = 6 if name == "attention" else None
            ma.gradcheck(forward, inputs, backward=backward, samples=samples, **options)


@pytest.mark.parametrize("name", ["attention", "dropout"])
def test_reference_dropout_is_checked_by_central_differences(name):
    inputs = qkv() if name == "attention" else {"x": normal(3, 4)}
    options = (
        {"dropout": 0.3, "keep": choose(2, 4, 3, 5)}
        if name == "attention"
        else {"p": 0.3, "keep": choose(3, 4)}
    )

    def forward(**arguments):
        y = getattr(reference, name)(**arguments)
        return getattr(y, "out", y), arguments

    def backward(dy, arguments):
        return getattr(reference, f"{name}_backward")(dy, **arguments)

    ma.gradcheck(forward, inputs, backward=backward, **options)


# -------------------------------------------------- functions that are no pair, and the reference

MAPS = [
    (3, 5, {}),
    (7, 130, {"mask": masks.causal()}),
    (130, 67, {"mask": masks.window(9, 2) & masks.padding([67, 20]), "softcap": 3.0}),
    (64, 64, {"mask": choose(4, 64, 64), "scale": 0.3, "bias": normal(4, 1, 64)}),
    (1, 300, {}),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("T", "S", "options"), MAPS, ids=str)
def test_weights_and_maps_against_reference(T, S, options, dtype):
    inputs, options = as_dtype(qkv(T=T, S=S), options, dtype)
    q, k = inputs["q"], inputs["k"]
    close = {"rtol": 2e-5, "atol": 1e-7} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-15}
    expected = reference.attention_weights(q, k, **options)
    np.testing.assert_allclose(F.attention_weights(q, k, **options), expected, **close)
    for bins in [(1, 1), (2, 3), (5, 50), (300, 300)]:
        expected = reference.attention_map(q, k, bins=bins, **options)
        np.testing.assert_allclose(
            F.attention_map(q, k, bins=bins, **options), expected, **close, err_msg=str(bins)
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_merge_against_reference(dtype):
    outs = [normal(2, 3, 4, 5).astype(dtype) for _ in range(3)]
    lses = [normal(2, 3, 4).astype(dtype) for _ in range(3)]
    for part in lses:
        part[0, 0, 0] = -np.inf
    outs[1][1], lses[1][1] = 0, -np.inf
    out, lse = F.merge_attention(outs, lses)
    expected = reference.merge_attention(outs, lses)
    close = {"rtol": 1e-5, "atol": 1e-6} if dtype == np.float32 else {"rtol": 1e-13, "atol": 1e-15}
    np.testing.assert_allclose(out, expected[0], **close)
    np.testing.assert_allclose(lse, expected[1], **close)
    assert not out[0, 0, 0].any()
    assert lse[0, 0, 0] == -np.inf
    assert out.dtype == lse.dtype == dtype


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("kind", ["none", "bool", "float"])
def test_sdpa_against_reference(kind, is_causal):
    q, k, v = normal(2, 4, 3, 4), normal(2, 4, 5, 4), normal(2, 4, 5, 2)
    attn_mask = {"none": None, "bool": choose(2, 1, 3, 5), "float": normal(3, 5)}[kind]
    np.testing.assert_allclose(
        F.scaled_dot_product_attention(q, k, v, attn_mask, is_causal=is_causal, scale=0.4),
        reference.scaled_dot_product_attention(q, k, v, attn_mask, is_causal=is_causal, scale=0.4),
        rtol=1e-12,
        atol=1e-14,
    )
