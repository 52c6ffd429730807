"""EncoderDecoder: gradients, padding that cannot be noticed, decoding, sharing of tables."""

import numpy as np
import pytest

from miniattn import gradcheck, models, trace

V = 9
SMALL = {
    "embed_dim": 8,
    "num_heads": 2,
    "num_encoder_layers": 1,
    "num_decoder_layers": 2,
    "ffn_dim": 6,
    "dtype": np.float64,
}
CONFIGS = {
    "sinusoidal": {},
    "post-norm, untied": {"norm_first": False, "activation": "tanh", "tied": False},
    "learned, own vocabulary": {"target_vocab_size": 7, "positions": "learned"},
    "llama": {"positions": "rotary", "norm": "rms", "activation": "swiglu", "bias": False},
    "alibi, dropout": {"positions": "alibi", "dropout": 0.2},
}


def make(name, rng):
    model = models.EncoderDecoder(V, rng=rng, **{**SMALL, **CONFIGS[name]})
    for parameter in model.parameters():
        parameter.data += 0.3 * rng.standard_normal(parameter.shape)
    return model


def batch(rng):
    return rng.integers(0, V, (3, 5)), rng.integers(0, 7, (3, 4))


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients(name, rng):
    model, (source, target) = make(name, rng), batch(rng)
    options = {"source_lengths": [5, 2, 0], "rng": np.random.default_rng(1)}
    inputs = {"source": source, "target": target}
    assert gradcheck(model, inputs, samples=4, **options).passed


def test_one_table_for_one_vocabulary(rng):
    model = make("sinusoidal", rng)
    assert model.head.weight is model.target_tokens.weight is model.source_tokens.weight
    own = make("learned, own vocabulary", rng)
    assert own.head.weight is own.target_tokens.weight is not own.source_tokens.weight
    untied = make("post-norm, untied", rng)
    assert (
        len({id(m.weight) for m in (untied.head, untied.target_tokens, untied.source_tokens)}) == 3
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_source_padding_cannot_be_noticed(name, rng):
    model, (source, target) = make(name, rng), batch(rng)
    lengths = np.array([5, 2, 1])
    logits = model(source, target, lengths)
    poisoned = np.where(np.arange(5) < lengths[:, None], source, -(10**9))
    np.testing.assert_array_equal(model(poisoned, target, lengths), logits)
    for row, length in enumerate(lengths):
        alone = model(source[row : row + 1, :length], target[row : row + 1])
        np.testing.assert_allclose(logits[row], alone[0], rtol=1e-9, atol=1e-11)


def test_the_future_of_the_target_is_not_seen(rng):
    model, (source, target) = make("sinusoidal", rng), batch(rng)
    changed = target.copy()
    changed[:, 2:] = (changed[:, 2:] + 1) % 7
    np.testing.assert_array_equal(model(source, target)[:, :2], model(source, changed)[:, :2])


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_same_tokens_with_and_without_a_cache(name, temperature, rng):
    model, sources = make(name, rng), [[1, 2, 3], [4], [5, 6, 7, 8, 0]]
    with_cache, without = (
        model.generate(
            sources,
            6,
            start=2,
            temperature=temperature,
            use_cache=use,
            rng=np.random.default_rng(3),
        )
        for use in (True, False)
    )
    np.testing.assert_array_equal(with_cache, without)


def test_generate_takes_the_likeliest_by_default(rng):
    model, (source, _) = make("sinusoidal", rng), batch(rng)
    written = model.generate(source, 4, start=1)
    assert written.shape == (3, 4)
    read = np.concatenate([np.full((3, 1), 1), written[:, :-1]], axis=1)
    np.testing.assert_array_equal(model(source, read).argmax(axis=-1), written)


def test_generate_answers_in_the_form_of_the_sources_and_stops(rng):
    model = make("sinusoidal", rng)
    assert model.generate([1, 2, 3], 4, start=0).shape == (4,)
    free = model.generate([[1, 2], [3]], 5, start=0, temperature=2.0, rng=np.random.default_rng(0))
    assert [row.shape for row in free] == [(5,), (5,)]
    stop = int(free[0][1])
    options = {"start": 0, "temperature": 2.0, "stop": stop}
    stopped = model.generate([[1, 2], [3]], 5, rng=np.random.default_rng(0), **options)
    assert stopped[0].tolist() == free[0][: free[0].tolist().index(stop) + 1].tolist()
    pieces = list(model.stream([[1, 2], [3]], 5, start=0))
    assert [p.shape for p in pieces] == [(2,)] * 5


def test_attention_by_path(rng):
    model, (source, target) = make("sinusoidal", rng), batch(rng)
    _, maps = trace.run(model, source, target)
    assert list(maps.weights) == [
        "encoder.layers.0.attn",
        "decoder.layers.0.self_attn",
        "decoder.layers.0.cross_attn",
        "decoder.layers.1.self_attn",
        "decoder.layers.1.cross_attn",
    ]
    assert maps["decoder.layers.1.cross_attn.weights"].shape == (3, 2, 4, 5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: models.EncoderDecoder(0), ValueError, "vocab_size"),
        (lambda m: models.EncoderDecoder(4, positions="rope"), ValueError, "positions"),
        (
            lambda m: models.EncoderDecoder(4, num_decoder_layers=0),
            ValueError,
            "num_decoder_layers: expected",
        ),
        (
            lambda m: m(np.array([1]), np.array([[1]])),
            ValueError,
            r"source: expected shape \(B, S\)",
        ),
        (
            lambda m: m(np.array([[1]]), np.array([1])),
            ValueError,
            r"target: expected shape \(B, T\)",
        ),
        (lambda m: m(np.array([[1.5]]), np.array([[1]])), TypeError, "source: expected an integer"),
        (lambda m: m(np.array([[1]]), np.array([[V]])), ValueError, "ids: expected ids in"),
        (
            lambda m: m(np.array([[1]]), np.array([[1]]), [2]),
            ValueError,
            "source_lengths: expected numbers in",
        ),
        (lambda m: m.generate([V], 2, start=0), ValueError, "source: expected ids in"),
        (lambda m: m.generate([1], 2, start=0, top_k=-1), ValueError, "top_k"),
        (lambda m: m.generate([1], 2, start=V), ValueError, r"start: expected ids in \[0, V\)"),
    ],
)
def test_wrong_calls(call, error, message):
    with pytest.raises(error, match=message):
        call(models.EncoderDecoder(V, **SMALL))


