"""How models write: texts that stop, penalties, hooks, beam search, rows of a cache."""

import itertools
from pathlib import Path

import numpy as np
import pytest

import miniattn.functional as F
from miniattn import data, models, nn

V = 5
LETTERS = data.CharacterTokenizer("abcde")
FOLDER = Path(__file__).parent / "hugging_face"


def shaken(model, rng):
    for parameter in model.parameters():
        parameter.data += 0.6 * rng.standard_normal(parameter.shape)
    return model


@pytest.fixture
def gpt(rng):
    options = {"embed_dim": 8, "num_heads": 2, "num_layers": 2, "dtype": np.float64}
    return shaken(models.GPT(V, 12, rng=rng, **options), rng)


@pytest.fixture
def translator(rng):
    sizes = {"num_encoder_layers": 1, "num_decoder_layers": 1, "dtype": np.float64}
    return shaken(models.EncoderDecoder(V, embed_dim=8, num_heads=2, rng=rng, **sizes), rng)


def drawn():
    return {"rng": np.random.default_rng(0), "temperature": 2.0}


def test_texts_stop_a_row_once_they_are_written(gpt):
    """Of several, the first; what the prompt says does not count."""
    prompts = [[0, 1], [2], [3, 4, 3]]
    free = [
        row[len(p) :] for p, row in zip(prompts, gpt.generate(prompts, 9, **drawn()), strict=True)
    ]
    texts = [LETTERS.decode(row) for row in free]
    stops = [texts[0][2:4], texts[1][4:6], "ab"]
    got = gpt.generate(prompts, 9, stop=stops, tokenizer=LETTERS, **drawn())
    ends = [min(t.find(s) % 99 + len(s) for s in stops) for t in texts]
    assert ends[0] <= 4
    for prompt, row, whole, end in zip(prompts, got, free, ends, strict=True):
        assert row.tolist() == [*prompt, *whole[:end]]
    both = gpt.generate(prompts, 9, stop=[int(free[0][0]), *stops], tokenizer=LETTERS, **drawn())
    assert len(both[0]) == len(prompts[0]) + 1
    array = gpt.generate(
        np.array([[0, 1], [0, 1]]), 9, stop=texts[0][:2], tokenizer=LETTERS, **drawn()
    )
    assert array[0].tolist() == [0, 1, *free[0][:2], *[free[0][1]] * (array.shape[1] - 4)]


def test_a_text_is_found_across_tokens_and_within_one(gpt):
    class Words:
        def decode(self, ids):
            return "".join(["on", "e st", "op", "per", "s"][i] for i in ids)

    gpt.head = nn.Linear(8, V, bias=False, dtype=np.float64)
    order = iter([0, 1, 2, 3, 4, 0, 0])

    def in_order(logits, texts):
        return np.where(np.arange(V) == next(order), 0.0, -np.inf) + 0 * logits

    row = gpt.generate([4], 7, stop="stopp", tokenizer=Words(), logits_hook=in_order)
    assert row.tolist() == [4, 0, 1, 2, 3]


def test_what_a_row_has_is_penalised(gpt):
    """By hand: positive logits are divided, negative multiplied; the prompt counts."""
    prompt = [1, 3]
    logits = gpt(np.array([prompt]))[0, -1]
    wanted = logits.copy()
    for i in prompt:
        wanted[i] = logits[i] * 7 if logits[i] < 0 else logits[i] / 7
    text = gpt.generate(prompt, 1, temperature=0, repetition_penalty=7.0)
    assert text[-1] == wanted.argmax()
    lasting = gpt.generate([0], V - 1, temperature=0, repetition_penalty=1e9)
    assert (np.bincount(lasting, minlength=V)[gpt(np.array([[0]]))[0, -1] < 0] <= 1).all()


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_hook_sees_every_text_and_has_the_last_word(gpt, use_cache):
    met = []

    def even_only(logits, texts):
        met.append([text.tolist() for text in texts])
        logits[:, 1::2] = -np.inf
        return logits

    prompts = [[1, 3, 1], [3]]
    options = {"temperature": 0, "use_cache": use_cache}
    rows = gpt.generate(prompts, 3, logits_hook=even_only, **options)
    assert all((row[len(p) :] % 2 == 0).all() for p, row in zip(prompts, rows, strict=True))
    assert met == [
        [row[: len(p) + i].tolist() for p, row in zip(prompts, rows, strict=True)] for i in range(3)
    ]
    first = gpt.generate(prompts[0], 1, temperature=0, use_cache=use_cache)
    assert first[-1] == gpt(np.array([prompts[0]]))[0, -1].argmax()


