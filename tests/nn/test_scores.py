"""Functions of scores, sinks and ALiBi in layers and models."""

import numpy as np
import pytest

import miniattn.functional as F
from miniattn import checkpoint, masks, models, nn, scores
from miniattn.data import Windows, stack
from miniattn.functional import cross_entropy
from miniattn.models import GPT
from miniattn.optim import SGD
from miniattn.training import Trainer

B, T, E, H = 2, 9, 8, 2
TEXT = np.arange(16) % 5


@scores.by_distance
def stretched(h, d, table):
    return table[h] * d


@stretched.backward
def _(dbias, h, d, table, dtable):
    dtable[h] += dbias * d


def of_layers(rng, dtype=np.float64):
    return {
        "sink": {"sink": True},
        "T5": {"score": nn.T5Bias(H, buckets=6, max_distance=5, dtype=dtype)},
        "relative, sink": {"score": nn.RelativeBias(H, 2, 1, dtype=dtype), "sink": True},
        "learned ALiBi": {"score": nn.ALiBi(H, dtype=dtype)},
        "of one's own": {"score": stretched(rng.standard_normal(H).astype(dtype))},
        "ALiBi": {"alibi": True},
    }


def shaken(module, rng):
    for parameter in module.parameters():
        parameter.data += 0.3 * rng.standard_normal(parameter.shape).astype(parameter.dtype)
    return module


def attention(rng, **options):
    return shaken(nn.MultiHeadAttention(E, H, rng=rng, dtype=np.float64, **options), rng)


@pytest.mark.parametrize("name", of_layers(np.random.default_rng(0)))
def test_decoding_with_a_cache_equals_one_causal_forward(name, rng):
    attn = attention(rng, **of_layers(rng)[name])
    x = rng.standard_normal((B, T, E))
    wanted, ctx = attn.forward(x, mask=masks.causal())
    cache = attn.new_cache(B, T)
    got = [attn(x[:, a:b], cache=cache) for a, b in ((0, 2), (2, 3), (3, 9))]
    np.testing.assert_allclose(np.concatenate(got, axis=1), wanted, rtol=1e-10, atol=1e-12)
    assert (attn.weights(ctx).sum(axis=-1) < 1).all() == ("sink" in name)


@pytest.mark.parametrize("places", [None, np.arange(T)[::-1] * 3, np.arange(B * T).reshape(B, T)])
def test_alibi_is_the_array_that_it_was(places, rng):
    """In the kernels, by distance or by the places given, in place of an array T x S."""
    attn = attention(rng, alibi=True)
    x, bias = rng.standard_normal((B, T, E)), rng.standard_normal((T, T))
    at = np.arange(T) if places is None else places
    y, ctx = attn.forward(x, positions=places, bias=bias)
    assert ctx.attention.score is not None
    grads = attn.backward(y, ctx)
    attn.alibi = False
    y2, ctx2 = attn.forward(x, bias=bias + nn.alibi_bias(H, at, at, float))
    np.testing.assert_allclose(y, y2, rtol=1e-12, atol=1e-14)
    for a, b in zip(grads, attn.backward(y2, ctx2), strict=True):
        if b is not None:
            a = a if a.shape == b.shape else a[None, None]
            summed = tuple(range(b.ndim - 2)) if a.shape != b.shape else ()
            b = b.sum(axis=summed, keepdims=True) if summed else b
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_a_shared_score_gets_the_gradients_of_all_its_layers(rng):
    x = rng.standard_normal((B, T, E))

    def tables_of(score):
        stack = nn.TransformerEncoder(
            2, E, H, score=score, rng=np.random.default_rng(1), dtype=np.float64
        )
        y, ctx = stack.forward(x)
        stack.backward(y, ctx)
        return [layer.attn.score for layer in stack.layers]

    shared = tables_of(nn.LearnedScore(stretched(np.full(H, 0.1))))
    own = tables_of(stretched(np.full(H, 0.1)))
    assert shared[0] is shared[1]
    assert own[0] is not own[1]
    total = sum(score.tables["table"].grad for score in own)
    np.testing.assert_allclose(shared[0].tables["table"].grad, total, rtol=1e-10)


