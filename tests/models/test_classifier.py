"""SequenceClassifier: gradients, padding that cannot be noticed, pooling, wrong calls."""

import numpy as np
import pytest

from miniattn import gradcheck, masks, models, trace

SMALL = {"embed_dim": 8, "num_heads": 2, "num_layers": 1, "ffn_dim": 6, "dtype": np.float64}
LENGTHS = np.array([5, 2, 1])
CONFIGS = {
    "mean, features": {"input_dim": 3},
    "first, features": {"input_dim": 3, "pooling": "first", "positions": "rotary"},
    "mean, tokens": {"vocab_size": 7, "positions": "sinusoidal"},
    "first, tokens": {"vocab_size": 7, "pooling": "first", "positions": "learned"},
    "alibi, post-norm": {"input_dim": 3, "positions": "alibi", "norm_first": False},
    "attention, features": {"input_dim": 3, "pooling": "attention"},
    "flatten, tokens": {"vocab_size": 7, "pooling": "flatten", "max_length": 6},
    "dropout": {"input_dim": 3, "dropout": 0.2, "activation": "swiglu"},
}


def make(name, rng, **options):
    model = models.SequenceClassifier(4, rng=rng, **{**SMALL, **CONFIGS[name], **options})
    for parameter in model.parameters():
        parameter.data += 0.1 * rng.standard_normal(parameter.shape)
    return model


def batch(name, rng):
    if "vocab_size" in CONFIGS[name]:
        return rng.integers(0, 7, (3, 5))
    return rng.standard_normal((3, 5, 3))


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients(name, rng):
    model, inputs = make(name, rng), batch(name, rng)
    options = {"lengths": LENGTHS, "rng": np.random.default_rng(4)}
    assert gradcheck(model, {"inputs": inputs}, samples=6, **options).passed


@pytest.mark.parametrize("name", CONFIGS)
def test_padding_cannot_be_noticed(name, rng):
    """Garbage, NaN included, changes no bit; and a padded row equals the row alone."""
    model, inputs = make(name, rng), batch(name, rng)
    poisoned = inputs.copy()
    hidden = np.arange(5) >= LENGTHS[:, None]
    poisoned[hidden] = 10**9 if inputs.dtype.kind == "i" else np.nan
    results = []
    for x in (inputs, poisoned):
        model.zero_grad()
        logits, ctx = model.forward(x, LENGTHS)
        dinputs = model.backward(np.cos(logits), ctx)
        results.append([logits, dinputs, *(p.grad for p in model.parameters())])
    for clean, dirty in zip(*results, strict=True):
        np.testing.assert_array_equal(clean, dirty)
    if dinputs is not None:
        assert not dinputs[hidden].any()
    for row, length in enumerate(LENGTHS):
        alone = model(inputs[row : row + 1, :length])
        np.testing.assert_allclose(results[0][0][row], alone[0], rtol=1e-9, atol=1e-12)


def test_without_lengths_every_step_is_real(rng):
    model, inputs = make("mean, features", rng), batch("mean, features", rng)
    np.testing.assert_allclose(model(inputs), model(inputs, [5, 5, 5]), rtol=1e-12)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "dropout"])
def test_an_empty_sequence_gets_the_bias_of_the_head(name, rng):
    model, inputs = make(name, rng), batch(name, rng)
    logits, ctx = model.forward(inputs, [0, 3, 0])
    np.testing.assert_array_equal(logits[0], model.head.bias.data)
    model.backward(np.ones_like(logits), ctx)
    assert all(np.isfinite(p.grad).all() for p in model.parameters())


def test_pooling_by_attention_starts_as_the_mean_and_by_hand_is_a_weighted_one(rng):
    inputs = batch("attention, features", rng)
    model = models.SequenceClassifier(4, input_dim=3, pooling="attention", rng=rng, **SMALL)
    seen = []
    model.head.forward = lambda x: (seen.append(x), (x[:, :4], None))[1]
    y, _ = model.encoder.forward(model.embed(inputs), mask=masks.padding(LENGTHS))
    for query in (0.0, rng.standard_normal(8)):
        model.pool.query.data[...] = query
        model.forward(inputs, LENGTHS)
        for row, pooled, length in zip(y, seen.pop(), LENGTHS, strict=True):
            weights = np.exp(row[:length] @ model.pool.query.data)
            expected = weights @ row[:length] / weights.sum()
            np.testing.assert_allclose(pooled, expected, rtol=1e-9, atol=1e-12)


