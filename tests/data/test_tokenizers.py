"""Texts as tokens and back; the library tokenizers is the judge where it is installed."""

import importlib.util
import json
import pickle

import numpy as np
import pytest

from miniattn import data

TEXT = (
    "the cat sat on the mat, and the bat sat on the cat's hat; 42 cats & x_1  \n\n\tGröße 数字 🙂"
)
needs_library = pytest.mark.skipif(
    importlib.util.find_spec("tokenizers") is None, reason="needs the library tokenizers"
)


def kinds():
    return [data.CharacterTokenizer.trained(TEXT), data.BytePairTokenizer.trained(TEXT, 280)]


@pytest.mark.parametrize("tokenizer", kinds(), ids=lambda t: type(t).__name__)
def test_a_text_comes_back(tokenizer, tmp_path):
    ids = tokenizer.encode(TEXT)
    assert tokenizer.decode(ids) == TEXT
    assert 0 <= ids.min() <= ids.max() < tokenizer.vocab_size
    assert ids.dtype == np.int64
    tokenizer.save(tmp_path)
    for twin in (data.read_tokenizer(tmp_path), pickle.loads(pickle.dumps(tokenizer))):
        assert type(twin) is type(tokenizer)
        np.testing.assert_array_equal(twin.encode(TEXT), ids)


@needs_library
@pytest.mark.parametrize("tokenizer", kinds(), ids=lambda t: type(t).__name__)
def test_the_library_reads_what_was_saved(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "mine.json")
    theirs = data.Tokenizer(tmp_path / "mine.json")
    ids = tokenizer.encode(TEXT)
    np.testing.assert_array_equal(theirs.encode(TEXT), ids)
    assert theirs.decode(ids) == TEXT
    assert theirs.tokens(ids) == tokenizer.tokens(ids)
    assert theirs.vocab_size == tokenizer.vocab_size


@needs_library
def test_pairs_are_learned_as_the_library_learns_them(tmp_path):
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    ours = data.BytePairTokenizer.trained(TEXT, 280)
    ours.save(tmp_path)
    theirs = tokenizers.Tokenizer(models.BPE())
    theirs.pre_tokenizer = tokenizers.Tokenizer.from_file(
        str(tmp_path / "tokenizer.json")
    ).pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=2,
    )
    theirs.train_from_iterator([TEXT], trainer)
    merges = [tuple(pair) for pair in json.loads(theirs.to_str())["model"]["merges"]]
    assert merges == ours.merges


def test_pairs_by_hand():
    """`aab aab ab`: ab comes three times; then a ab, twice, as often as its blank before it."""
    tokenizer = data.BytePairTokenizer.trained("aab aab ab", 300)
    assert tokenizer.merges[:2] == [("a", "b"), ("a", "ab")]
    assert tokenizer.tokens(tokenizer.encode("aab abb")) == ["aab", " ", "ab", "b"]
    assert data.BytePairTokenizer.trained("", 300).vocab_size == 256


def test_bytes_that_are_no_text_are_shown_as_such():
    tokenizer = data.BytePairTokenizer([])
    ids = tokenizer.encode("é")
    assert tokenizer.tokens(ids) == ["\\xc3", "\\xa9"]
    assert tokenizer.decode(ids[:1]) == "\ufffd"


def test_a_batch_of_pairs():
    found = data.CharacterTokenizer("abc").batch(["ab", "c"], ["c", "abc"])
    np.testing.assert_array_equal(found.ids, [[0, 1, 2, 0], [2, 0, 1, 2]])
    np.testing.assert_array_equal(found.types, [[0, 0, 1, 0], [0, 1, 1, 1]])
    np.testing.assert_array_equal(found.lengths, [3, 4])


@needs_library
def test_the_librarys_special_tokens_types_and_settings(tmp_path):
    """A file that says to cut and to pad: neither is done; [CLS] and [SEP] are."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, processors

    words = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "the": 3, "cat": 4}
    theirs = tokenizers.Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    theirs.pre_tokenizer = pre_tokenizers.Whitespace()
    theirs.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    theirs.enable_truncation(3)
    theirs.enable_padding(length=9)
    theirs.save(str(tmp_path / "tokenizer.json"))
    tokenizer = data.read_tokenizer(tmp_path)
    assert tokenizer.tokens(tokenizer.encode("the cat dog the")) == [
        *("[CLS]", "the", "cat", "[UNK]", "the", "[SEP]")
    ]
    found = tokenizer.batch(["the cat"], ["cat"])
    np.testing.assert_array_equal(found.ids, [[1, 3, 4, 2, 4, 2]])
    np.testing.assert_array_equal(found.types, [[0, 0, 0, 0, 1, 1]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.encode("xyz"), "text: expected characters of the alphabet"),
        (lambda t: t.encode(5), "text: expected a str, got"),
        (lambda t: t.decode([3]), "ids: expected ids in [0, V) with V = 3, got 3"),
        (lambda t: t.tokens([-1]), "ids: expected ids in [0, V) with V = 3, got -1"),
        (lambda t: t.decode([0.5]), "ids: expected"),
        (lambda t: t.batch("ab"), "texts: expected a list of str, got one str"),
        (lambda t: t.batch([]), "texts: expected at least one text, got none"),
        (lambda t: t.batch(["a", 1]), "texts[1]: expected a str, got"),
        (lambda t: t.batch(["a"], ["a", "b"]), "pairs: expected 1, one for each text, got 2"),
        (lambda t: data.CharacterTokenizer(["ab"]), "characters: expected single characters"),
        (lambda t: data.CharacterTokenizer("aa"), "characters: expected each once"),
        (lambda t: data.BytePairTokenizer([("ab", "c")]), "merges[0]: expected parts that are"),
        (lambda t: data.BytePairTokenizer.trained("a", 9), "vocab_size: expected an int >= 256"),
        (lambda t: data.read_tokenizer("/nowhere"), "expected a tokenizer.json, got no such file"),
    ],
)
def test_wrong_calls(call, message):
    with pytest.raises((ValueError, TypeError)) as error:
        call(data.CharacterTokenizer("abc"))
    assert message in str(error.value)


def test_a_file_that_is_no_tokenizer(tmp_path):
    for content in ("{}", "[1]", "no json", '{"model": {}}'):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(ValueError, match=r"tokenizer\.json: expected a tokenizer, got none"):
            data.read_tokenizer(tmp_path)
