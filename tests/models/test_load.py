"""What a model was built with is in its checkpoint: compared when it is loaded, and built anew."""

import json
import math

import numpy as np
import pytest
from samples import dice, fresh

from miniattn import checkpoint, models, nn, optim, scores
from miniattn.checkpoint import CheckpointError
from miniattn.training import Trainer

GPT, CLASSIFIER, TRANSLATOR = models.GPT, models.SequenceClassifier, models.EncoderDecoder
SMALL = {"embed_dim": 8, "num_heads": 2}
ROTARY = {"positions": "rotary", "norm": "rms", "activation": "swiglu", "num_kv_heads": 1}
WINDOW = {"window": (3, None), "sinks": 1, "softcap": 2.0, "bias": True}
BUILT = {
    "gpt": lambda: GPT(9, 8, num_layers=2, **SMALL),
    "gpt rotary": lambda: GPT(9, 8, num_layers=2, tied=False, dropout=0.5, **ROTARY, **SMALL),
    "gpt alibi": lambda: GPT(9, 8, num_layers=1, positions="alibi", ffn_dim=5, **WINDOW, **SMALL),
    "gpt sinusoidal": lambda: GPT(9, 8, positions="sinusoidal", dtype=np.float64, **SMALL),
    "gpt no positions": lambda: GPT(9, 8, positions=None, activation="tanh", **SMALL),
    "gpt preset": lambda: GPT.preset("llama-tiny", 9, num_layers=1),
    "classifier": lambda: CLASSIFIER(3, vocab_size=9, **SMALL),
    "classifier features": lambda: CLASSIFIER(
        3,
        input_dim=4,
        pooling="first",
        positions="learned",
        max_length=9,
        norm_first=False,
        **SMALL,
    ),
    "text encoder, causal": lambda: models.TextEncoder(
        9, 8, positions="rotary", norm_first=True, norm="rms", bias=False, causal=True, **SMALL
    ),
    "images": lambda: models.ImageClassifier(3, (4, 6), 2, distillation="token", **SMALL),
    "images, distilled": lambda: models.ImageClassifier(3, 4, (2, 4), distillation="head", **SMALL),
    "text encoder": lambda: models.TextEncoder(9, 8, num_types=2, norm_eps=0.1, **SMALL),
    "gpt around": lambda: GPT(
        9, 8, embed_norm=True, head_bias=True, final_softcap=2.0, norm_eps=0.1, **SMALL
    ),
    "gpt with options": lambda: GPT(
        9, 8, positions=None, rotary=nn.Rotary(dim=2), qk_norm="head", parallel=True, **SMALL
    ),
    "gpt, sparse": lambda: GPT(9, 8, normalizer="entmax15", **SMALL),
    "translator": lambda: TRANSLATOR(9, **SMALL),
    "translator of sound": lambda: TRANSLATOR(9, input_dim=3, max_source_length=4, **SMALL),
    "translator untied": lambda: TRANSLATOR(9, 7, tied=False, positions="alibi", **SMALL),
    "translator tied, two vocabularies": lambda: TRANSLATOR(9, 7, norm="rms", bias=False, **SMALL),
    "chain": lambda: nn.Sequential(
        nn.Linear(4, 8),
        nn.GELU(approximate="tanh"),
        nn.Dropout(0.1),
        nn.SwiGLU(8),
        nn.RMSNorm(8, eps=0.1),
    ),
    "attention": lambda: nn.MultiHeadAttention(
        8, 2, kdim=4, vdim=6, rotary=nn.Rotary(base=100.0, interleaved=True)
    ),
    "attention with frequencies": lambda: nn.MultiHeadAttention(
        12, 2, rotary=nn.Rotary(frequencies=nn.frequencies.ntk(4, factor=2.0), magnitude=1.1)
    ),
    "attention with options": lambda: nn.MultiHeadAttention(
        8,
        2,
        head_dim=6,
        scale=0.5,
        bias=("q", "out"),
        qk_norm="head",
        gate="full",
        value_residual=True,
    ),
    "gpt with scores": lambda: GPT(
        9, 8, positions=None, score=nn.T5Bias(2, buckets=8), sink=True, num_layers=2, **SMALL
    ),
    "layers with scores of their own": lambda: nn.TransformerEncoder(
        2, 8, 2, score=scores.relative(np.zeros((2, 5), np.float32), 2)
    ),
    "translator with scores": lambda: TRANSLATOR(
        9, score=nn.RelativeBias(2, 3, 3), target_score=nn.ALiBi(2), sink=True, **SMALL
    ),
    "other attention": lambda: nn.Sequential(
        nn.DifferentialAttention(8, 2, lambda_init=0.3),
        nn.TalkingHeadsAttention(8, 2, bias=False),
        nn.MemoryAttention(8, 2, slots=3, head_dim=3),
    ),
    "encoder with options": lambda: nn.TransformerEncoder(
        2,
        8,
        2,
        sandwich=True,
        value_residual=True,
        attn_bias=False,
        activation="reglu",
        by_layer=[{"window": (3, 0)}, {"rotary": nn.Rotary(base=7.0)}],
    ),
    "parallel": lambda: nn.TransformerEncoderLayer(8, 2, parallel=True, attention="talking_heads"),
    "decoder": lambda: nn.TransformerDecoder(
        2, 8, 2, memory_dim=4, causal=False, norm_eps=0.1, rotary=nn.Rotary()
    ),
    "batch norm": lambda: nn.BatchNorm(8, momentum=0.2, bias=False),
    "embeddings": lambda: nn.Sequential(nn.Embedding(9, 8, scale=3.0), nn.LearnedPositions(7, 8)),
    "adapter": lambda: nn.Adapter(8, 2, activation="relu"),
    "lora": lambda: nn.LoRA(nn.Linear(8, 4, bias=False), 2, alpha=5.0),
}


