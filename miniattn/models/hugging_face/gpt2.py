"""GPT-2 and its kin: LayerNorm, learned positions."""

from __future__ import annotations

from typing import Any

import numpy as np

from miniattn.models.gpt import GPT
from miniattn.models.hugging_face.rules import (
    Rules,
    activation,
    of_layers,
    pairs,
    third,
    turned,
    whole,
)
from miniattn.models.hugging_face.settings import Settings


def gpt2(settings: Settings, dtype: np.dtype[Any]) -> tuple[GPT, Rules]:
    """Return a model of GPT-2."""
    settings.expect("scale_attn_weights", True)
    settings.expect("scale_attn_by_inverse_layer_idx", False)
    settings.expect("reorder_and_upcast_attn", False, True)
    settings.expect("add_cross_attention", False)
    settings.take("n_ctx", default=None)
    count = settings.take("n_layer")
    model = GPT(
        settings.take("vocab_size"),
        settings.take("n_positions"),
        embed_dim=settings.take("n_embd"),
        num_heads=settings.take("n_head"),
        num_layers=count,
        ffn_dim=settings.take("n_inner", default=None),
        activation=activation(settings, "activation_function", "gelu_new"),
        norm_eps=settings.take("layer_norm_epsilon", default=1e-5),
        bias=True,
        tied=settings.take("tie_word_embeddings", default=True),
        dtype=dtype,
    )
    at = "blocks.layers.{i}."
    qkv = [f"{at}attn.{x}_proj" for x in "qkv"]
    layer = {
        **pairs({"h.{i}.ln_1": f"{at}norm1", "h.{i}.ln_2": f"{at}norm2"}),
        "h.{i}.attn.c_attn.weight": {f"{q}.weight": third(j, 1, turned) for j, q in enumerate(qkv)},
        "h.{i}.attn.c_attn.bias": {f"{q}.bias": third(j, 0) for j, q in enumerate(qkv)},
    }
    linear = {
        "h.{i}.attn.c_proj": f"{at}attn.out_proj",
        "h.{i}.mlp.c_fc": f"{at}ffn.up",
        "h.{i}.mlp.c_proj": f"{at}ffn.down",
    }
    layer |= pairs(linear, turned, ("weight",)) | pairs(linear, whole, ("bias",))
    return model, {
        "wte.weight": {"tokens.weight": whole},
        "wpe.weight": {"positions.weight": whole},
        "lm_head.weight": {"head.weight": whole},
        **pairs({"ln_f": "blocks.norm"}),
        **of_layers(layer, count),
    }


def opt(settings: Settings, dtype: np.dtype[Any]) -> tuple[GPT, Rules]:
    """Return a model of OPT, whose first two positions no token uses."""
    settings.expect("do_layer_norm_before", True)
    settings.expect("enable_bias", True)
    settings.expect("layer_norm_elementwise_affine", True)
    settings.expect("_remove_final_layer_norm", False)
    settings.take("layerdrop", "init_std", default=None)
    settings.take("init_std", default=None)
    count, width = settings.take("num_hidden_layers"), settings.take("hidden_size")
    settings.expect("word_embed_proj_dim", width)
    model = GPT(
        settings.take("vocab_size"),
        settings.take("max_position_embeddings"),
        embed_dim=width,
        num_heads=settings.take("num_attention_heads"),
        num_layers=count,
        ffn_dim=settings.take("ffn_dim"),
        activation=activation(settings, "activation_function", "relu"),
        bias=True,
        tied=settings.take("tie_word_embeddings", default=True),
        dtype=dtype,
    )
    at, there = "blocks.layers.{i}.", "layers.{i}."
    layer = pairs(
        {
            f"{there}self_attn_layer_norm": f"{at}norm1",
            **{f"{there}self_attn.{x}_proj": f"{at}attn.{x}_proj" for x in ("q", "k", "v", "out")},
            f"{there}final_layer_norm": f"{at}norm2",
            f"{there}fc1": f"{at}ffn.up",
            f"{there}fc2": f"{at}ffn.down",
        }
    )
    return model, {
        "embed_tokens.weight": {"tokens.weight": whole},
        "embed_positions.weight": {"positions.weight": lambda x: x[2:]},
        "lm_head.weight": {"head.weight": whole},
        **pairs({"final_layer_norm": "blocks.norm"}),
        **of_layers(layer, count),
    }
