"""Attention with numbers of every size: what float64 mathematics says, rounded.

Exact values are worked out by hand; the others come from `miniattn.reference`, in float64 and a row
at a time.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from miniattn import functional as F
from miniattn import masks, reference

DTYPES = [np.float32, np.float64]
LENGTHS = [1, 3, 5, 50, 200]  # few queries, one block, several
SIZES = [1e-30, 1e-3, 100.0, 1e10, 1e30]
FORMS = [(1, 40), (5, 40), (70, 70)]
if "MAGNITUDES" in os.environ:  # another unit, by `test_in_other_units`: a length of each kind
    # Units share the mathematics; what differs is how tiles are walked. float64 is what large
    # scores come to anyway.
    DTYPES, LENGTHS = [np.float32], [3, 200]
    SIZES, FORMS = [1e-30, 100.0, 1e30], [(5, 40), (70, 70)]
LARGEST = float(np.finfo(np.float32).max)


def attend(q, k, v, dout=None, **options):
    """Return out, lse, the weights and all gradients; dout is ones."""
    out, ctx = F.attention_forward(q, k, v, **options)
    dout = np.ones_like(out) if dout is None else dout
    grads = F.attention_backward(dout, ctx)
    plain = {name: x for name, x in options.items() if name not in ("dropout", "rng")}
    return out, ctx.lse, F.attention_weights(q, k, **plain), grads


def _arrays(results):
    """What `attend` returned, without lse and the bias's gradient."""
    return results[0], results[2], *results[3][:3]


def assert_near(got, exact, terms=1.0):
    """Compare with exact numbers, beside the size of the ``terms`` that cancelled."""
    rtol = 3e-6 if got.dtype == np.float32 else 1e-13
    with np.errstate(over="ignore"):
        rounded = np.asarray(exact).astype(got.dtype)
    np.testing.assert_allclose(got, rounded, rtol=rtol, atol=rtol * terms)


def assert_as_reference(q, k, v, dout, dtype=np.float32, atol=2e-5, **options):
    """Compare all results with the reference, relative to the largest number of each."""
    operands = [np.asarray(x, dtype).reshape(1, -1, *np.shape(x)[-2:]) for x in (q, k, v, dout)]
    q, k, v, dout = operands
    if "bias" in options:
        options["bias"] = np.asarray(options["bias"], dtype)
    out, lse, weights, grads = attend(q, k, v, dout, **options)
    exact = reference.attention(q, k, v, **options)
    exact_grads = reference.attention_backward(dout, q, k, v, **options)
    atol = atol if dtype == np.float32 else 1e-11
    largest = [np.abs(x.astype(np.float64)).max() for x in (q, k, v, dout)]
    dscores = largest[2] * largest[3] * v.shape[-1]  # of what cancels in them
    scale = abs(options.get("scale", q.shape[-1] ** -0.5))
    terms = [scale * dscores * largest[1], scale * dscores * largest[0], 0.0, dscores]
    pairs = [(out, exact.out), (weights, exact.weights), *zip(grads, exact_grads, strict=True)]
    for (got, want), size in zip(pairs, [0.0, 0.0, *terms], strict=True):
        assert (got is None) == (want is None)
        if got is not None:
            size = max(size, np.abs(want).max(initial=0.0))
            np.testing.assert_allclose(got, want, rtol=atol, atol=atol * size)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(lse, exact.lse.astype(dtype), rtol=1e-6, atol=1e-6)