def replaced(model):
    model.head = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 9, bias=False))


def set_anew(model):
    attn = model.blocks.layers[1].attn
    attn.window, attn.softcap = (2, 0), 3.0
    model.block_size = 6


def untied(model):
    model.head.weight = nn.Parameter(model.head.weight.data + 1)


def frozen(model):
    model.blocks.layers[0].freeze()


def merged(model):
    for wrapper in nn.add_lora(model, 2, targets=["head", "q_proj"]):
        wrapper.up.weight.data += 0.3
    nn.merge_lora(model)


CHANGED = {
    "lora": lambda model: nn.add_lora(model, 2, alpha=3.0, targets=["q_proj", "head"]),
    "adapters": lambda model: nn.add_adapters(model, 3, activation="silu"),
    "adapters and lora": lambda model: (nn.add_adapters(model, 3), nn.add_lora(model, 2)),
    "merged": merged,
    "replaced": replaced,
    "set anew": set_anew,
    "untied": untied,
    "frozen": frozen,
}


def shaken(model, rng):
    for parameter in model.parameters():
        parameter.data += rng.standard_normal(parameter.shape).astype(parameter.dtype)
    return model


def same(model, twin):
    """Class, settings, ties, what is frozen, and every number."""
    a, b = model.state_dict(), twin.state_dict()
    assert type(twin) is type(model)
    assert twin.architecture() == model.architecture()
    assert list(a) == list(b)
    assert all(np.array_equal(a[name], b[name]) for name in a)
    return True


@pytest.mark.parametrize("name", BUILT)
def test_what_was_saved_is_built_anew(name, tmp_path, rng):
    model = shaken(BUILT[name](), rng)
    checkpoint.save(tmp_path / "a", model)
    assert same(model, models.load(tmp_path / "a"))
    checkpoint.load(tmp_path / "a", into=BUILT[name]())


@pytest.mark.parametrize("name", CHANGED)
def test_what_was_changed_after_it_was_built_is_there_too(name, tmp_path, rng):
    model = GPT(9, 8, num_layers=2, **SMALL)
    CHANGED[name](model)
    shaken(model, rng)
    checkpoint.save(tmp_path / "a", model)
    twin = models.load(tmp_path / "a")
    assert same(model, twin)
    ids = rng.integers(0, 9, (2, 6))
    np.testing.assert_array_equal(twin(ids), model(ids))
    logits, ctx = twin.forward(ids)
    twin.backward(logits, ctx)
    trained = [name for name, p in model.named_parameters() if p.trainable]
    assert [name for name, p in twin.named_parameters() if p.grad is not None] == trained


def test_a_file_of_a_trainer_is_loaded_too(tmp_path, rng):
    model = shaken(GPT(9, 8, num_layers=1, **SMALL), rng)
    trainer = Trainer(model, optim.AdamW(model.named_parameters()), progress=False)
    trainer.save(tmp_path / "a")
    assert same(model, models.load(tmp_path / "a"))