def test_flattened_sequences_have_a_longest(rng):
    model = make("flatten, tokens", rng)
    with pytest.raises(ValueError, match="inputs: expected at most max_length = 6 steps"):
        model(rng.integers(0, 7, (1, 7)))


def test_a_set_has_no_order_and_a_sequence_has(rng):
    inputs = batch("mean, features", rng)
    order = rng.permutation(5)
    for positions in (None, "sinusoidal", "learned", "rotary", "alibi"):
        model = make("mean, features", rng, positions=positions)
        same = np.allclose(model(inputs), model(inputs[:, order]))
        assert same == (positions is None)


def test_dropout_only_with_a_generator(rng):
    model, inputs = make("dropout", rng), batch("dropout", rng)
    plain = model(inputs)
    np.testing.assert_array_equal(model.forward(inputs)[0], plain)
    dropped = model.forward(inputs, rng=np.random.default_rng(0))[0]
    assert not np.array_equal(dropped, plain)
    np.testing.assert_array_equal(dropped, model.forward(inputs, rng=np.random.default_rng(0))[0])


def test_attention_by_path(rng):
    model, inputs = make("mean, features", rng, num_layers=2), batch("mean, features", rng)
    _, maps = trace.run(model, inputs, LENGTHS)
    assert list(maps.weights) == ["encoder.layers.0.attn", "encoder.layers.1.attn"]
    for weights in maps.weights.values():
        assert weights.shape == (3, 2, 5, 5)
        assert not weights[1, :, :, 2:].any()


def test_it_learns_to_tell_sequences_apart(rng):
    """Plain gradient descent on which of two tokens occurs more often."""
    model = models.SequenceClassifier(2, vocab_size=2, **SMALL, rng=rng)
    ids = rng.integers(0, 2, (32, 5))
    targets = (ids.sum(axis=1) > 2).astype(int)
    for _ in range(60):
        logits, ctx = model.forward(ids)
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = shifted / shifted.sum(axis=1, keepdims=True)
        model.zero_grad()
        model.backward((probabilities - np.eye(2)[targets]) / len(ids), ctx)
        for p in model.parameters():
            p.data -= 0.5 * p.grad
    assert (model(ids).argmax(axis=1) == targets).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: models.SequenceClassifier(2),
            ValueError,
            "vocab_size, input_dim: expected exactly",
        ),
        (
            lambda: models.SequenceClassifier(2, vocab_size=3, input_dim=3),
            ValueError,
            "vocab_size, input_dim: expected exactly",
        ),
        (lambda: models.SequenceClassifier(2, input_dim=3, pooling="max"), ValueError, "pooling"),
        (lambda: models.SequenceClassifier(2, input_dim=3, positions=1), TypeError, "positions"),
        (lambda: models.SequenceClassifier(2, input_dim=3, rng=0), TypeError, "rng"),
        (
            lambda: models.SequenceClassifier(2, input_dim=3)(np.ones((2, 4), np.float32)),
            ValueError,
            r"inputs: expected shape \(B, T, input_dim\)",
        ),
        (
            lambda: models.SequenceClassifier(2, vocab_size=3)(np.ones((2, 4), np.float32)),
            TypeError,
            "inputs: expected an integer array",
        ),
        (
            lambda: models.SequenceClassifier(2, vocab_size=3)(np.full((2, 4), 3)),
            ValueError,
            "ids: expected ids in",
        ),
        (
            lambda: models.SequenceClassifier(2, vocab_size=3)(np.ones((2, 4), int), [5, 1]),
            ValueError,
            r"lengths: expected numbers in \[0, T = 4\]",
        ),
        (
            lambda: models.SequenceClassifier(2, vocab_size=3)(np.ones((2, 4), int), [4]),
            ValueError,
            r"lengths: expected shape \(B\) with B = 2",
        ),
    ],
)
def test_wrong_calls(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_mask_of_ones_own_beside_padding():
    model = models.SequenceClassifier(
        2, vocab_size=5, embed_dim=8, num_heads=2, num_layers=2, dtype=np.float64
    )
    ids, lengths = np.array([[1, 2, 3, 4], [4, 3, 0, 0]]), [4, 2]
    near = masks.window(1, 1)
    got = model(ids, lengths, mask=near)
    assert not np.allclose(got, model(ids, lengths))
    np.testing.assert_allclose(got[1], model(ids[1:, :2], mask=[near, near])[0])
    np.testing.assert_allclose(model(ids, lengths, mask=[near, None])[0].shape, (2,))
