"""GPT: gradients, initial weights, decoding with and without a cache, sampling."""

import numpy as np
import pytest

from miniattn import gradcheck, masks, models, nn, trace

V, BLOCK = 11, 8
SMALL = {"embed_dim": 8, "num_heads": 2, "num_layers": 2, "dtype": np.float64}
CONFIGS = {
    "nanogpt": {},
    "untied with biases": {"tied": False, "bias": True, "activation": "gelu_tanh"},
    "llama": {
        "positions": "rotary",
        "norm": "rms",
        "activation": "swiglu",
        "num_kv_heads": 1,
        "tied": False,
    },
    "alibi window": {"positions": "alibi", "window": (2, 0), "sinks": 1},
    "sinusoidal, softcap": {"positions": "sinusoidal", "softcap": 2.0},
    "no positions, dropout": {"positions": None, "dropout": 0.2},
}


def make(name, rng, shake=0.3, **options):
    model = models.GPT(V, BLOCK, rng=rng, **{**SMALL, **CONFIGS[name], **options})
    for parameter in model.parameters():
        parameter.data += shake * rng.standard_normal(parameter.shape)
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients(name, rng):
    model, ids = make(name, rng), rng.integers(0, V, (2, 5))
    assert gradcheck(model, {"ids": ids}, samples=5, rng=np.random.default_rng(1)).passed


def test_gradients_with_frozen_parts(rng):
    model, ids = make("nanogpt", rng), rng.integers(0, V, (2, 5))
    model.blocks.layers[0].freeze()
    model.blocks.layers[1].attn.freeze()
    assert gradcheck(model, {"ids": ids}, samples=5).passed


def test_a_tied_head_is_the_token_table(rng):
    tied, untied = make("nanogpt", rng), make("nanogpt", rng, tied=False)
    assert tied.head.weight is tied.tokens.weight
    assert untied.num_parameters() - tied.num_parameters() == V * 8
    assert "head.weight" not in tied.state_dict()
    assert "(weight is tokens.weight)" in repr(tied)


def test_the_future_is_not_seen(rng):
    model, ids = make("nanogpt", rng), rng.integers(0, V, (1, 6))
    changed = ids.copy()
    changed[:, 4:] = (changed[:, 4:] + 1) % V
    np.testing.assert_array_equal(model(ids)[:, :4], model(changed)[:, :4])


def test_initial_weights_are_those_of_gpt2(rng):
    model = models.GPT(500, 64, num_layers=8, rng=rng)
    weights = {name: p.data for name, p in model.named_parameters() if p.data.ndim == 2}
    for name, weight in weights.items():
        writes = name.endswith(("out_proj.weight", "down.weight"))
        assert weight.std() == pytest.approx(0.02 / 4 if writes else 0.02, rel=0.05), name
    untrained = model(rng.integers(0, 500, (2, 64)))
    assert np.abs(untrained).max() < 3  # nearly uniform: the loss starts at about log V


def test_attention_by_path(rng):
    _, maps = trace.run(make("nanogpt", rng), rng.integers(0, V, (1, 4)))
    assert list(maps.weights) == ["blocks.layers.0.attn", "blocks.layers.1.attn"]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("steps", [(6,), (1,) * 6, (4, 1, 1)])