def test_a_model_of_another_dtype_on_request(tmp_path, rng):
    model = shaken(GPT(9, 8, num_layers=1, **SMALL), rng)
    nn.add_lora(model, 2)
    checkpoint.save(tmp_path / "a", model)
    twin = models.load(tmp_path / "a", dtype=np.float64)
    assert {p.dtype for p in twin.parameters()} == {np.dtype(np.float64)}
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(twin.state_dict()[name], array.astype(np.float64))


# ------------------------------------------------------------------------------- a mismatch is said

ANOTHER = {
    "positions": ("gpt", {"positions": "sinusoidal"}, "saved as 'learned', .* has 'sinusoidal'"),
    "num_heads": ("gpt", {"num_heads": 4}, "num_heads: saved as 2, the model has 4"),
    "activation": ("gpt", {"activation": "relu"}, "activation: saved as 'gelu', the model has"),
    "window": ("gpt", {"window": (3, 0)}, r"window: saved as None, the model has \[3, 0\]"),
    "softcap": ("gpt", {"softcap": 5.0}, r"softcap: saved as None, the model has 5\.0"),
    "norm": ("gpt", {"norm": "rms"}, "norm: saved as 'layer', the model has 'rms'"),
    "tied": ("gpt", {"tied": False}, "tied: saved as True, the model has False"),
    "embed_dim": ("gpt", {"embed_dim": 16}, "embed_dim: saved as 8, the model has 16"),
    "pooling": ("set", {"pooling": "first"}, "pooling: saved as 'mean', the model has 'first'"),
    "no positions": ("set", {"positions": "rotary"}, "positions: saved as None, .* 'rotary'"),
    "post-norm": ("set", {"norm_first": False}, "norm_first: saved as True, the model has False"),
}


@pytest.mark.parametrize("name", ANOTHER)
def test_a_model_of_other_settings_is_refused_by_name(name, tmp_path):
    kind, options, words = ANOTHER[name]
    make = {
        "gpt": lambda **options: GPT(9, 8, **{**SMALL, "num_layers": 2, **options}),
        "set": lambda **options: CLASSIFIER(3, vocab_size=9, **{**SMALL, **options}),
    }[kind]
    checkpoint.save(tmp_path / "a", make())
    other = make(**options)
    before = other.state_dict()
    with pytest.raises(CheckpointError, match=words) as error:
        checkpoint.load(tmp_path / "a", into=other)
    assert str(error.value).count("saved as") == 1  # said once, where it was chosen
    assert all(np.array_equal(a, before[n]) for n, a in other.state_dict().items())


def test_the_sinusoidal_model_that_loaded_into_one_without(tmp_path):
    old = CLASSIFIER(3, vocab_size=9, positions="sinusoidal", **SMALL)
    new = CLASSIFIER(3, vocab_size=9, **SMALL)
    assert old.state_dict().keys() == new.state_dict().keys()  # only the settings tell
    checkpoint.save(tmp_path / "a", old)
    with pytest.raises(
        CheckpointError, match="positions: saved as 'sinusoidal', the model has None"
    ):
        checkpoint.load(tmp_path / "a", into=new)
    trainers = [Trainer(m, optim.AdamW(m.named_parameters()), progress=False) for m in (old, new)]
    trainers[0].save(tmp_path / "b")
    with pytest.raises(
        CheckpointError, match="positions: saved as 'sinusoidal', the model has None"
    ):
        trainers[1].load(tmp_path / "b")
    new.load_state_dict(checkpoint.load(tmp_path / "a").arrays)  # whoever knows better


@pytest.mark.parametrize(
    "options",
    [{"dropout": 0.3}, {"ffn_dim": 32}, {"num_kv_heads": 2}, {"rng": dice}],
)
def test_what_changes_no_result_may_differ(options, tmp_path):
    checkpoint.save(tmp_path / "a", GPT(9, 8, num_layers=2, **SMALL))
    checkpoint.load(tmp_path / "a", into=GPT(9, 8, num_layers=2, **SMALL, **fresh(options)))


