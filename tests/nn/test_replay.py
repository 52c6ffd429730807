"""Replayed steps of decoding: the bits of plain ones, and plain ones where that is unsure."""

import numpy as np
import pytest

from miniattn import models, nn, runtime, trace
from miniattn.nn._replay import Replay

RAGGED = [[1, 2, 3, 4, 5, 6], [7], [3, 3, 1]]
MANY = [[i % 11, i % 7] for i in range(16)]
OPTIONS = {
    "as it comes": {},
    "biases": {"bias": True},
    "rotary, grouped heads, rms, swiglu": {
        "positions": "rotary",
        "num_kv_heads": 2,
        "norm": "rms",
        "activation": "swiglu",
    },
    "turned in part": {"positions": None, "rotary": nn.Rotary(dim=4, interleaved=True, base=100)},
    "a window": {"window": (3, 0), "positions": "sinusoidal"},
    "a window and sinks": {"window": (3, 2), "sinks": 2},
    "normed queries, softcap, scale": {"qk_norm": "head", "softcap": 5.0, "scale": 0.3},
    "normed as one": {"qk_norm": "full", "norm": "rms"},
    "parallel": {"parallel": True, "activation": "gelu_tanh"},
    "sandwich": {"sandwich": True, "activation": "geglu"},
    "layers that differ": {"by_layer": [{"window": (2, 0)}, {"ffn_dim": 17, "num_kv_heads": 1}]},
    "untied, double": {"tied": False, "dtype": np.float64},
    "dropout, which nobody asks for": {"dropout": 0.5},
}


def gpt(**options):
    rng = np.random.default_rng(7)
    model = models.GPT(11, 24, embed_dim=32, num_heads=4, num_layers=2, rng=rng, **options)
    for parameter in model.parameters():  # biases and gains, too
        parameter.data[...] = parameter.data + 0.1 * rng.standard_normal(parameter.shape)
    return model


class Spy:
    """Counts the steps that are replayed; told so, replays none."""

    def __init__(self, monkeypatch):
        self.steps, self.off = 0, False
        step = Replay.step

        def spied(*args):
            logits = None if self.off else step(*args)
            self.steps += logits is not None
            return logits

        monkeypatch.setattr(Replay, "step", spied)

    def logits(self, model, prompts, count, *, replayed=True, between=lambda i: None):
        """What each of ``count`` tokens is chosen from, with something done between tokens."""
        found = []

        def keep(logits, texts):
            found.append(logits)
            return logits

        self.steps, self.off = 0, not replayed
        tokens = model.stream(prompts, count, temperature=0, logits_hook=keep)
        for i, _ in enumerate(tokens):
            between(i)
        return found


@pytest.fixture
def spy(monkeypatch):
    return Spy(monkeypatch)


