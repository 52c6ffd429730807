"""Adapters and LoRA: gradients, identity at the start, what is frozen and what trains."""

import numpy as np
import pytest

from miniattn import gradcheck, models, nn

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


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.LoRA(nn.ReLU(), 2), TypeError, "base: expected a Linear, got ReLU"),
        (lambda: nn.LoRA(nn.Linear(2, 2), 0), ValueError, "rank"),
        (lambda: nn.LoRA(nn.Linear(2, 2), 1, alpha=0), ValueError, "alpha"),
        (lambda: nn.Adapter(4, 0), ValueError, "out_features"),
        (
            lambda: nn.add_adapters(nn.ReLU(), 2),
            ValueError,
            "model: expected a Linear named one of",
        ),
        (
            lambda: nn.add_lora(nn.MultiHeadAttention(4, 2), 2, targets=["query"]),
            ValueError,
            r"model: expected a Linear named one of \('query',\)",
        ),
    ],
)
def test_wrong_calls(call, error, message):
    with pytest.raises(error, match=message):
        call()