def test_decoding_with_caches_equals_the_prefill(name, steps, rng):
    model, ids = make(name, rng), rng.integers(0, V, (3, 6))
    caches, got, start = model.new_caches(3), [], 0
    for n in steps:
        got.append(model(ids[:, start : start + n], caches=caches))
        start += n
    np.testing.assert_allclose(np.concatenate(got, axis=1), model(ids), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", CONFIGS)
def test_same_tokens_with_and_without_a_cache(name, rng):
    """Also where the context is cut: 12 tokens are more than a block."""
    model, prompts = make(name, rng, shake=0.6), [[1, 2, 3], [4], [5, 6, 7, 8, 9]]
    with_cache, without = (
        model.generate(prompts, 9, use_cache=use, rng=np.random.default_rng(3))
        for use in (True, False)
    )
    for prompt, a, b in zip(prompts, with_cache, without, strict=True):
        assert len(a) == len(prompt) + 9
        assert a[: len(prompt)].tolist() == prompt
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_batch_writes_what_each_prompt_would_alone(use_cache, rng):
    model, prompts = make("nanogpt", rng, shake=0.6), [[1, 2, 3, 4], [5], list(range(10))]
    together = model.generate(prompts, 8, temperature=0, use_cache=use_cache)
    for prompt, row in zip(prompts, together, strict=True):
        alone = model.generate(prompt, 8, temperature=0, use_cache=use_cache)
        np.testing.assert_array_equal(row, alone)


def test_generate_takes_the_likeliest_at_temperature_zero(rng):
    model = make("nanogpt", rng)
    text = model.generate(np.array([[1, 2], [3, 4]]), 4, temperature=0)
    for end in range(2, 6):
        np.testing.assert_array_equal(model(text[:, :end])[:, -1].argmax(axis=-1), text[:, end])


def test_only_the_last_block_counts(rng):
    model = make("nanogpt", rng, shake=0.6)
    long = rng.integers(0, V, 3 * BLOCK)
    np.testing.assert_array_equal(
        model.generate(long, 5, temperature=0)[-5:],
        model.generate(long[-BLOCK:], 5, temperature=0)[-5:],
    )


def test_generate_answers_in_the_form_of_the_prompts(rng):
    model = make("nanogpt", rng)
    assert model.generate([1, 2], 3).shape == (5,)
    assert model.generate(np.array([1, 2]), 3).shape == (5,)
    assert model.generate(np.array([[1, 2]]), 3).shape == (1, 5)
    assert model.generate(np.array([[1, 2]]), 0).shape == (1, 2)
    rows = model.generate([[1, 2], [3]], 3)
    assert [len(row) for row in rows] == [5, 4]
    assert all(row.dtype == np.int64 for row in rows)


def test_the_same_generator_gives_the_same_text(rng):
    model = make("nanogpt", rng)
    first, same, other = (
        model.generate([1], 7, rng=np.random.default_rng(seed)).tolist() for seed in (0, 0, 1)
    )
    assert first == same != other


def test_stream_yields_what_generate_returns(rng):
    model = make("nanogpt", rng)
    prompts = np.array([[1, 2], [3, 4]])
    whole = model.generate(prompts, 5, rng=np.random.default_rng(0))
    pieces = list(model.stream(prompts, 5, rng=np.random.default_rng(0)))
    np.testing.assert_array_equal(np.stack(pieces, axis=1), whole[:, 2:])


def test_stop_ends_a_row(rng):
    model = make("nanogpt", rng, shake=0.6)
    prompts = [[1], [2], [3], [4]]
    free = model.generate(prompts, 7, rng=np.random.default_rng(0))
    stop = int(free[0][2])
    stopped = model.generate(prompts, 7, stop=stop, rng=np.random.default_rng(0))
    assert stopped[0].tolist() == free[0][:3].tolist()
    for row in stopped:
        ends = np.flatnonzero(row[1:] == stop)
        assert ends.size == 0 or ends[0] == row.size - 2
    array = model.generate(np.array([[1]]), 7, stop=stop, rng=np.random.default_rng(0))
    ends = np.flatnonzero(array[0, 1:] == stop)
    assert array.shape[1] == ends[0] + 2  # the only row has ended


@pytest.mark.parametrize("kind", [list, tuple, set, np.array])
def test_several_tokens_may_stop_a_row_which_repeats_its_own(rng, kind):
    model = make("nanogpt", rng, shake=0.6)
    prompts = [[1], [2], [3]]
    free = model.generate(prompts, 9, rng=np.random.default_rng(0))
    tokens = [int(free[0][2]), int(free[1][4])]
    ends = [1 + next((i for i, t in enumerate(row[1:]) if t in tokens), 8) for row in free]
    assert ends[0] <= 2
    assert ends[1] <= 4
    stopped = model.generate(prompts, 9, stop=kind(tokens), rng=np.random.default_rng(0))
    for row, whole, end in zip(stopped, free, ends, strict=True):
        assert row.tolist() == whole[: end + 1].tolist()
    array = model.generate(np.array(prompts), 9, stop=kind(tokens), rng=np.random.default_rng(0))
    for row, whole, end in zip(array, free, ends, strict=True):
        assert row[: end + 1].tolist() == whole[: end + 1].tolist()
        assert set(row[end:].tolist()) == {int(whole[end])}


@pytest.mark.parametrize(
    ("stop", "error", "words"),
    [
        (99, ValueError, r"expected ids in \[0, V\) with V = 11, got 99"),
        (-1, ValueError, r"got -1"),
        ([1, 99], ValueError, r"got 99"),
        ([], ValueError, "expected at least one token, got none"),
        ("a", TypeError, "got 'a'"),
        (1.5, TypeError, "got 1.5"),
        ([1.5], TypeError, "expected an integer array"),
        (True, TypeError, "got True"),
    ],
)
def test_stop_is_a_token_of_the_vocabulary(stop, error, words, rng):
    other = models.EncoderDecoder(4, 11, embed_dim=8, num_heads=2, rng=rng)
    with pytest.raises(error, match=f"^stop: .*{words}"):
        make("nanogpt", rng).generate([1], 2, stop=stop)
    with pytest.raises(error, match=f"^stop: .*{words}"):
        other.generate([1], 2, start=0, stop=stop)


P = np.array([0.05, 0.4, 0.0, 0.25, 0.1, 0.2])


class KnownOdds(nn.Module):
    """A head whose next token has the probabilities P whatever it reads."""

    weight = np.empty((6, 4))

    def forward(self, x, *, rng=None):
        with np.errstate(divide="ignore"):
            return np.broadcast_to(np.log(P), (*x.shape[:-1], 6)), None


def frequencies(**options):
    rng = np.random.default_rng(0)
    model = models.GPT(6, 4, embed_dim=4, num_heads=1, num_layers=1)
    model.head = KnownOdds()
    ids = model.generate(np.zeros((20000, 1), int), 1, rng=rng, **options)[:, 1]
    return np.bincount(ids, minlength=6) / len(ids)


@pytest.mark.parametrize(
    ("options", "kept", "power"),
    [
        ({}, [0, 1, 3, 4, 5], 1.0),
        ({"temperature": 0.5}, [0, 1, 3, 4, 5], 2.0),
        ({"temperature": 2.0}, [0, 1, 3, 4, 5], 0.5),
        ({"top_k": 2}, [1, 3], 1.0),
        ({"top_k": 1}, [1], 1.0),
        ({"top_k": 99}, [0, 1, 3, 4, 5], 1.0),
        ({"top_p": 0.6}, [1, 3], 1.0),
        ({"top_p": 0.7}, [1, 3, 5], 1.0),
        ({"top_p": 1e-9}, [1], 1.0),
        ({"top_p": 1.0}, [0, 1, 3, 4, 5], 1.0),
        ({"top_k": 3, "top_p": 0.6}, [1, 3], 1.0),
        ({"temperature": 0}, [1], 1.0),
    ],
)
def test_sampling_follows_the_distribution(options, kept, power):
    p = np.zeros(6)
    p[kept] = P[kept] ** power
    p /= p.sum()
    got = frequencies(**options)
    assert got[p == 0].sum() == 0
    np.testing.assert_allclose(got, p, atol=0.02)  # 20,000 draws: 5 standard deviations


@pytest.mark.parametrize("name", ["nanogpt-cpu", "nanogpt-char", "llama-tiny"])
def test_presets_run(name, rng):
    model = models.GPT.preset(name, V, num_layers=1, rng=rng)
    assert model(np.array([[1, 2, 3]])).shape == (1, 3, V)


def test_the_gpt2_preset_has_the_size_of_gpt2():
    settings = models.gpt.PRESETS["gpt2"]
    small = models.GPT.preset("gpt2", 10, num_layers=1, block_size=4)
    per_layer = small.blocks.layers[0].num_parameters()
    total = 12 * per_layer + 768 * (settings["vocab_size"] + settings["block_size"] + 2)
    assert total == 124_439_808


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: models.GPT(0, 4), ValueError, "vocab_size"),
        (lambda m: models.GPT(4, 0), ValueError, "block_size"),
        (lambda m: models.GPT(4, 4, positions="rope"), ValueError, "positions: expected one of"),
        (lambda m: models.GPT.preset("gpt5"), ValueError, "name: expected one of"),
        (lambda m: models.GPT.preset("nanogpt-cpu"), ValueError, "vocab_size: expected an int"),
        (lambda m: m(np.array([1, 2])), ValueError, r"ids: expected shape \(B, T\)"),
        (lambda m: m(np.array([[1.0]])), TypeError, "ids: expected an integer array"),
        (lambda m: m(np.array([[V]])), ValueError, "ids: expected ids in"),
        (
            lambda m: m(np.zeros((1, BLOCK + 1), int)),
            ValueError,
            "ids: expected at most block_size",
        ),
        (lambda m: m.generate([1, V], 2), ValueError, "prompts: expected ids in"),
        (lambda m: m.generate([[1], []], 2), ValueError, r"prompts\[1\]: expected at least one"),
        (lambda m: m.generate([], 2), ValueError, "prompts: expected at least one"),
        (lambda m: m.generate("abc", 2), TypeError, "prompts: expected a sequence of ids"),
        (lambda m: m.generate([1], -1), ValueError, "max_new_tokens"),
        (lambda m: m.generate([1], 1, temperature=-1), ValueError, "temperature"),
        (lambda m: m.generate([1], 1, top_k=0), ValueError, "top_k"),
        (lambda m: m.generate([1], 1, top_p=0.0), ValueError, "top_p"),
        (lambda m: m.generate([1], 1, rng=3), TypeError, "rng"),
    ],
)
def test_wrong_calls(call, error, message):
    model = models.GPT(V, BLOCK, embed_dim=4, num_heads=1, num_layers=1)
    with pytest.raises(error, match=message):
        call(model)