def likeliest(model, prompt, count, stop, power):
    """The best of all texts: the whole tree."""
    best = (-np.inf, None)
    for text in itertools.product(range(V), repeat=count):
        end = text.index(stop) + 1 if stop in text else count
        text = text[:end]
        ids = np.array([[*prompt, *text]])
        p = F.log_softmax(model(ids))[0, len(prompt) - 1 : -1]
        best = max(best, (p[np.arange(end), text].sum() / end**power, text))
    return [*prompt, *best[1]]


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_wide_beams_find_the_likeliest_of_all_texts(gpt, power):
    prompts = [[0, 1, 2], [3]]
    options = {"beams": V**3, "length_penalty": power, "stop": 2}
    got = gpt.beam_search(prompts, 3, **options)
    for prompt, row in zip(prompts, got, strict=True):
        assert row.tolist() == likeliest(gpt, prompt, 3, 2, power)


def test_beams_are_told_apart_by_row_and_by_cache(gpt, translator):
    """A batch finds what each prompt would alone, with a cache and beyond the block too."""
    options = {"beams": 3, "stop": [0, 4], "repetition_penalty": 1.2}
    prompts = [[0, 1, 2], [3], [4, 4]]
    for model, more in ((gpt, {}), (translator, {"start": 1})):
        together = model.beam_search(prompts, 12, **options, **more)
        without = model.beam_search(prompts, 12, use_cache=False, **options, **more)
        for prompt, row, plain in zip(prompts, together, without, strict=True):
            assert row.tolist() == plain.tolist()
            assert row.tolist() == model.beam_search(prompt, 12, **options, **more).tolist()
        array = model.beam_search(np.array(prompts[:1] * 2), 6, **options, **more)
        assert len(array) == 2


def test_one_beam_takes_the_likeliest(gpt, translator):
    assert (
        gpt.beam_search([1, 2], 6, beams=1).tolist()
        == gpt.generate([1, 2], 6, temperature=0).tolist()
    )
    one = translator.beam_search([1, 2], 6, start=0, beams=1)
    assert one.tolist() == translator.generate([1, 2], 6, start=0).tolist()
    assert gpt.beam_search([1, 2], 0).tolist() == [1, 2]


def no_eos(row, start, eos):
    """A row of transformers without what fills it up."""
    row = row[start:].tolist()
    return row[: row.index(eos) + 1] if eos in row else row


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_the_tokens_are_those_of_transformers(family):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    kind = {
        "gpt2": "GPT2LMHeadModel",
        "t5": "T5ForConditionalGeneration",
    }
    theirs = getattr(transformers, kind[family]).from_pretrained(
        FOLDER / family, dtype=torch.float32
    )
    ours, ids = models.load(FOLDER / family), np.array([[2, 5, 12], [4, 4, 0], [1, 7, 3]])
    more = {"start": 1} if family == "t5" else {}
    start = 1 if family == "t5" else ids.shape[1]
    met = set()
    one, four = [(1, 1.0)], [(4, 0.0), (4, 1.0)]
    for eos, (beams, power), penalty in itertools.product((3, 9), one + four, (1.0, 1.7)):
        given = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": eos, "pad_token_id": 0}
        given |= {"num_beams": beams, "repetition_penalty": penalty, "length_penalty": power}
        if family == "t5":
            given["decoder_start_token_id"] = 1
        if beams == 1:
            del given["length_penalty"]
        wanted = theirs.generate(
            torch.from_numpy(ids), attention_mask=torch.ones(3, 3, dtype=torch.long), **given
        ).numpy()
        options = {"stop": eos, "repetition_penalty": penalty, **more}
        if beams == 1:
            got = ours.generate(list(ids), 8, temperature=0, **options)
        else:
            got = ours.beam_search(list(ids), 8, beams=beams, length_penalty=power, **options)
        for row, other in zip(got, wanted, strict=True):
            new = row if family == "t5" else row[3:]
            assert new.tolist() == no_eos(other, start, eos), (eos, beams, power, penalty)
            met.add(tuple(new.tolist()))
    assert len(met) > 8


