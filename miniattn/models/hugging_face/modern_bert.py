"""ModernBERT and the text tower of CLIP: encoders of text that normalise first."""

from __future__ import annotations

from typing import Any

import numpy as np

from miniattn import nn
from miniattn.models.hugging_face.rotary import two_rotaries
from miniattn.models.hugging_face.rules import (
    GATED,
    Part,
    Rules,
    activation,
    named,
    of_layers,
    pairs,
    third,
    whole,
)
from miniattn.models.hugging_face.settings import Settings
from miniattn.models.text_encoder import TextEncoder


def modernbert(settings: Settings, dtype: np.dtype[Any]) -> tuple[TextEncoder, Rules]:
    """Return a model of ModernBERT: rotary positions, windows by layer, a gated feed-forward."""
    count, heads = settings.take("num_hidden_layers"), settings.take("num_attention_heads")
    width, bias = settings.take("hidden_size"), settings.take("norm_bias", default=False)
    settings.expect("mlp_bias", bias)
    for name in ("layer_norm_eps", "position_embedding_type", "tie_word_embeddings"):
        settings.take(name, default=None)  # read by nothing, or by a head that is not built
    near, far = two_rotaries(
        settings,
        width // heads,
        near=settings.take("local_rope_theta", default=10000.0),
        far=settings.take("global_rope_theta", default=160000.0),
    )
    half = settings.take("local_attention", default=128) // 2
    every = settings.take("global_attn_every_n_layers", default=3)
    kinds = settings.take("layer_types", default=None)
    options = {
        "sliding_attention": {"window": (half, half), "rotary": near},
        "full_attention": {"rotary": far},
    }
    if kinds is None:
        kinds = ["sliding_attention" if i % every else "full_attention" for i in range(count)]
    model = TextEncoder(
        settings.take("vocab_size"),
        settings.take("max_position_embeddings"),
        embed_dim=width,
        num_heads=heads,
        num_layers=count,
        ffn_dim=settings.take("intermediate_size"),
        positions=None,
        norm_first=True,
        activation=named(
            GATED, settings.take("hidden_activation", default="gelu"), "hidden_activation"
        ),
        bias=bias,
        attn_bias=settings.take("attention_bias", default=False),
        norm_eps=settings.take("norm_eps", default=1e-5),
        by_layer=[named(options, kind, "layer_types") for kind in kinds],
        dtype=dtype,
    )
    model.encoder.layers[0].norm1 = nn.Identity()  # the embedded tokens are normalised already
    at, there = "encoder.layers.{i}.", "layers.{i}."
    layer: dict[str, dict[str, Part]] = pairs(
        {
            f"{there}attn_norm": f"{at}norm1",
            f"{there}attn.Wo": f"{at}attn.out_proj",
            f"{there}mlp_norm": f"{at}norm2",
            f"{there}mlp.Wo": f"{at}ffn.down",
        }
    )
    for end in ("weight", "bias"):
        layer[f"{there}attn.Wqkv.{end}"] = {
            f"{at}attn.{x}_proj.{end}": third(j, 0) for j, x in enumerate("qkv")
        }
        layer[f"{there}mlp.Wi.{end}"] = {
            f"{at}ffn.gate.{end}": lambda x: x[: len(x) // 2],
            f"{at}ffn.up.{end}": lambda x: x[len(x) // 2 :],
        }
    return model, {
        "embeddings.tok_embeddings.weight": {"tokens.weight": whole},
        **pairs({"embeddings.norm": "norm", "final_norm": "encoder.norm"}),
        **of_layers(layer, count),
    }


def clip_text(settings: Settings, dtype: np.dtype[Any]) -> tuple[TextEncoder, Rules]:
    """Return the text tower of CLIP, which sees what comes before a token."""
    for name in ("projection_dim", "tie_word_embeddings"):
        settings.take(name, default=None)
    settings.expect("is_decoder", False)
    settings.expect("add_cross_attention", False)
    settings.expect("pruned_heads", {})
    count = settings.take("num_hidden_layers")
    model = TextEncoder(
        settings.take("vocab_size"),
        settings.take("max_position_embeddings"),
        embed_dim=settings.take("hidden_size"),
        num_heads=settings.take("num_attention_heads"),
        num_layers=count,
        ffn_dim=settings.take("intermediate_size"),
        norm_first=True,
        activation=activation(settings, "hidden_act", "quick_gelu"),
        embed_norm=False,
        causal=True,
        norm_eps=settings.take("layer_norm_eps", default=1e-5),
        dtype=dtype,
    )
    at, there = "encoder.layers.{i}.", "encoder.layers.{i}."
    layer = pairs(
        {
            f"{there}layer_norm1": f"{at}norm1",
            f"{there}layer_norm2": f"{at}norm2",
            **{f"{there}self_attn.{x}_proj": f"{at}attn.{x}_proj" for x in ("q", "k", "v", "out")},
            f"{there}mlp.fc1": f"{at}ffn.up",
            f"{there}mlp.fc2": f"{at}ffn.down",
        }
    )
    return model, {
        "embeddings.token_embedding.weight": {"tokens.weight": whole},
        "embeddings.position_embedding.weight": {"positions.weight": whole},
        **pairs({"final_layer_norm": "encoder.norm"}),
        **of_layers(layer, count),
    }


def clip(settings: Settings, dtype: np.dtype[Any]) -> tuple[TextEncoder, Rules]:
    """Return the text tower of a whole CLIP."""
    text = Settings(settings.take("text_config"))
    for name in ("vision_config", "text_config_dict", "vision_config_dict"):
        settings.take(name, default=None)
    for name in ("projection_dim", "logit_scale_init_value", "tie_word_embeddings"):
        settings.take(name, default=None)
    model, rules = clip_text(text, dtype)
    text.finish()
    return model, rules
