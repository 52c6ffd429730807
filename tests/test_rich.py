"""What a notebook shows: something to look at, that is whole HTML, and never an error."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from miniattn import data, masks, models, nn, optim, trace
from miniattn.training import Trainer

VOID = {"img", "br"}


class Whole(HTMLParser):
    """Every tag that is opened is closed, in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def pictures(text):
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    return [base64.b64decode(each) for each in found]


@pytest.fixture(scope="module")
def model():
    return models.GPT(9, 8, embed_dim=8, num_layers=2, num_heads=2, rng=np.random.default_rng(0))


def test_a_module_shows_where_its_parameters_are(model):
    text = model._repr_html_()
    words = " ".join(Whole(text).text)
    assert f"{model.num_parameters():,}" in words
    shares = dict(re.findall(r"<tr><td[^>]*>([^<]+)</td>.*?width:([\d.]+)px", text))
    assert set(shares) == {
        "tokens",
        "positions",
        "blocks",
        "blocks.layers.0",
        "blocks.layers.1",
        "blocks.norm",
        "head",
    }
    whole, layer = model.num_parameters(), model.blocks.layers[0].num_parameters()
    assert float(shares["blocks.layers.0"]) == pytest.approx(160 * layer / whole, abs=0.1)
    assert "q_proj" in words


def test_a_trace_shows_its_maps(model):
    _, t = trace.run(model, np.array([[1, 2, 3]]))
    text = t._repr_html_()
    assert len(pictures(text)) == 1
    assert "layers.0-1" in " ".join(Whole(text).text)
    _, bare = trace.run(model, np.array([[1, 2, 3]]), keep="head")
    assert pictures(bare._repr_html_()) == []
    assert "head" in " ".join(Whole(bare._repr_html_()).text)


def test_a_trace_of_many_tokens_makes_no_maps_for_a_look(rng):
    layer = nn.MultiHeadAttention(4, 1, rng=rng)
    _, t = trace.run(layer, np.zeros((1, 2048, 4), np.float32))
    assert pictures(t._repr_html_()) == []


def test_a_trainer_shows_its_curves(rng):
    examples = [(rng.integers(0, 5, 4), int(rng.integers(2))) for _ in range(8)]
    model = models.SequenceClassifier(
        2, vocab_size=5, embed_dim=4, num_heads=2, num_layers=1, rng=rng
    )
    optimizer = optim.SGD(model.named_parameters(), lr=0.1)
    trainer = Trainer(model, optimizer, rng=rng, batch_size=4, collate=data.pad, progress=False)
    assert pictures(trainer._repr_html_()) == []
    trainer.fit(examples, epochs=2)
    assert repr(trainer).startswith("Trainer(SequenceClassifier, SGD, step 4, epoch 2, History(")
    assert len(pictures(trainer._repr_html_())) == 1
    assert "step 4" in " ".join(Whole(trainer._repr_html_()).text)


@pytest.mark.parametrize(
    "mask",
    [
        masks.causal(),
        masks.causal() & masks.padding([2, 5]),
        masks.documents([[0, 0, 1, 1]]),
        masks.as_mask(np.tri(3, dtype=bool)),
        masks.dilated(2) | masks.globals([0]),
    ],
    ids=repr,
)
def test_a_mask_shows_what_is_seen(mask):
    text = mask._repr_html_()
    assert len(pictures(text)) == 1
    assert "".join(Whole(text).text) == repr(mask)


def test_names_are_text():
    class Odd(nn.Module):
        def __init__(self):
            self.part = nn.Linear(1, 1)

        def describe(self):
            return "<script>"

    assert "<script>" not in Odd()._repr_html_()
