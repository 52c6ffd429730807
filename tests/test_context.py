"""Contexts: each backward takes that of its own forward alone, and all are shown as short trees."""

from typing import NamedTuple

import numpy as np
import pytest
from test_gradcheck import MODULES, PAIRS, built, dice

import miniattn.functional as F
from miniattn import nn
from miniattn._context import context
from miniattn.models import GPT


def repeatable(options):
    options = {name: value for name, value in options.items() if name != "samples"}
    return {**options, "rng": dice()} if "rng" in options else options


def pair(name):
    """The result, context and backward of the first row of a pair in the gradient table."""
    inputs, options = PAIRS[name][0]
    y, ctx = getattr(F, f"{name}_forward")(**inputs, **repeatable(options))
    return y, ctx, getattr(F, f"{name}_backward")


def layer(name):
    build, inputs, options = MODULES[name][0]
    module = built(build)
    y, ctx = module.forward(**inputs, **repeatable(options))
    return y, ctx, module.backward


EVERY = [(pair, name) for name in PAIRS] + [(layer, name) for name in MODULES]
FOREIGN = [None, (), "ctx", object(), F.mse_forward(np.ones(2), np.ones(2))[1], nn.Linear(1, 1)]


@pytest.mark.parametrize(("get", "name"), EVERY)
def test_a_backward_refuses_the_context_of_another(get, name):
    y, own, backward = get(name)
    others = [
        ctx
        for other in ("softmax", "log_softmax", "relu", "sigmoid", "tanh", "linear")
        for _, ctx, _ in [pair(other)]
    ]
    for ctx in (*FOREIGN, *others):
        if type(ctx) is type(own) or (name == "Dropout" and ctx is None):  # nothing was dropped
            continue
        with pytest.raises(TypeError, match=r"^ctx: expected .+, got ") as caught:
            backward(np.ones_like(y), ctx)
        assert type(ctx).__name__ in str(caught.value)


@pytest.mark.parametrize(("get", "name"), EVERY)
def test_a_context_is_shown_without_the_numbers_of_its_arrays(get, name):
    _, ctx, _ = get(name)
    text = repr(ctx)
    assert "array(" not in text
    assert len(text.splitlines()) < 150
    assert text.startswith(type(ctx).__name__)
    assert max(map(len, text.splitlines())) <= 120


def test_the_context_of_a_pair_is_one_line():
    x = np.zeros((3, 4), np.float32)
    _, ctx = F.linear_forward(x, np.zeros((2, 4), np.float32))
    assert repr(ctx) == ("LinearContext(x=float32 (3, 4), weight=float32 (2, 4), has_bias=False)")
    assert repr(F.embedding_forward(np.array([1]), x)[1]) == (
        "EmbeddingContext(ids=int64 (1,), shape=(3, 4), dtype=float32)"
    )


def test_the_context_of_a_model_is_a_tree_with_like_layers_once():
    model = GPT(65, 16, embed_dim=32, num_heads=4, num_layers=4, rng=dice())
    _, ctx = model.forward(np.zeros((2, 16), int))
    lines = repr(ctx).splitlines()
    assert lines[0] == "GPTContext"
    assert (
        lines[1] == "  tokens: EmbeddingContext(ids=int64 (2, 16), shape=(65, 32), dtype=float32)"
    )
    assert "  dropout: None" in lines
    assert "    layers.0-3: TransformerEncoderLayerContext" in lines
    assert any(line.strip() == "lse: float32 (2, 4, 16)" for line in lines)
    assert len(lines) < 60


def test_parts_that_differ_are_all_shown():
    @context
    class Stack(NamedTuple):
        layers: tuple[object, ...]
        shape: tuple[int, ...]
        note: object

    one, two = np.zeros(2), np.zeros(3, int)
    assert repr(Stack((one, one, two, one), (2, 3), "x" * 100)) == (
        "Stack\n"
        "  layers.0-1: float64 (2,)\n"
        "  layers.2: int64 (3,)\n"
        "  layers.3: float64 (2,)\n"
        "  shape: (2, 3)\n"
        f"  note: 'x{'x' * 55}..."
    )