def same(one, other):
    return len(one) == len(other) and all(
        a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("prompts", [[1, 2, 3], RAGGED, MANY], ids=["one row", "ragged", "16 rows"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_replayed_steps_have_the_bits_of_plain_ones(spy, options, prompts):
    model = gpt(**options)
    replayed = spy.logits(model, prompts, 12)
    assert spy.steps == 11  # all but the prompt
    assert same(replayed, spy.logits(model, prompts, 12, replayed=False))


@pytest.mark.parametrize(
    "options",
    [
        {"positions": "alibi"},
        {"gate": "head"},
        {"value_residual": True},
        {"attention": "memory", "slots": 2},
        {"activation": "quick_gelu"},
        {"scale": 1e-32},
        {"normalizer": "sparsemax"},
    ],
    ids=str,
)
def test_what_is_computed_between_launches_is_not_replayed(spy, options):
    model = gpt(**options)
    plain = spy.logits(model, RAGGED, 5, replayed=False)
    assert same(spy.logits(model, RAGGED, 5), plain)
    assert spy.steps == 0


class Doubled(nn.Linear):
    """A part of a user's own: a known one with another forward."""

    def forward(self, x, *, rng=None):
        y, ctx = super().forward(x)
        return 2 * y, ctx


def test_a_part_of_ones_own_is_not_replayed(spy):
    model = gpt()
    model.blocks.layers[1].ffn.up = Doubled(32, 128, rng=np.random.default_rng(1))
    spy.logits(model, [1, 2], 3)
    assert spy.steps == 0


def replaced_array(model, rng):
    weight = model.blocks.layers[0].ffn.up.weight
    weight.data = weight.data + 0.3


def replaced_parameter(model, rng):
    model.blocks.norm.weight = nn.Parameter(np.full(32, 2.0, np.float32))


def written_to(model, rng):
    model.blocks.layers[1].attn.v_proj.weight.data *= 1.5


def replaced_layer(model, rng):
    model.blocks.layers[0] = nn.TransformerEncoderLayer(32, 4, ffn_dim=8, rng=rng)


def own_part(model, rng):
    model.blocks.layers[0].ffn.up = Doubled(32, 128, rng=rng)


def own_method(model, rng):
    model.blocks.layers[0].ffn.forward = lambda x, rng=None: (0 * x, None)


def another_option(model, rng):
    model.blocks.layers[0].attn.window = (1, 0)
    model.blocks.norm.eps = 0.1


def another_head(model, rng):
    model.head = nn.Linear(32, 11, rng=rng)


def one_thread(model, rng):
    runtime.set_num_threads(1)


def another_unit(model, rng):
    runtime.use("scalar")


@pytest.mark.parametrize(
    "change",
    [
        *(replaced_array, replaced_parameter, written_to, replaced_layer, own_part, own_method),
        *(another_option, another_head, one_thread, another_unit),
    ],
)
def test_what_is_changed_between_tokens_counts_from_the_next_on(spy, change):
    threads, found = runtime.get_num_threads(), []
    for replayed in (True, False):
        model = gpt(bias=True)

        def between(i, model=model):
            if i == 3:
                change(model, np.random.default_rng(3))

        try:
            found.append(spy.logits(model, RAGGED, 8, replayed=replayed, between=between))
        finally:
            runtime.set_num_threads(threads)
            runtime.use("auto")
    assert same(*found)
    if change is not one_thread:  # which changes no bits
        assert not same(found[0][4:], spy.logits(gpt(bias=True), RAGGED, 8)[4:])


def test_a_forward_that_was_replaced_for_all_is_the_one_that_runs(spy, monkeypatch):
    def between(i):
        if i == 3:
            other = lambda self, x, rng=None: (0 * x, None)  # noqa: E731
            monkeypatch.setattr(nn.FeedForward, "forward", other)

    forward, found = nn.FeedForward.forward, []
    for replayed in (True, False):
        found.append(spy.logits(gpt(), [1, 2], 8, replayed=replayed, between=between))
        monkeypatch.setattr(nn.FeedForward, "forward", forward)
    assert same(*found)


def test_who_traces_sees_the_plain_way(spy):
    model, caches = gpt(), gpt().new_caches(1)
    x = np.ones((1, 1, 32), np.float32)
    assert Replay().step(model.blocks, model.head, x, caches) is not None

    class Looks(nn.Module):
        def forward(self, x, *, rng=None):
            assert Replay().step(model.blocks, model.head, x, caches) is None
            return x.copy(), None

    trace.run(Looks(), x)


def test_numbers_that_float32_cannot_hold_are_done_again(spy):
    model = gpt()
    for layer in model.blocks.layers:
        layer.attn.q_proj.weight.data *= 1e20
        layer.attn.k_proj.weight.data *= 1e20
    plain = spy.logits(model, RAGGED, 4, replayed=False)
    assert np.isfinite(plain).all()
    assert same(spy.logits(model, RAGGED, 4), plain)
    assert spy.steps == 0


def test_the_last_token_of_a_block_is_replayed_and_none_beyond(spy):
    model = gpt()
    assert len(spy.logits(model, [1] * 20, 8)) == 8  # of 24
    assert spy.steps == 4


def test_two_streams_at_once_do_not_disturb_each_other(spy):
    model = gpt()
    one, other = model.stream([1, 2], 6, temperature=0), model.stream([5], 6, temperature=0)
    both = [(int(a[0]), int(b[0])) for a, b in zip(one, other, strict=True)]
    alone = [[int(ids[0]) for ids in model.stream(p, 6, temperature=0)] for p in ([1, 2], [5])]
    assert both == list(zip(*alone, strict=True))
    assert spy.steps == 2 * (5 + 6)  # a prompt of one token is a step itself