# --- Equal rows: every weight is 1 / S -----------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize("size", [1e3, 1e5, 1e9, 1e15, 1e18, 1e30])
def test_equal_scores(size, T, dtype):
    """Scores of size**2 * 8: the log of their number is far below their last bit."""
    x, v = np.full((T, 64), size, dtype), np.ones((T, 64), dtype)
    out, lse, weights, grads = attend(x, x, v)
    assert_near(out, np.ones((T, 64)))
    assert_near(weights, np.full((T, T), 1 / T))
    assert_near(grads.dv, np.ones((T, 64)))
    assert_near(lse, np.full(T, 8 * float(size) ** 2 + np.log(T)))
    np.testing.assert_array_equal(grads.dq, 0)
    np.testing.assert_array_equal(grads.dk, 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize("size", [1e20, 1e30])
def test_equal_scores_below_zero(size, T, dtype):
    """Where float32 cannot hold them they are -inf there, and would look hidden."""
    x, v = np.full((T, 64), size, dtype), np.ones((T, 64), dtype)
    out, _, weights, grads = attend(x, -x, v)
    assert_near(out, np.ones((T, 64)))
    assert_near(weights, np.full((T, T), 1 / T))
    assert_near(grads.dv, np.ones((T, 64)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize("size", [-1e9, -1e10, -1e30, -LARGEST, 1e10, 1e30, LARGEST])
def test_equal_biases(size, T, dtype):
    q, k, v = np.zeros((T, 8), dtype), np.zeros((100, 8), dtype), np.ones((100, 8), dtype)
    out, lse, weights, grads = attend(q, k, v, bias=np.full((T, 100), size, dtype))
    assert_near(out, np.ones((T, 8)))
    assert_near(weights, np.full((T, 100), 0.01))
    assert_near(lse, np.full(T, size + np.log(100)))
    assert_near(grads.dv, np.full((100, 8), 0.01 * T))


@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize("size", [-1e9, -1e5, 1e5])
def test_a_common_bias_changes_nothing(size, T, rng):
    """In float32 the sum with -1e9 would leave nothing of the scores."""
    q, k, v = (rng.standard_normal((n, 16)).astype(np.float32) for n in (T, 30, 30))
    bias = np.full((T, 30), size, np.float32)
    plain, shifted = attend(q, k, v), attend(q, k, v, bias=bias)
    for got, want in zip(_arrays(shifted), _arrays(plain), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


# --- One score far from the others ---------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize("size", [1e4, 1e5, 1e8, 1e15, 1e25])
def test_a_row_sees_the_key_that_is_its_own(size, T, dtype, rng):
    x = (size * rng.standard_normal((200, 64))).astype(dtype)
    v = rng.standard_normal((200, 64)).astype(dtype)
    out, _, weights, grads = attend(x[:T], x, v)
    np.testing.assert_array_equal(out, v[:T])
    np.testing.assert_array_equal(weights, np.eye(T, 200))
    np.testing.assert_array_equal(
        grads.dv, np.repeat(np.eye(200)[:, :T].sum(1), 64).reshape(200, 64)
    )
    assert np.isfinite(grads.dq).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T", [1, 4, 5, 70])
@pytest.mark.parametrize(
    ("bias", "weights"),
    [
        ([-LARGEST, -LARGEST, -LARGEST], [1 / 3, 1 / 3, 1 / 3]),
        ([-LARGEST, -np.inf, -np.inf], [1, 0, 0]),
        ([LARGEST, 0, 0], [1, 0, 0]),
        ([LARGEST, -LARGEST, LARGEST], [0.5, 0, 0.5]),
        ([0, -LARGEST, -np.inf], [1, 0, 0]),
        ([-np.inf, -np.inf, -np.inf], [0, 0, 0]),
        ([3e38, 2.9e38, -np.inf], [1, 0, 0]),
    ],
)
def test_bias_at_the_end_of_float32(bias, weights, T, dtype, rng):
    """-inf hides a key, finite numbers never do."""
    q, k, v = np.zeros((T, 8), dtype), np.zeros((3, 8), dtype), rng.standard_normal((3, 8))
    bias, v = np.broadcast_to(np.array(bias, dtype), (T, 3)), v.astype(dtype)
    out, _, got, grads = attend(q, k, v, bias=bias)
    assert_near(got, np.tile(weights, (T, 1)))
    assert_near(out, np.tile(weights @ v.astype(np.float64), (T, 1)))
    assert_near(grads.dv, T * np.tile(np.array(weights)[:, None], 8))
    # q k = -1e38 takes the sum with the bias beyond float32: the key still counts, if alone.
    q, k = np.full((T, 1), -1e19, dtype), np.full((3, 1), 1e19, dtype)
    assert_near(F.attention_weights(q, k, bias=bias, scale=1.0), np.tile(weights, (T, 1)))


@pytest.mark.parametrize("T", [1, 4, 5, 70])
@pytest.mark.parametrize("masked", [False, True])
def test_a_product_overflows_on_the_way(T, masked):
    """-1e50 + 2e50 in float32 is -inf, though the sum of the two is positive."""
    q = np.full((T, 2), 1e25, np.float32)
    k = np.zeros((70, 2), np.float32)
    k[40] = -1e25, 2e25
    v = np.zeros((70, 2), np.float32)
    v[40] = 3.0
    mask = masks.padding([60]) if masked else None
    assert_near(F.attention(q, k, v, mask=mask), np.full((T, 2), 3.0))
    assert_near(F.attention_weights(q, k, mask=mask)[:, 40], np.ones(T))


def test_what_is_hidden_may_overflow(rng):
    """Only what is seen counts, and decides how a call is done."""
    q, k, v = (rng.standard_normal((70, 16)).astype(np.float32) for _ in range(3))
    mask = masks.padding([60])
    want = attend(q, k, v, mask=mask)
    k[60:] = -3e38
    got = attend(q, k, v, mask=mask)
    for x, y in zip(_arrays(got), _arrays(want), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    assert F.attention_forward(q, k, v, mask=mask)[1].stats.dtype == np.float32


# --- Values and gradients ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T", LENGTHS)
def test_values_at_the_end_of_their_dtype(T, dtype):
    """A sum of exponentials times values overflows before it is divided."""
    size = float(np.finfo(dtype).max) / (2 if dtype == np.float32 else 1e4)
    x = np.ones((T, 8), dtype)
    v = np.full((150, 8), size, dtype)
    out, ctx = F.attention_forward(x, np.ones((150, 8), dtype), v)
    assert_near(out, np.full((T, 8), size), terms=size)
    grads = F.attention_backward(np.full_like(out, 1e-30), ctx)
    assert_near(grads.dv, np.full((150, 8), 1e-30 * T / 150), terms=0)


@pytest.mark.parametrize("T", LENGTHS)
def test_gradients_whose_parts_overflow(T, rng):
    """dout v^T is beyond float32, its product with small keys is not."""
    q, k, v, dout = (rng.standard_normal((n, 16)) for n in (T, 100, 100, T))
    assert_as_reference(1e-20 * q, 1e-20 * k, 1e25 * v, 1e25 * dout)


# --- Factors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize("softcap", [None, 5.0, 1e-46, 1e38, 1e-300])
@pytest.mark.parametrize("scale", [0.0, -0.0, 1e-46, 1e-320, -1e-46])
def test_no_scale_to_speak_of(scale, softcap, T, dtype, rng):
    """All weights are equal, and so small a scale has no gradient."""
    q, k, v = (rng.standard_normal((n, 8)).astype(dtype) for n in (T, 60, 60))
    out, lse, weights, grads = attend(q, k, v, scale=scale, softcap=softcap)
    assert_near(weights, np.full((T, 60), 1 / 60))
    assert_near(out, np.tile(v.mean(axis=0, dtype=np.float64), (T, 1)))
    assert_near(lse, np.full(T, np.log(60)))
    assert_near(grads.dv, np.full((60, 8), T / 60))
    assert np.abs(grads.dq).max() < 1e-40
    assert np.abs(grads.dk).max() < 1e-40


@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize("scale", [1e30, -1e30, 1e38, 1e60])
def test_a_scale_makes_up_for_small_numbers(scale, T, rng):
    q, k, v, dout = (rng.standard_normal((n, 16)) for n in (T, 60, 60, T))
    small = scale and abs(scale) ** -0.5
    assert_as_reference(
        small * q, small * k, v, dout, scale=scale, atol=1e-3 if abs(scale) > 1e40 else 2e-5
    )


# --- All sorts of calls, at many sizes -----------------------------------------------------------

OPTIONS = {
    "plain": {},
    "causal": {"mask": masks.causal()},
    "window": {"mask": masks.window(9, 5)},
    "bias": {"bias": 1.0},
    "bias, causal": {"bias": 1.0, "mask": masks.causal()},
    "softcap": {"softcap": 4.0},
    "negative scale": {"scale": -0.3},
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("T", "S"), FORMS)
def test_against_the_reference(T, S, options, size, dtype, rng):
    """Grouped heads, one size for q and k; where scores are large one key takes it all."""
    shapes = ((4, T, 8), (2, S, 8), (2, S, 8), (4, T, 8))
    q, k, v, dout = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    chosen = dict(OPTIONS[options])
    if "bias" in chosen:
        chosen["bias"] = (size * rng.standard_normal((T, S))).astype(dtype)
    q, k = (size**0.5 * x for x in (q, k))
    assert_as_reference(q.astype(dtype), k.astype(dtype), v, dout, dtype, **chosen)


def test_dropout_of_large_scores(rng):
    """The same pattern whichever way a call takes."""
    q, k, v = (rng.standard_normal((80, 64)).astype(np.float32) for _ in range(3))
    options = {"dropout": 0.4, "softcap": 1e-3}

    def run(x, scale):
        out, ctx = F.attention_forward(
            x, k, v, scale=scale, rng=np.random.default_rng(1), **options
        )
        return out, *F.attention_backward(np.ones_like(out), ctx)[:3]

    small, large = run(q, 0.1), run(q * np.float32(1e30), 1e-31)
    np.testing.assert_allclose(large[0], small[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(large[3], small[3], rtol=1e-5, atol=1e-6)


# --- What a context keeps ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T", [1, 5, 70])
@pytest.mark.parametrize("size", [1.0, 1e3, 1e8, 1e20])
def test_merging_keeps_the_sums(size, T, dtype, rng):
    """One float32 lse of 1e9 has lost that one part holds three keys of four; contexts have not."""
    x, v = np.full((T, 16), size, dtype), rng.standard_normal((80, 16)).astype(dtype)
    keys = np.full((80, 16), size, dtype)
    parts = [F.attention_forward(x, keys[s], v[s]) for s in (slice(0, 60), slice(60, 80))]
    out, lse = F.merge_attention([out for out, _ in parts], [ctx for _, ctx in parts])
    assert_near(out, np.tile(v.mean(axis=0, dtype=np.float64), (T, 1)))
    whole = F.attention_forward(x, keys, v)[1].lse
    np.testing.assert_allclose(lse, whole, rtol=3e-7)
    assert out.dtype == lse.dtype == dtype


def test_merging_with_a_bias_and_with_nothing_to_see(rng):
    """Scores are then kept in another measure; a part may be empty."""
    q, k, v = (rng.standard_normal((1, 6, 8)).astype(np.float32) for _ in range(3))
    bias = np.float32(1e6) * np.ones((6, 6), np.float32)
    seen = np.tril(np.ones((6, 6), bool))
    ways = []
    for keys in (slice(0, 2), slice(2, 6)):
        ways.append(
            F.attention_forward(q, k[:, keys], v[:, keys], bias=bias[:, keys], mask=seen[:, keys])
        )
    out, _ = F.merge_attention([way[0] for way in ways], [way[1] for way in ways])
    np.testing.assert_allclose(out, F.attention(q, k, v, mask=seen), rtol=1e-5, atol=1e-6)


def test_maps_of_large_scores(rng):
    x = (1e15 * rng.standard_normal((100, 64))).astype(np.float32)
    np.testing.assert_allclose(F.attention_map(x, x, bins=(10, 10)), np.eye(10), atol=1e-6)


@pytest.mark.parametrize("T", [1, 5, 130])
def test_ordinary_scores_stay_in_their_dtype(T, rng):
    """Also those of a model that is quite sure, and with biases of -1e9 that hide."""
    q, k, v = (20 * rng.standard_normal((n, 32)).astype(np.float32) for n in (T, 130, 130))
    bias = np.where(rng.random((T, 130)) < 0.5, -1e9, 0).astype(np.float32)
    bias[:, 0] = 0.0
    for options in ({}, {"bias": bias}):
        assert (
            F.attention_forward(q * np.float32(0.1), k, v, **options)[1].stats.dtype == np.float32
        )


@pytest.mark.parametrize("T", [1, 5, 130])
def test_infinite_scores_are_nan(T):
    """As documented, whichever way."""
    q = np.ones((T, 32), np.float32)
    k = np.ones((130, 32), np.float32)
    k[7] = np.inf
    out = F.attention(q, k, k)
    assert np.isnan(out).all()


@pytest.mark.slow
@pytest.mark.skipif("MAGNITUDES" in os.environ, reason="this is the other process")
@pytest.mark.parametrize("setting", ["AMX=0", "AMX=always", "LANES=4"])
def test_in_other_units(setting):
    """The same tests with all that can be on the matrix unit, without it, in narrower registers.

    Of each table a part, 208 of 808 tests: those in which units differ. Of the narrower registers
    the narrowest: each width compiles every kernel for a minute and a half, and eight lanes have
    `test_every_width` and the targets of `test_target`.
    """
    name, value = setting.split("=")
    env = {**os.environ, f"MINIATTN_{name}": value, "MAGNITUDES": setting}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-n", "0"]
    here = Path(__file__)
    done = subprocess.run(
        [*command, str(here)], env=env, cwd=here.parents[2], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