def test_rows_of_a_cache(rng):
    cache = nn.KVCache(3, 1, 4, 2)
    k = rng.standard_normal((3, 1, 2, 2), dtype=np.float32)
    cache.append(k, -k)
    cache.truncate([1, 2, 2])
    memory = cache.keys
    cache.select([2, 0, 0])
    assert cache.keys is memory
    assert cache.lengths.tolist() == [2, 1, 1]
    np.testing.assert_array_equal(cache.held()[0], k[[2, 0, 0]])
    cache.select([1, 0])
    np.testing.assert_array_equal(cache.held()[1], -k[[0, 2]])
    for rows in ([2], [-1]):
        with pytest.raises(ValueError, match=r"rows: expected ints in \[0, B\) with B = 2"):
            cache.select(rows)


WINDOWS = {
    "rotary, a sink": {"positions": "rotary", "window": (3, 0), "sinks": 1},
    "alibi": {"positions": "alibi", "window": (4, 0)},
    "no positions, one key": {"positions": None, "window": (0, 0)},
}


@pytest.mark.parametrize("name", WINDOWS)
def test_a_window_that_is_forgotten_changes_no_token(name, rng):
    """The text is five blocks long; memory is that of the window, prompts are of all lengths."""
    options = {"embed_dim": 8, "num_heads": 2, "num_layers": 2, **WINDOWS[name]}
    model = shaken(models.GPT(V, 6, rng=rng, **options), rng)
    prompts = [[0, 1, 2, 3, 4, 3, 2, 1, 0, 1, 2], [3], [4, 0, 1]]
    seen = []
    keep = {"logits_hook": lambda logits, texts: seen.append(logits) or logits}
    got = model.generate(prompts, 19, **drawn(), **keep)
    plain = model.generate(prompts, 19, use_cache=False, **drawn(), **keep)
    for a, b in zip(got, plain, strict=True):
        assert a.tolist() == b.tolist()
    np.testing.assert_allclose(seen[:19], seen[19:], rtol=1e-4, atol=1e-5)
    whole = model(got[0][None, :-1])[0, len(prompts[0]) - 1 :]  # and is that of one forward
    np.testing.assert_allclose([logits[0] for logits in seen[:19]], whole, rtol=1e-4, atol=1e-5)
    beams = {"beams": 3, "stop": 2}
    for a, b in zip(
        model.beam_search(prompts, 19, **beams),
        model.beam_search(prompts, 19, use_cache=False, **beams),
        strict=True,
    ):
        assert a.tolist() == b.tolist()
    cache = model.new_caches(1, 99, forget=True)[0]
    left, sinks = options["window"][0], options.get("sinks", 0)
    assert (cache.window, cache.sinks, cache.capacity) == (left, sinks, sinks + 2 * left + 1)
    assert model.new_caches(1, 99)[0].window is None