def test_each_layer_may_have_its_own(rng):
    by_layer = [{"score": nn.ALiBi(H)}, {"sink": True}]
    stack = nn.TransformerEncoder(2, E, H, by_layer=by_layer, rng=rng)
    names = [name for name, _ in stack.named_parameters() if "score" in name or "sink" in name]
    assert names == ["layers.0.attn.score.tables.slopes", "layers.1.attn.sink"]
    assert "ALiBi(alibi, slopes 2)" in repr(stack)
    assert "heads=2, sink" in repr(stack)


def test_a_model_learns_its_tables_and_writes_the_same_with_a_cache(rng):
    score = nn.T5Bias(H, buckets=8, bidirectional=False)
    model = GPT(5, 16, embed_dim=8, num_heads=H, num_layers=2, positions=None, score=score, rng=rng)
    sgd = SGD(model.named_parameters(), lr=0.5)
    trainer = Trainer(model, sgd, rng=rng, collate=stack, batch_size=2, progress=False)
    before = cross_entropy(model(TEXT[None, :-1])[0], TEXT[1:])
    trainer.fit(Windows(TEXT, 8), steps=20)
    assert cross_entropy(model(TEXT[None, :-1])[0], TEXT[1:]) < 0.8 * before
    assert np.any(score.tables["table"].data != 0)
    texts = [model.generate([0, 1], 9, temperature=0, use_cache=use) for use in (True, False)]
    np.testing.assert_array_equal(*texts)


def test_a_function_of_ones_own_is_named_to_load(rng, tmp_path):
    stack = nn.TransformerEncoder(1, E, H, score=stretched(np.ones(H, np.float32)), rng=rng)
    shaken(stack, rng)
    checkpoint.save(tmp_path / "a", stack)
    twin = models.load(tmp_path / "a", classes=[stretched])
    x = rng.standard_normal((1, T, E)).astype(np.float32)
    np.testing.assert_array_equal(twin(x), stack(x))
    with pytest.raises(checkpoint.CheckpointError, match=r"score: expected .*stretched"):
        models.load(tmp_path / "a")


def test_frozen_tables_get_no_gradient(rng):
    attn = attention(rng, score=nn.ALiBi(H, dtype=np.float64), sink=True)
    attn.score.freeze()
    y, ctx = attn.forward(rng.standard_normal((B, T, E)))
    attn.backward(y, ctx)
    assert attn.score.tables["slopes"].grad is None
    assert attn.sink.grad is not None


def test_sinks_are_those_of_attention(rng):
    attn = attention(rng, sink=True)
    _, ctx = attn.forward(rng.standard_normal((B, T, E)))
    a = ctx.attention
    np.testing.assert_array_equal(a.out, F.attention(a.q, a.k, a.v, sink=attn.sink.data))


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: attention(None, score=stretched), TypeError, "score: expected a Score, as f"),
        (lambda: attention(None, score=nn.ALiBi(H)), TypeError, "score: expected .*float64"),
        (
            lambda: attention(None, score=nn.ALiBi(H, dtype=float), alibi=True),
            ValueError,
            "score: expected None beside alibi",
        ),
        (
            lambda: nn.TalkingHeadsAttention(E, H, score=nn.ALiBi(H)),
            ValueError,
            "score: expected none for TalkingHeadsAttention",
        ),
        (
            lambda: nn.TalkingHeadsAttention(E, H, sink=True),
            ValueError,
            "sink: expected none for TalkingHeadsAttention",
        ),
        (lambda: attention(None, sink=1), TypeError, "sink: expected"),
        (lambda: nn.LearnedScore(scores.alibi(H).shifted(1)), ValueError, "score: .*a shift"),
        (lambda: nn.LearnedScore(stretched), TypeError, "score"),
        (lambda: nn.ALiBi(0), ValueError, "num_heads"),
        (lambda: nn.T5Bias(2, buckets=2), ValueError, "buckets"),
        (lambda: nn.RelativeBias(2, -1, 0), ValueError, "behind"),
    ],
)
def test_wrong_calls(call, kind, words):
    with pytest.raises(kind, match=words):
        call()