@pytest.mark.parametrize("name", sorted(set(CHANGED) - {"untied", "frozen", "merged"}))
def test_a_plain_model_is_not_one_that_was_changed(name, tmp_path):
    model, plain = (GPT(9, 8, num_layers=2, **SMALL) for _ in range(2))
    CHANGED[name](model)
    checkpoint.save(tmp_path / "a", model)
    with pytest.raises(CheckpointError, match="saved as"):
        checkpoint.load(tmp_path / "a", into=plain)
    twin = GPT(9, 8, num_layers=2, **SMALL)
    CHANGED[name](twin)
    checkpoint.load(tmp_path / "a", into=twin)
    assert same(model, twin) or name == "frozen"


def test_files_that_do_not_say_still_load(tmp_path):
    old, new = GPT(9, 8, **SMALL), GPT(9, 8, **SMALL)
    checkpoint.save(tmp_path / "a", old.state_dict())
    checkpoint.load(tmp_path / "a", into=new)
    assert all(np.array_equal(a, new.state_dict()[name]) for name, a in old.state_dict().items())
    with pytest.raises(
        CheckpointError, match="does not say what it was built with; build the model"
    ):
        models.load(tmp_path / "a")


# ----------------------------------------------------------------------------- modules of one's own


def double(x):
    return 2 * x


class Own(nn.Module):
    """Arguments of every kind, positional, named and free."""

    def __init__(self, size, *more, rng, mode="a", limits=(1, 2.5), act=double, table=None, **rest):
        self.parts = {"first": nn.Linear(size, size, rng=rng), "second": nn.Dropout(0.1)}
        self.config = "an attribute of one's own"
        self.given = (size, more, mode, limits, act, table, rest)

    def forward(self, x, *, rng=None):
        return self.parts["first"].forward(x)


def own(**options):
    return Own(
        3, np.int64(4), rng=np.random.default_rng(0), limits=[-math.inf, None], deep={"a": (1,)},
        **options,
    )  # fmt: skip


def test_a_module_of_ones_own_is_built_anew(tmp_path, rng):
    model = nn.Sequential(shaken(own(), rng), nn.Tanh())
    checkpoint.save(tmp_path / "a", model)
    with pytest.raises(CheckpointError, match="classes: expected Own, which the model is made of"):
        models.load(tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"act: expected an argument .*double"):
        models.load(tmp_path / "a", classes=[Own])
    twin = models.load(tmp_path / "a", classes=[Own, double])
    assert same(model, twin)
    assert twin.layers[0].given == (
        3, (4,), "a", (-math.inf, None), double, None, {"deep": {"a": (1,)}}
    )  # fmt: skip


def test_what_json_cannot_say_is_said_when_it_is_needed(tmp_path):
    model = own(table=np.ones((2, 3)))
    checkpoint.save(tmp_path / "a", model)
    checkpoint.load(tmp_path / "a", into=own(table=np.ones((2, 3))))
    with pytest.raises(CheckpointError, match="table: expected an argument that a file can hold"):
        models.load(tmp_path / "a", classes=[Own, double])
    with pytest.raises(CheckpointError, match=r"table: saved as {'other': 'ndarray'}, .* has None"):
        checkpoint.load(tmp_path / "a", into=own())
    with pytest.raises(CheckpointError, match="mode: saved as 'a', the model has 'b'"):
        checkpoint.load(tmp_path / "a", into=own(table=np.ones((2, 3)), mode="b"))


def test_wrong_calls_are_refused_as_ever():
    with pytest.raises(TypeError, match="ReLU: expected no arguments, got 3, rate"):
        nn.ReLU(3, rate=1)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'out_features'"):
        nn.Linear(3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'biass'"):
        nn.Linear(3, 4, biass=True)


ENTRY = '{"modules": {"": %s}, "tied": {}, "frozen": []}'


@pytest.mark.parametrize(
    "damage",
    [
        "[]",
        "3",
        "{}",
        '{"modules": {}, "tied": {}, "frozen": []}',
        ENTRY % "1",
        ENTRY % '{"class": "miniattn.nn.Linear", "arguments": 3}',
    ],
)
def test_a_description_that_makes_no_sense(tmp_path, damage):
    checkpoint.save(tmp_path / "a", nn.Linear(2, 2).state_dict(), architecture=json.loads(damage))
    layer = nn.Linear(2, 2)
    before = layer.state_dict()
    for call in (models.load, lambda path: checkpoint.load(path, into=layer)):
        with pytest.raises(CheckpointError):
            call(tmp_path / "a")
    assert np.array_equal(layer.weight.data, before["weight"])
