"""GPT-NeoX and its kin: LayerNorm, positions told by attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from miniattn.models.gpt import GPT
from miniattn.models.hugging_face.rotary import rotary_of
from miniattn.models.hugging_face.rules import (
    Rules,
    activation,
    of_layers,
    one_of_each_head,
    pairs,
    whole,
)
from miniattn.models.hugging_face.settings import Settings


def gpt_neox(settings: Settings, dtype: np.dtype[Any]) -> tuple[GPT, Rules]:
    """Return a model of GPT-NeoX, such as Pythia."""
    settings.expect("is_decoder", False, True)
    count, heads = settings.take("num_hidden_layers"), settings.take("num_attention_heads")
    width = settings.take("hidden_size")
    model = GPT(
        settings.take("vocab_size"),
        settings.take("max_position_embeddings", default=2048),
        embed_dim=width,
        num_heads=heads,
        num_layers=count,
        ffn_dim=settings.take("intermediate_size"),
        activation=activation(settings, "hidden_act", "gelu"),
        positions=None,
        rotary=rotary_of(settings, width // heads, share=0.25),
        norm_eps=settings.take("layer_norm_eps", default=1e-5),
        bias=True,
        attn_bias=settings.take("attention_bias", default=True),
        parallel=settings.take("use_parallel_residual", default=True),
        tied=settings.take("tie_word_embeddings", default=False),
        dtype=dtype,
    )
    at, there = "blocks.layers.{i}.", "layers.{i}."
    layer = pairs(
        {
            f"{there}input_layernorm": f"{at}norm1",
            f"{there}post_attention_layernorm": f"{at}norm2",
            f"{there}attention.dense": f"{at}attn.out_proj",
            f"{there}mlp.dense_h_to_4h": f"{at}ffn.up",
            f"{there}mlp.dense_4h_to_h": f"{at}ffn.down",
        }
    )
    for end in ("weight", "bias"):
        layer[f"{there}attention.query_key_value.{end}"] = {
            f"{at}attn.{x}_proj.{end}": one_of_each_head(j, heads) for j, x in enumerate("qkv")
        }
    return model, {
        "embed_in.weight": {"tokens.weight": whole},
        "embed_out.weight": {"head.weight": whole},
        **pairs({"final_layer_norm": "blocks.norm"}),
        **of_layers(layer, count),
    }
