"""Scores by functions of the user's: every kind against the reference, and what users get wrong.

The functions are those that FlexAttention's examples and attention-gym have, where they are of one
score and its place. `reference` calls them as the Python that they are.
"""

import math

import numpy as np
import pytest

import miniattn as ma
import miniattn.functional as F
from miniattn import masks, reference, scores

B, H, G, T, S, D, DV = 2, 4, 2, 40, 70, 5, 3


@scores.function
def same(s, b, h, i, j):
    return s


@same.backward
def _(ds, s, b, h, i, j):
    return ds


@scores.function
def relative_position(s, b, h, i, j):
    return s + 0.1 * (i - j)


@relative_position.backward
def _(ds, s, b, h, i, j):
    return ds


@scores.function
def by_head(s, b, h, i, j, scale):
    return s * scale[h]


@by_head.backward
def _(ds, s, b, h, i, j, scale, dscale):
    dscale[h] += ds * s
    return ds * scale[h]


@scores.function
def relative(s, b, h, i, j, table, most):
    return s + table[h, j - i + most]


@relative.backward
def _(ds, s, b, h, i, j, table, most, dtable):
    dtable[h, j - i + most] += ds
    return ds


@scores.function
def swin(s, b, h, i, j, table, across):
    """A bias by the distance of two patches, down and across."""
    down = j // across - i // across
    return s + table[down + 9, j % across - i % across + across - 1, h]


@swin.backward
def _(ds, s, b, h, i, j, table, across, dtable):
    down = j // across - i // across
    dtable[down + 9, j % across - i % across + across - 1, h] += ds
    return ds


@scores.function
def own_document(s, b, h, i, j, ids, penalty):
    return s if ids[b, i] == ids[b, j] else s - penalty[0]


@own_document.backward
def _(ds, s, b, h, i, j, ids, penalty, dpenalty):
    if ids[b, i] != ids[b, j]:
        dpenalty[0] -= ds
    return ds


@scores.function
def window_by_inf(s, b, h, i, j, width):
    return s if i - width <= j <= i else -math.inf


@window_by_inf.backward
def _(ds, s, b, h, i, j, width):
    return ds


@scores.function
def tanh_cap(s, b, h, i, j, cap):
    return cap[0] * math.tanh(s / cap[0])


@tanh_cap.backward
def _(ds, s, b, h, i, j, cap, dcap):
    t = math.tanh(s / cap[0])
    dcap[0] += ds * (t - s / cap[0] * (1 - t * t))
    return ds * (1 - t * t)


@scores.by_distance
def near_is_dear(h, d, table, rate):
    return table[h, min(abs(d), 9)] * rate


@near_is_dear.backward
def _(dbias, h, d, table, rate, dtable):
    dtable[h, min(abs(d), 9)] += dbias * rate


def cases(rng):
    table = rng.standard_normal
    ids = rng.integers(0, 3, (B, S))
    causal, window = masks.causal(), masks.window(5, 2)
    return {
        "same": (same(), {}),
        "relative position": (relative_position(), {"mask": causal}),
        "alibi": (scores.alibi(np.abs(table(H))), {"mask": causal}),
        "alibi, all keys, dropout": (scores.alibi(H, np.float64), {"dropout": 0.3}),
        "a scale by head": (by_head(table(H)), {"bias": table((H, 1, S))}),
        "a table": (relative(table((H, 200)), 100), {"mask": causal & masks.padding([60, 0])}),
        # As small as the window: pairs that it hides would be outside.
        "a table of a window": (relative(table((H, 8)), 5), {"mask": masks.window(5, 2, 0)}),
        "T5": (scores.t5_bias(table((32, H))), {"mask": window}),
        "T5, one direction": (
            scores.t5_bias(table((8, H)), bidirectional=False, max_distance=20),
            {"mask": causal},
        ),
        "Swin": (swin(table((19, 15, H)), 8), {}),
        "documents": (own_document(ids, np.array([0.7])), {"softcap": 2.0}),
        "a window by -inf": (window_by_inf(6), {"mask": masks.causal(0)}),
        "a cap": (tanh_cap(np.array([1.5])), {"scale": 0.7}),
        "decay": (scores.decay(-np.abs(table(H))), {"mask": masks.causal(0)}),
        "relative, far ones share": (
            scores.relative(table((H, 12)), 7),
            {"mask": masks.causal()},
        ),
        "by distance": (near_is_dear(table((H, 10)), 0.3), {"bias": table((1, S))}),
        "by distance, some hidden": (
            near_is_dear(table((H, 10)), 0.3),
            {"mask": masks.window(30, 9) & rng.integers(0, 9, (T, S)).astype(bool)},
        ),
        "moved": (scores.alibi(H, np.float64).shifted(np.array([3, 30])), {}),
    }