def test_a_cache_that_forgets(rng):
    cache = nn.KVCache(2, 1, 6, 1, window=2, sinks=1)
    k = np.arange(20, dtype=np.float32).reshape(2, 1, 10, 1)
    cache.append(k[:, :, :8], k[:, :, :8])  # a prompt may be longer than what is kept
    cache.truncate([8, 3])
    held, _ = cache.append(k[:, :, 8:9], k[:, :, 8:9])
    assert held[0, 0, :, 0].tolist() == [0, 6, 7, 8]
    assert held[1, 0, :4, 0].tolist() == [10, 11, 12, 18]
    assert cache.capacity == 6
    assert cache.lengths.tolist() == [9, 4]
    assert cache.key_positions().tolist() == [[0, 6, 7, 8], [0, 1, 2, 3]]
    assert cache.positions(1).tolist() == [[9], [4]]
    with pytest.raises(ValueError, match=r"lengths: expected numbers in \[\[8, 0\], \[9, 4\]\]"):
        cache.truncate([7, 4])
    with pytest.raises(ValueError, match="sinks: expected 0 without a window"):
        nn.KVCache(1, 1, 5, 1, sinks=1)
    attn = nn.MultiHeadAttention(2, 2, window=(3, 0))
    x = np.zeros((2, 1, 2), np.float32)
    with pytest.raises(
        ValueError, match=r"cache: expected one that keeps the window .* got one of 2"
    ):
        attn(x, cache=nn.KVCache(2, 2, 5, 1, window=2))
    with pytest.raises(ValueError, match="mask: expected None beside a cache that forgets"):
        attn(x, cache=attn.new_cache(2, 5, forget=True), mask=np.ones((1, 1), bool))


HOOKS = {
    "none": (
        lambda logits, texts: None,
        TypeError,
        "logits_hook: expected a ndarray, got None",
    ),
    "shape": (
        lambda logits, texts: logits[:, 1:],
        ValueError,
        r"logits_hook: expected shape \(B, V\)",
    ),
    "NaN": (lambda logits, texts: logits * np.nan, ValueError, "logits: expected numbers, got NaN"),
    "nothing left": (lambda logits, texts: logits - np.inf, ValueError, "-inf for all of row 0"),
    "no function": (3, TypeError, "logits_hook: expected"),
}


@pytest.mark.parametrize("name", HOOKS)
def test_wrong_hooks(gpt, name):
    hook, error, message = HOOKS[name]
    with pytest.raises(error, match=message):
        gpt.generate([1], 1, logits_hook=hook)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"stop": "a"}, TypeError, "stop: expected tokens, or a tokenizer for texts, got 'a'"),
        ({"stop": [1, "a"]}, TypeError, "stop: expected tokens, or a tokenizer"),
        ({"stop": "", "tokenizer": LETTERS}, ValueError, "stop: expected texts of at least one"),
        ({"stop": ["a", 7], "tokenizer": LETTERS}, ValueError, "stop: .* got 7"),
        ({"stop": "a", "tokenizer": "abc"}, TypeError, "tokenizer: expected an object with decode"),
        ({"repetition_penalty": 0.0}, ValueError, "repetition_penalty: expected a number > 0"),
        ({"repetition_penalty": "a"}, TypeError, "repetition_penalty: expected a number"),
    ],
)
def test_wrong_options(gpt, translator, options, error, message):
    for write in (gpt.generate, gpt.beam_search):
        with pytest.raises(error, match=message):
            write([1], 2, **options)
    with pytest.raises(error, match=message):
        translator.beam_search([1], 2, start=0, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"beams": 0}, ValueError, "beams: expected an int >= 1"),
        ({"beams": 2.0}, TypeError, "beams: expected an int"),
        ({"length_penalty": np.nan}, ValueError, "length_penalty: expected a finite number"),
        ({"use_cache": 1}, TypeError, "use_cache: expected a bool"),
    ],
)
def test_wrong_beams(gpt, options, error, message):
    with pytest.raises(error, match=message):
        gpt.beam_search([1], 2, **options)
