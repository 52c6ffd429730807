"""GPT-NeoX and its kin: LayerNorm, positions told by attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from miniattn import nn
from miniattn.models.gpt import GPT
from miniattn.models.hugging_face.rotary import rotary_of
from miniattn.models.hugging_face.rules import (
    Rules,
    activation,
    fused_by_head,
    of_layers,
    pairs,
    whole,
    with_shared_norms,
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
    layer |= fused_by_head(f"{there}attention.query_key_value", f"{at}attn.", heads)
    return model, {
        "embed_in.weight": {"tokens.weight": whole},
        "embed_out.weight": {"head.weight": whole},
        **pairs({"final_layer_norm": "blocks.norm"}),
        **of_layers(layer, count),
    }


def gptj(settings: Settings, dtype: np.dtype[Any]) -> tuple[GPT, Rules]:
    """Return a model of GPT-J: parallel sublayers of one norm, neighbours turned."""
    count = settings.take("n_layer")
    model = GPT(
        settings.take("vocab_size"),
        settings.take("n_positions"),
        embed_dim=settings.take("n_embd"),
        num_heads=settings.take("n_head"),
        num_layers=count,
        ffn_dim=settings.take("n_inner", default=None),
        activation=activation(settings, "activation_function", "gelu_new"),
        positions=None,
        rotary=nn.Rotary(dim=settings.take("rotary_dim"), interleaved=True),
        norm_eps=settings.take("layer_norm_epsilon", default=1e-5),
        bias=True,
        attn_bias=False,
        head_bias=True,
        parallel=True,
        tied=settings.take("tie_word_embeddings", default=False),
        dtype=dtype,
    )
    at, there = "blocks.layers.{i}.", "h.{i}."
    layer = pairs(
        {
            f"{there}ln_1": f"{at}norm1",
            **{f"{there}attn.{x}_proj": f"{at}attn.{x}_proj" for x in ("q", "k", "v", "out")},
            f"{there}mlp.fc_in": f"{at}ffn.up",
            f"{there}mlp.fc_out": f"{at}ffn.down",
        }
    )
    return with_shared_norms(model), {
        "wte.weight": {"tokens.weight": whole},
        **pairs({"lm_head": "head", "ln_f": "blocks.norm"}),
        **of_layers(layer, count),
    }


def phi(settings: Settings, dtype: np.dtype[Any]) -> tuple[GPT, Rules]:
    """Return a model of Phi: parallel sublayers of one norm, half of each head turned."""
    settings.expect("qk_layernorm", False)
    count, heads = settings.take("num_hidden_layers"), settings.take("num_attention_heads")
    width = settings.take("hidden_size")
    model = GPT(
        settings.take("vocab_size"),
        settings.take("max_position_embeddings"),
        embed_dim=width,
        num_heads=heads,
        num_kv_heads=settings.take("num_key_value_heads", default=None),
        num_layers=count,
        ffn_dim=settings.take("intermediate_size"),
        activation=activation(settings, "hidden_act", "gelu_new"),
        positions=None,
        rotary=rotary_of(settings, width // heads, share=0.5),
        norm_eps=settings.take("layer_norm_eps", default=1e-5),
        bias=True,
        head_bias=True,
        parallel=True,
        tied=settings.take("tie_word_embeddings", default=False),
        dtype=dtype,
    )
    at, there = "blocks.layers.{i}.", "layers.{i}."
    layer = pairs(
        {
            f"{there}input_layernorm": f"{at}norm1",
            **{f"{there}self_attn.{x}_proj": f"{at}attn.{x}_proj" for x in "qkv"},
            f"{there}self_attn.dense": f"{at}attn.out_proj",
            f"{there}mlp.fc1": f"{at}ffn.up",
            f"{there}mlp.fc2": f"{at}ffn.down",
        }
    )
    return with_shared_norms(model), {
        "embed_tokens.weight": {"tokens.weight": whole},
        **pairs({"lm_head": "head", "final_layernorm": "blocks.norm"}),
        **of_layers(layer, count),
    }


def bloom(settings: Settings, dtype: np.dtype[Any]) -> tuple[GPT, Rules]:
    """Return a model of BLOOM: ALiBi, and a norm of the embedded tokens."""
    settings.expect("apply_residual_connection_post_layernorm", False)
    settings.take("slow_but_exact", default=None)  # the same numbers, summed in parts
    settings.take("pretraining_tp", default=None)
    settings.take("n_inner", default=None)  # never read: it is always 4 E
    count = settings.take("n_layer", "num_hidden_layers")
    heads = settings.take("n_head", "num_attention_heads")
    width = settings.take("hidden_size", "n_embed")
    model = GPT(
        settings.take("vocab_size"),
        settings.take("seq_length", default=2048),
        embed_dim=width,
        num_heads=heads,
        num_layers=count,
        activation="gelu_tanh",
        positions="alibi",
        norm_eps=settings.take("layer_norm_epsilon", default=1e-5),
        bias=True,
        embed_norm=True,
        tied=settings.take("tie_word_embeddings", default=True),
        dtype=dtype,
    )
    at, there = "blocks.layers.{i}.", "h.{i}."
    layer = pairs(
        {
            f"{there}input_layernorm": f"{at}norm1",
            f"{there}post_attention_layernorm": f"{at}norm2",
            f"{there}self_attention.dense": f"{at}attn.out_proj",
            f"{there}mlp.dense_h_to_4h": f"{at}ffn.up",
            f"{there}mlp.dense_4h_to_h": f"{at}ffn.down",
        }
    )
    fused = f"{there}self_attention.query_key_value"
    return model, {
        "word_embeddings.weight": {"tokens.weight": whole},
        "lm_head.weight": {"head.weight": whole},
        **pairs({"word_embeddings_layernorm": "embed_norm", "ln_f": "blocks.norm"}),
        **of_layers(layer | fused_by_head(fused, f"{at}attn.", heads), count),
    }