def listener(rng):
    sizes = {**SMALL, "num_decoder_layers": 1}
    return models.EncoderDecoder(
        V, input_dim=3, positions="learned", max_length=9, rng=rng, **sizes
    )


def test_no_features_are_refused(rng):
    with pytest.raises(ValueError, match="source: expected at least one sequence of features"):
        listener(rng).generate([], 2, start=1)


def test_features_are_read_by_two_convolutions(rng):
    """By hand: zeros beyond the ends, every other step of the second."""
    stem = listener(rng).source_tokens
    x = rng.standard_normal((1, 5, 3))

    def convolved(x, layer, steps):
        padded = np.concatenate([np.zeros((1, x.shape[1])), x, np.zeros((1, x.shape[1]))])
        rows = [np.concatenate(padded[t : t + 3]) for t in steps]
        return stem.activation(np.array(rows) @ layer.linear.weight.data.T + layer.linear.bias.data)

    for convolution in (stem.first, stem.second):
        convolution.linear.bias.data += rng.standard_normal(8)
    h = convolved(x[0], stem.first, range(5))
    wanted = convolved(h, stem.second, range(0, 5, 2))
    np.testing.assert_allclose(stem(x, np.array([5]))[0], wanted, rtol=1e-12)


def test_padding_of_features_cannot_be_noticed(rng):
    model, target = listener(rng), rng.integers(0, V, (2, 4))
    for parameter in model.parameters():
        parameter.data += 0.3 * rng.standard_normal(parameter.shape)
    x, lengths = rng.standard_normal((2, 7, 3)), np.array([7, 4])
    y, ctx = model.forward(x, target, lengths)
    np.testing.assert_allclose(y[1:], model(x[1:, :4], target[1:]), rtol=1e-12, atol=1e-14)
    x[1, 4:] = np.nan
    np.testing.assert_array_equal(model(x, target, lengths), y)
    dx = model.backward(y, ctx)
    assert (dx[1, 4:] == 0).all()
    assert (dx[1, :4] != 0).all()
    rows = [x[0], x[1, :4]]
    for start in (1, [1, 2]):
        together = model.generate(rows, 5, start=start)
        for row, own in zip(rows, together, strict=True):
            assert own.tolist() == model.generate(row, 5, start=start, use_cache=False).tolist()
            assert own.shape == (5,)
        beams = model.beam_search(rows, 5, start=start, beams=2)
        assert beams[1].tolist() == model.beam_search(rows[1], 5, start=start, beams=2).tolist()
    assert model.generate(x[:, :4], 5, start=1).shape == (2, 5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m(np.ones((1, 4, 2)), IDS), ValueError, "source: expected shape .* input_dim"),
        (lambda m: m(IDS, IDS), TypeError, "source: expected a float"),
        (
            lambda m: m(np.ones((1, 4, 3), np.float32), IDS),
            TypeError,
            "source: expected dtype float64",
        ),
        (lambda m: m.generate([1, 2], 2, start=0), TypeError, r"source\[0\]: expected a float"),
        (lambda m: m.generate(np.ones((4, 3)), 2, start=[]), ValueError, "start: .* at least one"),
        (
            lambda m: models.EncoderDecoder(4, 5, input_dim=3),
            ValueError,
            "target_vocab_size: expected None beside input_dim",
        ),
    ],
)
def test_wrong_features(call, error, message, rng):
    with pytest.raises(error, match=message):
        call(listener(rng))


IDS = np.array([[1, 2]])
