"""Writing under a mask: with a cache, without one, and one text at a time give the same tokens."""

import numpy as np
import pytest

from miniattn import masks, models, nn
from miniattn.nn._replay import Replay

V, BLOCK, H = 11, 16, 2
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]
LENGTHS = np.array([3, 1, 5])
N = 5 + 7


def gpt(**options):
    model = models.GPT(
        V, BLOCK, embed_dim=8, num_heads=H, num_layers=2, dtype=np.float64, **options
    )
    rng = np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.data += 0.6 * rng.standard_normal(parameter.shape)
    return model


@masks.where
def same_parity(b, h, i, j, odd):
    return (i + j) % 2 == 0 or j < odd[h]


def some(*shape):
    return np.random.default_rng(1).random(shape) < 0.6


MASKS = {
    "prefix": masks.prefix(LENGTHS),
    "part of the prompt": masks.prefix([2, 0, 3]),
    "causal window": masks.causal() & masks.window(2, 0, sinks=1),
    "padding": masks.padding([2, 1, 4]),
    "function": same_parity(np.array([0, 1])),
    "documents": masks.documents(np.arange(N) // 4),
    "grid": masks.neighbourhood((3, 4), 1),
    "globals": masks.window(1, 1) | masks.globals([0, 9]),
    "tree": masks.tree((np.arange(N) - 1) // 2),
    "heads": masks.heads(masks.causal(), ~masks.dilated(2)),
    "array": some(3, H, N, N),
    "keys": some(3, 1, 1, N),
    "layers": [masks.prefix(LENGTHS), None],
    "nothing": ~masks.causal(offset=N) & masks.causal(),
}


def alone(model, mask, row, prompt, count):
    """One text, whole at every step, and the mask as an array."""
    given = mask if isinstance(mask, list) else [mask] * 2
    seen = [
        masks.prefix(LENGTHS) if own is None else masks.as_mask(own) & masks.prefix(LENGTHS)
        for own in given
    ]
    arrays = [each.by_definition(3, H, N, N)[row : row + 1] for each in seen]
    text = list(prompt)
    for _ in range(count):
        n = len(text)
        logits = model(np.array([text]), mask=[array[:, :, :n, :n] for array in arrays])
        text.append(int(logits[0, -1].argmax()))
    return text


@pytest.mark.parametrize("name", MASKS)
def test_the_same_tokens_with_a_cache_without_and_alone(name):
    model, mask = gpt(positions="alibi" if name == "grid" else "learned"), MASKS[name]
    wanted = [alone(model, mask, b, prompt, 7) for b, prompt in enumerate(PROMPTS)]
    for use_cache in (True, False):
        got = model.generate(PROMPTS, 7, mask=mask, temperature=0, use_cache=use_cache)
        assert [row.tolist() for row in got] == wanted


@pytest.mark.parametrize("name", ["prefix", "array", "layers"])
def test_beams_see_what_their_row_does(name):
    model, mask = gpt(), MASKS[name]
    found = [
        [row.tolist() for row in model.beam_search(PROMPTS, 7, mask=mask, **options)]
        for options in (
            {"beams": 1},
            {"beams": 3},
            {"beams": 3, "use_cache": False},
        )
    ]
    greedy = model.generate(PROMPTS, 7, mask=mask, temperature=0)
    assert found[0] == [row.tolist() for row in greedy]
    assert found[1] == found[2]


def test_a_prefix_language_model_writes_what_it_was_trained_to(monkeypatch):
    """Each token from a forward under the mask of training; replayed after the prompt."""
    replayed, step = [], Replay.step

    def spied(*args):
        logits = step(*args)
        replayed.append(logits is not None)
        return logits

    monkeypatch.setattr(Replay, "step", spied)
    model, prefix = gpt(), masks.prefix([4, 4])
    prompts = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    text = model.generate(prompts, 6, mask=prefix, temperature=0)
    assert replayed == [False] + [True] * 5
    for n in range(4, 10):
        wanted = model(text[:, :n], mask=prefix)[:, -1].argmax(axis=-1)
        np.testing.assert_array_equal(text[:, n], wanted)
    assert not np.array_equal(text, model.generate(prompts, 6, temperature=0))


@pytest.mark.parametrize("options", [{"window": (2, 2)}, {"attention": "memory"}], ids=str)
def test_other_layers_keep_what_they_add(options):
    model, mask = gpt(**options), masks.prefix(LENGTHS)
    with_cache, without = (
        model.generate(PROMPTS, 7, mask=mask, temperature=0, use_cache=use) for use in (True, False)
    )
    for a, b in zip(with_cache, without, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_mask_is_that_of_the_call():
    """The array may change while the text is written."""
    model, mask = gpt(), some(N, N)
    tokens = model.stream(PROMPTS, 7, mask=mask, temperature=0)
    before = model.generate(PROMPTS, 7, mask=mask, temperature=0)
    mask[:] = False
    for row, new in zip(before, np.stack(list(tokens), axis=1), strict=True):
        np.testing.assert_array_equal(row[-7:], new)


@pytest.mark.parametrize(
    ("mask", "count", "error", "words"),
    [
        (masks.causal(), 13, ValueError, "max_new_tokens: expected at most 12 .*, got 13"),
        (some(5, 5), 7, ValueError, r"mask: expected one for 3 rows of 12 tokens.*\(5, 5\)"),
        (masks.documents(np.arange(5)), 7, ValueError, "mask: expected one for 3 rows .* ids"),
        (masks.prefix([2]), 7, ValueError, "mask: expected one for 3 rows .* lengths"),
        ([masks.causal()], 7, ValueError, "mask: expected one, or one for each of 2 layers"),
        (np.ones((N, N), int), 7, TypeError, "mask: expected .*bool"),
        ("causal", 7, TypeError, "mask: expected a Mask"),
    ],
)
def test_what_cannot_be_is_refused(mask, count, error, words):
    with pytest.raises(error, match=words):
        gpt().stream(PROMPTS, count, mask=mask)


def test_a_prefix_comes_whole(rng):
    attn = nn.MultiHeadAttention(8, 2, dtype=np.float64, rng=rng)
    x = rng.standard_normal((2, 6, 8))
    cache = attn.new_cache(2, 8)
    cache.prefix[:] = [3, 4]
    with pytest.raises(ValueError, match="prefix of 4 tokens of row 1 in one call, got 3 after 0"):
        attn(x[:, :3], cache=cache)
    assert cache.lengths.tolist() == [0, 0]
    got = [attn(x[:, at], cache=cache) for at in (slice(4), slice(4, 5), slice(5, 6))]
    np.testing.assert_allclose(
        np.concatenate(got, axis=1), attn(x, mask=masks.prefix([3, 4])), rtol=1e-9
    )
    cache.truncate([6, 2])
    with pytest.raises(ValueError, match="prefix of 4 tokens of row 1 in one call, got 1 after 2"):
        attn(x[:, :1], cache=cache)