NAMES = list(cases(np.random.default_rng(0)))


def as_dtype(x, dtype):
    if isinstance(x, scores.Score):
        return x._replace(tables=tuple(as_dtype(table, dtype) for table in x.tables))
    return x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x


def operands(rng, dtype=np.float64):
    shapes = (B, H, T, D), (B, G, S, D), (B, G, S, DV), (B, H, T, DV)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def flat(grads):
    """All gradients by name, those of tables one by one."""
    found = {name: x for name, x in grads._asdict().items() if name != "dscore" and x is not None}
    tables = enumerate(grads.dscore or ())
    return found | {f"dscore[{n}]": x for n, x in tables if x is not None}


@pytest.mark.parametrize("name", NAMES)
def test_functions_against_the_reference(name, rng):
    score, options = cases(rng)[name]
    q, k, v, dout = operands(rng)
    spec = dict(options, score=score)
    if "dropout" in options:
        eye = np.broadcast_to(np.eye(S), (B, G, S, S))
        spec["keep"] = F.attention(q, k, eye, **spec, rng=np.random.default_rng(5)) != 0
        options = {**options, "rng": np.random.default_rng(5)}
    out, ctx = F.attention_forward(q, k, v, score=score, **options)
    want = reference.attention(q, k, v, **spec)
    np.testing.assert_allclose(out, want.out, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(ctx.lse, want.lse, rtol=1e-12, atol=1e-13)
    plain = {key: x for key, x in options.items() if key not in ("dropout", "rng")}
    weights = F.attention_weights(q, k, score=score, **plain)
    np.testing.assert_allclose(weights, want.weights, rtol=1e-12, atol=1e-14)
    got = flat(F.attention_backward(dout, ctx))
    right = flat(reference.attention_backward(dout, q, k, v, **spec))
    assert got.keys() == right.keys()
    for key, x in got.items():
        size = np.abs(right[key]).max(initial=1)
        np.testing.assert_allclose(x, right[key], rtol=0, atol=1e-12 * size, err_msg=key)


@pytest.mark.parametrize("name", ["alibi", "a table", "a window by -inf"])
def test_functions_in_float32(name, rng):
    score, options = as_dtype(cases(rng)[name][0], np.float32), cases(rng)[name][1]
    *inputs, dout = operands(rng, np.float32)
    out, ctx = F.attention_forward(*inputs, score=score, **options)
    got = {"out": out, **flat(F.attention_backward(dout, ctx))}
    want = {"out": reference.attention(*inputs, score=score, **options).out}
    want |= flat(reference.attention_backward(dout, *inputs, score=score, **options))
    for key, x in got.items():
        assert x.dtype == np.float32
        size = np.abs(want[key]).max(initial=1)
        np.testing.assert_allclose(x, want[key], rtol=0, atol=3e-6 * size, err_msg=key)


@pytest.mark.parametrize("name", ["alibi", "a table of a window", "a cap"])
def test_gradcheck_judges_the_backward_half(name, rng):
    score, options = cases(rng)[name]
    q, k, v, _ = operands(rng)

    def forward(q, k, v, table):
        given = score._replace(tables=(table, *score.tables[1:]))
        return F.attention_forward(q, k, v, score=given, **options)

    def backward(dout, ctx):
        grads = F.attention_backward(dout, ctx)
        return grads.dq, grads.dk, grads.dv, *(x for x in grads.dscore if x is not None)

    inputs = q[:1], k[:1], v[:1], score.tables[0]
    ma.gradcheck(forward, inputs, backward=backward, samples=12)


def test_a_wrong_backward_half_is_seen(rng):
    @scores.function
    def scaled(s, b, h, i, j):
        return 3 * s

    @scaled.backward
    def _(ds, s, b, h, i, j):
        return 2 * ds

    q, k, v = rng.standard_normal((3, 4, 3))
    with pytest.raises(ma.GradcheckError, match="q"):
        ma.gradcheck(F.attention_forward, {"q": q, "k": k, "v": v}, score=scaled())


def test_the_same_bits_for_any_number_of_threads(rng):
    """Also where many pieces of work add to one table."""
    *inputs, dout = operands(rng, np.float32)
    found = []
    for threads in (1, 2):
        with ma.threads(threads):
            score = as_dtype(relative(np.ones((H, 200)), 100), np.float32)
            out, ctx = F.attention_forward(*inputs, score=score)
            found.append([out, *flat(F.attention_backward(dout, ctx)).values()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_nothing_of_size_T_x_S(rng):
    """ALiBi as an array would take 17 GB."""
    x = rng.standard_normal((1, 1, 65_536, 4)).astype(np.float32)
    out = F.attention(x, x, x, mask=masks.window(8, 8), score=scores.alibi(1))
    assert np.isfinite(out).all()


def test_hidden_poison_reaches_no_table(rng):
    score = relative(rng.standard_normal((H, 200)), 100)
    *inputs, dout = operands(rng)
    options = {"mask": masks.padding([S - 20, S]), "score": score}
    clean = flat(F.attention_backward(dout, F.attention_forward(*inputs, **options)[1]))
    inputs[1][0, :, S - 5] = np.nan
    dirty = flat(F.attention_backward(dout, F.attention_forward(*inputs, **options)[1]))
    for key, x in clean.items():
        np.testing.assert_array_equal(dirty[key], x, err_msg=key)


def test_a_softcap_is_the_option(rng):
    """To the bit: it is the same code."""
    q, k, v, _ = operands(rng)
    got = F.attention(q, k, v, score=scores.softcap(2.0))
    np.testing.assert_array_equal(got, F.attention(q, k, v, softcap=2.0))


def test_decoding_sees_what_the_whole_sees(rng):
    q, k, v, _ = operands(rng)
    k, v = k[:, :, :T], v[:, :, :T]
    score = scores.alibi(H, np.float64)
    whole = F.attention(q, k, v, mask=masks.causal(), score=score)
    for i in (0, 7, T - 1):
        last = q[:, :, i : i + 1], k[:, :, : i + 1], v[:, :, : i + 1]
        step = F.attention(*last, score=score.shifted(i))
        np.testing.assert_allclose(step, whole[:, :, i : i + 1], rtol=1e-12)


def test_scores_beyond_float32_are_done_in_float64(rng):
    q, k, v, dout = (rng.standard_normal((1, 2, 9, 4)).astype(np.float32) for _ in range(4))
    found = []
    for dtype in (np.float32, np.float64):
        score = by_head(np.array([1e6, 3e30]).astype(dtype))
        arrays = [x.astype(dtype) for x in (q, k, v, dout)]
        out, ctx = F.attention_forward(*arrays[:3], score=score)
        found.append([out, F.attention_backward(arrays[3], ctx).dscore[0]])
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-6)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-6, atol=1e-30)


# --- Code that changes ---------------------------------------------------------------------------

FACTOR = 2.0


def test_a_changed_global_is_never_stale(rng, monkeypatch):
    @scores.function
    def scaled(s, b, h, i, j):
        return s * FACTOR

    x = rng.standard_normal((3, 2))
    for factor in (FACTOR, 5.0):
        monkeypatch.setitem(globals(), "FACTOR", factor)
        got = F.attention(x, x, x, score=scaled())
        np.testing.assert_allclose(got, F.attention(x, x, x, scale=factor / 2**0.5))


def test_a_changed_closure_is_never_stale(rng):
    def scaled_by(factor):
        return scores.function(lambda s, b, h, i, j: s * factor)

    x = rng.standard_normal((3, 2))
    for factor in (2.0, 5.0):
        got = F.attention(x, x, x, score=scaled_by(factor)())
        np.testing.assert_allclose(got, F.attention(x, x, x, scale=factor / 2**0.5))


def test_a_new_process_reads_the_code_from_disk(python):
    """Of a function that was typed in, as in a notebook: it has no file."""
    code = (
        f"factor = {np.random.default_rng().random()}"
        + """
import time
import numpy as np
import miniattn.functional as F
from miniattn import scores
from miniattn.kernels.compile import user

f = scores.function(lambda s, b, h, i, j, table: s * factor + table[h])
x = np.ones((3, 2))
compiled = []
compile_ = user._compile
def noticed(*args):
    result = compile_(*args)
    compiled.append(result.owner.stats.cache_hits)
    return result
user._compile = noticed
F.attention(x, x, x, score=f(np.ones(1)))
print([sum(hits.values()) for hits in compiled])
"""
    )
    assert python(code).strip() == "[0]"
    assert python(code).strip() == "[1]"


def test_code_of_two_processes_keeps_apart(python):
    """Each calls its loops what the other does; a third process reads both from disk."""
    code = """
import numpy as np
import miniattn.functional as F
from miniattn import masks, scores

def found(rate):
    x = np.zeros((3, 2))
    score = scores.by_distance(lambda h, d: rate * d)()
    weights = F.attention_weights(x, x, mask=masks.causal(), score=score)
    return float((weights[2, 1] / weights[2, 2]).round(6))
"""
    first, second = np.random.default_rng().uniform(0.5, 2, 2).tolist()
    alone = [python(f"{code}print(found({rate}))").strip() for rate in (first, second)]
    both = python(f"{code}print(found({first}), found({second}))")
    assert both.split() == alone


# --- What is refused -----------------------------------------------------------------------------

X = np.zeros((1, 2, 3, 4))


@scores.function
def forward_only(s, b, h, i, j):
    return s


@scores.function
def out_of_range(s, b, h, i, j, table):
    return s + table[i + 1]


@scores.by_distance
def too_far(h, d, table):
    return table[h, d + S]


@too_far.backward
def _(dbias, h, d, table, dtable):
    dtable[h + 1, d + S] += dbias


@scores.function
def not_for_numba(s, b, h, i, j):
    return s.real_part_of_it


def a_method(s, b, h):
    return s


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: scores.function(3), TypeError, "function: expected a function"),
        (lambda: scores.function(a_method), TypeError, r"function: .*s, b, h, i, j"),
        (lambda: same.backward(a_method), TypeError, r"backward: .*ds, s, b, h, i, j"),
        (lambda: same(np.ones(2)), TypeError, "same: tables: expected 0, got 1"),
        (lambda: by_head(), TypeError, "by_head: tables: expected 1, got 0"),
        (lambda: by_head("a"), TypeError, r"tables\[0\]: expected"),
        (lambda: by_head(np.ones(())), ValueError, r"tables\[0\]: .*1 to 4 axes"),
        (lambda: F.attention(X, X, X, score=same), TypeError, "score: expected a function of"),
        (lambda: F.attention(X, X, X, score=lambda s: s), TypeError, "score: expected a function"),
        (
            lambda: F.attention(X, X, X, score=by_head(np.ones(2, np.float32))),
            TypeError,
            r"score.tables\[0\]: expected",
        ),
        (
            lambda: F.attention(X, X, X, score=same().shifted(np.arange(3))),
            ValueError,
            "score: expected a shift for each of 1 batch rows, got 3",
        ),
        (lambda: same().shifted(1.5), TypeError, "offset: expected an integer array"),
        (
            lambda: F.attention_backward(X, F.attention_forward(X, X, X, score=forward_only())[1]),
            TypeError,
            "score: expected a function with a backward half, got forward_only",
        ),
        (
            lambda: F.attention(X, X, X, score=out_of_range(np.ones(3))),
            IndexError,
            "score: out_of_range raised an error",
        ),
        (
            lambda: F.attention(X, X, X, score=too_far(np.ones((2, S)))),
            IndexError,
            "score: too_far raised an error",
        ),
        (
            lambda: F.attention(X, X, X, score=too_far(np.ones((0, S)))),
            IndexError,
            "score: too_far raised an error",
        ),
        (
            lambda: F.attention_backward(
                X, F.attention_forward(X, X, X, score=too_far(np.ones((2, S + 3))))[1]
            ),
            IndexError,
            "score: too_far raised an error",
        ),
        (lambda: scores.by_distance(lambda h: 0.0), TypeError, r"function: .*h, d"),
        (
            lambda: F.attention(X, X, X, score=not_for_numba()),
            TypeError,
            "score: expected a function that Numba can compile, got not_for_numba",
        ),
        (lambda: scores.alibi(0), ValueError, "slopes"),
        (lambda: scores.alibi(np.ones((2, 2))), ValueError, "slopes"),
        (lambda: scores.t5_bias(np.ones((3, 2))), ValueError, "table: expected at least 4 buckets"),
        (lambda: scores.relative(np.ones((2, 3)), 3), ValueError, "table: expected more than"),
        (lambda: scores.decay("a"), TypeError, "rates"),
        (lambda: scores.softcap(0), ValueError, "cap"),
    ],
)
def test_wrong_calls(call, kind, words):
    with pytest.raises(kind, match=words):
        call()
