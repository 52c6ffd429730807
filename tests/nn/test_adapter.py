"""Adapters and LoRA: gradients, identity at the start, what is frozen and what trains."""

import numpy as np
import pytest

from miniattn import checkpoint, gradcheck, models, nn

F64 = {"dtype": np.float64}


def shaken(module, rng):
    for parameter in module.parameters():
        parameter.data += 0.3 * rng.standard_normal(parameter.shape)
    return module


def test_gradients(rng):
    x = rng.standard_normal((2, 3, 6))
    adapter = shaken(nn.Adapter(6, 2, activation="tanh", rng=rng, **F64), rng)
    assert gradcheck(adapter, {"x": x}).passed
    base = nn.Linear(6, 4, rng=rng, **F64)
    lora = shaken(nn.LoRA(base, 2, alpha=3.0, dropout=0.3, rng=rng), rng)
    assert gradcheck(lora, {"x": x}, rng=np.random.default_rng(0)).passed
    assert base.weight.grad is None


def gpt(rng):
    options = {"embed_dim": 8, "num_heads": 2, "num_layers": 2, "bias": True, "rng": rng}
    return shaken(models.GPT(9, 6, **options, **F64), rng)


ADD = {
    "adapters": lambda model, rng: nn.add_adapters(model, 3, rng=rng),
    "lora": lambda model, rng: nn.add_lora(model, 2, rng=rng),
}


@pytest.mark.parametrize("kind", ADD)
def test_a_model_starts_unchanged_and_trains_only_what_was_added(kind, rng):
    model, ids = gpt(rng), rng.integers(0, 9, (2, 5))
    before, size = model(ids), model.num_parameters()
    added = ADD[kind](model, rng)
    assert len(added) == 4
    np.testing.assert_array_equal(model(ids), before)
    assert model.num_parameters(trainable=False) == size
    trained = {id(p) for part in added for p in part.parameters() if p.trainable}
    assert {id(p) for p in model.parameters() if p.trainable} == trained
    shaken(model, rng)
    assert gradcheck(model, {"ids": ids}, samples=4).passed
    logits, ctx = model.forward(ids)
    model.backward(logits, ctx)
    assert {id(p) for p in model.parameters() if p.grad is not None} == trained


@pytest.mark.parametrize("kind", ADD)
def test_an_adapted_model_saves_loads_and_decodes(kind, rng):
    model, ids = gpt(rng), rng.integers(0, 9, (2, 5))
    ADD[kind](model, rng)
    shaken(model, rng)
    twin = gpt(rng)
    ADD[kind](twin, rng)
    twin.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(twin(ids), model(ids))
    caches = model.new_caches(2)
    steps = [model(ids[:, i : i + 1], caches=caches) for i in range(5)]
    np.testing.assert_allclose(np.concatenate(steps, axis=1), model(ids), rtol=1e-9, atol=1e-11)


def test_merging_leaves_a_plain_model_that_does_the_same(rng):
    model, ids = gpt(rng), rng.integers(0, 9, (2, 5))
    names = [name for name, _ in model.named_parameters()]
    for wrapper in nn.add_lora(model, 2, targets=["q_proj", "up"], rng=rng):
        shaken(wrapper.up, rng)
    wanted = model(ids)
    nn.merge_lora(model)
    np.testing.assert_allclose(model(ids), wanted, rtol=1e-10, atol=1e-12)
    assert [name for name, _ in model.named_parameters()] == names


