"""The command that draws a model's attention to a text."""

import numpy as np
import pytest

from miniattn import checkpoint, data, models
from miniattn.__main__ import main
from miniattn.explore import see

TEXT = "the cat sat"
SMALL = {"embed_dim": 8, "num_heads": 2, "num_layers": 2}


@pytest.fixture
def saved(tmp_path, rng):
    """A GPT of characters, saved with its tokenizer beside it."""
    tokenizer = data.CharacterTokenizer.trained(TEXT)
    model = models.GPT(tokenizer.vocab_size, 16, rng=rng, **SMALL)
    checkpoint.save(tmp_path / "model.safetensors", model)
    tokenizer.save(tmp_path)
    return tmp_path


def explore(folder, *words):
    return main(["explore", str(folder / "model.safetensors"), *words])


def test_a_page_has_the_tokens_and_the_next_ones(saved, capsys):
    assert explore(saved, "--text", TEXT, "--next", "3", "--out", str(saved / "page.html")) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["next", "probability"]
    assert printed[-1] == str(saved / "page.html")
    model, tokenizer = models.load(saved / "model.safetensors"), data.read_tokenizer(saved)
    logits = model(tokenizer.encode(TEXT)[None])[0, -1].astype(float)
    p = np.exp(logits - logits.max())
    best = np.argsort(-p)[:3]
    told = [line.split() for line in printed[1:4]]
    assert [line[0].replace("␣", " ") for line in told] == tokenizer.tokens(best)
    assert [line[1] for line in told] == [f"{x:.1%}" for x in (p / p.sum())[best]]
    assert main(["explore", str(saved), "--text", TEXT, "--out", str(saved / "b.html")]) == 0
    page = (saved / "page.html").read_text()
    assert (saved / "b.html").read_text() == page
    assert '"tokens":[["t","h","e"," ","c"' in page


@pytest.mark.parametrize("chosen", [(), ("--layer", "1"), ("--layer", "1", "--head", "0")])
def test_figures(chosen, saved, capsys):
    assert explore(saved, "--text", TEXT, *chosen, "--out", str(saved / "map.svg")) == 0
    assert (saved / "map.svg").read_bytes().startswith(b"<?xml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--text", "dog", "--out", "a.html"], "text: expected characters of the alphabet"),
        (["--text", TEXT, "--pair", "cat", "--out", "a.html"], "--pair: expected a model of pairs"),
        (["--text", TEXT, "--out", "a.gif"], "--out: expected .html, .svg, .png or .pdf"),
        (["--text", TEXT, "--out", "no/a.html"], "--out: expected a folder that exists"),
        (["--text", TEXT, "--head", "1", "--out", "a.svg"], "--head: expected --layer N beside it"),
        (["--text", TEXT, "--layer", "2", "--out", "a.svg"], "--layer: expected 0 to 1, got 2"),
        (
            ["--text", TEXT, "--layer", "1", "--head", "2", "--out", "a.svg"],
            "--head: expected 0 to 1, got 2",
        ),
        (["--text", TEXT, "--layer", "1", "--out", "a.html"], "--layer: expected none for a page"),
        (["--text", "", "--out", "a.html"], "--text: expected at least one token, got none"),
        (["--text", TEXT * 2, "--out", "a.html"], "block_size"),
        (["--text", TEXT, "--tokenizer", "no.json", "--out", "a.html"], "no.json: expected a"),
    ],
)
def test_wrong_calls_write_nothing(words, message, saved, monkeypatch, capsys):
    monkeypatch.chdir(saved)
    before = sorted(saved.iterdir())
    assert explore(saved, *words) == 2
    assert message in capsys.readouterr().err
    assert sorted(saved.iterdir()) == before


def test_other_models(rng):
    tokenizer = data.CharacterTokenizer.trained(TEXT)
    V = tokenizer.vocab_size
    encoder = models.TextEncoder(V, 16, num_types=2, rng=rng, **SMALL)
    seen = see(encoder, tokenizer, "the cat", " sat")
    assert seen.words == ""
    assert len(seen.trace.tokens) == len(TEXT)
    classifier = models.SequenceClassifier(3, vocab_size=V, rng=rng, **SMALL)
    assert see(classifier, tokenizer, TEXT).words.splitlines()[0].split() == [
        *("class", "probability")
    ]
    both = models.EncoderDecoder(V, V, num_encoder_layers=1, num_decoder_layers=1, embed_dim=8,
                                 num_heads=2, rng=rng)  # fmt: skip
    assert see(both, tokenizer, TEXT, "sat").words.startswith("next")
    with pytest.raises(ValueError, match="--pair: expected the text of the decoder"):
        see(both, tokenizer, TEXT)
    with pytest.raises(ValueError, match=r"--tokenizer: expected ids in \[0, V\)"):
        see(models.GPT(3, 16, rng=rng, **SMALL), tokenizer, TEXT)
    with pytest.raises(TypeError, match="MODEL: expected a model of text"):
        see(encoder.encoder, tokenizer, TEXT)