def test_diverged_parameters_are_noticed(rng):
    model = make("nanogpt", rng)
    model.tokens.weight.data[:] = np.nan
    with pytest.raises(ValueError, match="logits: expected numbers, got NaN"):
        model.generate([1], 1)


def test_a_mask_and_a_bias_of_ones_own(rng):
    """In place of causal; a list has one for each layer, and the bias has a gradient."""
    model = models.GPT(
        7, 8, embed_dim=8, num_heads=2, num_layers=2, dtype=np.float64, rng=np.random.default_rng(0)
    )
    ids, dlogits = rng.integers(0, 7, (2, 5)), rng.standard_normal((2, 5, 7))
    np.testing.assert_array_equal(model(ids, mask=masks.causal()), model(ids))
    prefix = masks.prefix([3, 2])
    assert not np.allclose(model(ids, mask=prefix)[:, 0], model(ids)[:, 0])
    np.testing.assert_array_equal(model(ids, mask=[prefix] * 2), model(ids, mask=prefix))
    alone = [np.eye(5, dtype=bool), masks.causal()]
    assert not np.allclose(model(ids, mask=alone), model(ids))
    np.testing.assert_allclose(model(ids, mask=alone)[:, 0], model(ids)[:, 0])

    bias = rng.standard_normal((2, 5, 5))
    _, ctx = model.forward(ids, mask=prefix, bias=bias)
    dbias = model.backward(dlogits, ctx)
    assert model.backward(dlogits, model.forward(ids)[1]) is None
    step = np.zeros_like(bias)
    step[1, 3, 1] = 1e-5
    ahead, behind = (
        (dlogits * model(ids, mask=prefix, bias=bias + s)).sum() for s in (step, -step)
    )
    np.testing.assert_allclose(dbias[1, 3, 1], (ahead - behind) / 2e-5, rtol=1e-6)


@pytest.mark.parametrize("mask", [[None], (masks.causal(),) * 3])
def test_a_mask_for_each_layer_or_one(mask):
    model = models.GPT(7, 8, embed_dim=8, num_heads=2, num_layers=2)
    with pytest.raises(ValueError, match=f"mask: expected one, or one for each of 2.*{len(mask)}"):
        model(np.zeros((1, 3), int), mask=mask)