def test_merging_a_tied_head_leaves_the_token_table_alone(rng):
    model, ids = gpt(rng), rng.integers(0, 9, (2, 5))
    (wrapper,) = nn.add_lora(model, 2, targets="head", rng=rng)
    shaken(wrapper.up, rng)
    wanted, table = model(ids), model.tokens.weight.data.copy()
    nn.merge_lora(model)
    np.testing.assert_allclose(model(ids), wanted, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(model.tokens.weight.data, table)
    expected = table + wrapper.up.weight.data @ wrapper.down.weight.data  # alpha = rank
    np.testing.assert_allclose(model.head.weight.data, expected, rtol=1e-14)
    assert model.num_parameters(trainable=True) == 0


def test_merging_twice_adds_the_update_once(rng):
    wrapper = shaken(nn.LoRA(nn.Linear(3, 2, rng=rng, **F64), 1, rng=rng), rng)
    x = rng.standard_normal((4, 3))
    wanted = wrapper(x)
    for _ in range(2):
        np.testing.assert_allclose(wrapper.merge()(x), wanted, rtol=1e-12)
    np.testing.assert_array_equal(wrapper(x), wanted)


@pytest.mark.parametrize("kind", ADD)
def test_what_was_added_is_saved_and_loaded_alone(kind, rng, tmp_path):
    """Into a model without, or in the place of other parts; only that is trained on."""
    model, ids = gpt(rng), rng.integers(0, 9, (2, 5))
    base = model.state_dict()
    added = shaken_parts(ADD[kind](model, rng), rng)
    models.save_adapters(tmp_path / "parts", model)
    saved = checkpoint.load(tmp_path / "parts").arrays
    assert sum(a.size for a in saved.values()) == model.num_parameters(trainable=True)
    twin = gpt(rng)
    twin.load_state_dict(base)
    loaded = []
    for other in (False, True):
        if other:
            shaken_parts(loaded, rng)
            assert not np.allclose(twin(ids), model(ids))
        loaded = models.load_adapters(tmp_path / "parts", twin)
        np.testing.assert_array_equal(twin(ids), model(ids))
        trained = {id(p) for part in loaded for _, p in models._adapters._own(part)}
        assert {id(p) for p in twin.parameters() if p.trainable} == trained
        assert list(twin.state_dict()) == list(model.state_dict())
    assert len(loaded) == len(added)


def shaken_parts(parts, rng):
    for part in parts:
        shaken(part.up, rng)
    return parts


def test_adapters_that_do_not_fit_leave_the_model_as_it_was(rng, tmp_path):
    model, ids = gpt(rng), rng.integers(0, 9, (2, 5))
    with pytest.raises(
        ValueError, match="model: expected a model with LoRA or adapters, got a GPT"
    ):
        models.save_adapters(tmp_path / "parts", model)
    nn.add_lora(model, 2, rng=rng, targets=["q_proj", "up"])
    models.save_adapters(tmp_path / "parts", model)
    wide = models.GPT(9, 6, embed_dim=8, num_heads=2, num_layers=2, ffn_dim=9, **F64)
    deep = models.GPT(9, 6, embed_dim=8, num_heads=2, num_layers=1, **F64)
    for other, message in (
        (wide, r"up.weight: expected shape \(9, 2\), got \(32, 2\)"),
        (deep, r"expected a model with Linear layers \['blocks.layers.1.attn.q_proj'"),
    ):
        before = other(ids)
        with pytest.raises(checkpoint.CheckpointError, match=message):
            models.load_adapters(tmp_path / "parts", other)
        assert other.num_parameters(trainable=False) == 0
        np.testing.assert_array_equal(other(ids), before)
    checkpoint.save(tmp_path / "whole", deep)
    with pytest.raises(checkpoint.CheckpointError, match="expected a file of save_adapters"):
        models.load_adapters(tmp_path / "whole", deep)


class Nested(nn.Module):
    """Linear layers in every kind of place; one of them is in two."""

    def __init__(self, rng):
        self.rows = [nn.Linear(4, 4, rng=rng, **F64), nn.Linear(4, 4, rng=rng, **F64)]
        self.by_name = {"a": (nn.Linear(4, 4, rng=rng, **F64), self.rows[1])}
        self.chain = nn.Sequential(nn.Linear(4, 4, rng=rng, **F64), nn.Tanh())

    def forward(self, x, *, rng=None):
        ctxs = []
        for layer in (*self.rows, *self.by_name["a"], self.chain):
            x, ctx = layer.forward(x, rng=rng)
            ctxs.append(ctx)
        return x, ctxs


def test_lora_is_added_and_merged_wherever_a_layer_is(rng):
    model, x = Nested(rng), rng.standard_normal((3, 4))
    before = model(x)
    wrappers = nn.add_lora(model, 2, targets=["rows.0", "1", "layers.0"], rng=rng)
    assert len(wrappers) == 3
    assert model.by_name["a"][1] is model.rows[1] is wrappers[1]
    assert model.chain.layers[0] is wrappers[2]
    assert type(model.by_name["a"][0]) is nn.Linear
    np.testing.assert_array_equal(model(x), before)
    for wrapper in wrappers:
        shaken(wrapper.up, rng)
    wanted = model(x)
    nn.merge_lora(model)
    assert not any(isinstance(module, nn.LoRA) for module in model.modules())
    assert model.by_name["a"][1] is model.rows[1]
    np.testing.assert_allclose(model(x), wanted, rtol=1e-10, atol=1e-12)


FAILING = {
    "rank": lambda model: nn.add_lora(model, 0),
    "alpha": lambda model: nn.add_lora(model, 2, alpha=-1.0),
    "dropout": lambda model: nn.add_lora(model, 2, dropout=1.5),
    "no target": lambda model: nn.add_lora(model, 2, targets="query"),
    "one target of two": lambda model: nn.add_lora(model, 2, targets=["q_proj", "query"]),
    "bottleneck": lambda model: nn.add_adapters(model, 0),
    "activation": lambda model: nn.add_adapters(model, 2, activation="no"),
}


@pytest.mark.parametrize("name", FAILING)
def test_what_fails_leaves_the_model_as_it_was(name, rng):
    model, ids = gpt(rng), rng.integers(0, 9, (2, 5))
    model.tokens.weight.trainable = False
    logits, ctx = model.forward(ids)
    model.backward(logits, ctx)
    before = [(id(p), p.trainable, p.grad is None) for p in model.parameters()]
    modules = [id(module) for module in model.modules()]
    with pytest.raises(ValueError, match=": expected"):
        FAILING[name](model)
    assert [(id(p), p.trainable, p.grad is None) for p in model.parameters()] == before
    assert [id(module) for module in model.modules()] == modules


def test_what_was_looked_for_and_what_there_is(rng):
    message = (
        r"targets: expected Linear layers named \('q_proj', 'query'\) in the GPT, got none named "
        r"\('query',\); it has \['q_proj', 'k_proj', 'v_proj', 'out_proj', 'up', 'down', 'head'\]"
    )
    with pytest.raises(ValueError, match=message):
        nn.add_lora(gpt(rng), 2, targets=["q_proj", "query"])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.LoRA(nn.ReLU(), 2), TypeError, "base: expected a Linear, got ReLU"),
        (lambda: nn.LoRA(nn.Linear(2, 2), 0), ValueError, "rank"),
        (lambda: nn.LoRA(nn.Linear(2, 2), 1, alpha=0), ValueError, "alpha"),
        (lambda: nn.Adapter(4, 0), ValueError, "bottleneck: expected"),
        (
            lambda: nn.add_adapters(nn.ReLU(), 2),
            ValueError,
            r"model: expected Linear layers named \('out_proj', 'down'\) in the ReLU, got none",
        ),
        (
            lambda: nn.add_lora(nn.MultiHeadAttention(4, 2), 2, targets=["query"]),
            ValueError,
            r"targets: expected Linear layers named \('query',\)",
        ),
        (lambda: nn.add_lora(nn.MultiHeadAttention(4, 2), 2, targets=[]), ValueError, "targets"),
        (lambda: nn.add_lora(nn.MultiHeadAttention(4, 2), 2, targets=[1]), TypeError, "targets"),
        (lambda: nn.merge_lora(nn.LoRA(nn.Linear(2, 2), 1)), TypeError, "model: .* LoRA.merge"),
    ],
)
def test_wrong_calls(call, error, message):
    with pytest.raises(error, match=message):
        call()
