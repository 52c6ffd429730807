"""Llama and its kin: RMSNorm, rotary positions, a gated feed-forward."""

from __future__ import annotations

from typing import Any

import numpy as np

from miniattn import nn
from miniattn.models.gpt import GPT
from miniattn.models.hugging_face.rotary import rotary_of
from miniattn.models.hugging_face.rules import GATED, Part, Rules, named, of_layers, pairs, whole
from miniattn.models.hugging_face.settings import Settings


def llama_like(
    settings: Settings, dtype: np.dtype[Any], *, norm: Part = whole, **options: Any
) -> tuple[GPT, dict[str, dict[str, Part]]]:
    """Return a model with RMSNorm, rotary positions and a gated feed-forward, and its rules."""
    settings.expect("pretraining_tp", 1)
    count, heads = settings.take("num_hidden_layers"), settings.take("num_attention_heads")
    width = settings.take("hidden_size")
    head_dim = settings.take("head_dim", default=None) or width // heads
    eps = settings.take("rms_norm_eps", default=1e-6)
    if "rotary" not in options and "by_layer" not in options:
        options["rotary"] = rotary_of(settings, head_dim)
    if "qk_norm" in options:
        options["qk_norm_eps"] = eps
    model = GPT(
        settings.take("vocab_size"),
        settings.take("max_position_embeddings"),
        embed_dim=width,
        num_heads=heads,
        num_kv_heads=settings.take("num_key_value_heads", default=None) or heads,
        head_dim=head_dim,
        num_layers=count,
        ffn_dim=settings.take("intermediate_size"),
        activation=named(
            GATED, settings.take("hidden_activation", "hidden_act", default="silu"), "hidden_act"
        ),
        positions=None,
        norm="rms",
        norm_eps=eps,
        tied=settings.take("tie_word_embeddings", default=False),
        dtype=dtype,
        **options,
    )
    sandwich = options.get("sandwich", False)
    inner = ".layers.0" if sandwich else ""
    at, there = "blocks.layers.{i}.", "layers.{i}."
    layer = pairs(
        {
            **{f"{there}self_attn.{x}_proj": f"{at}attn.{x}_proj" for x in "qkv"},
            f"{there}self_attn.o_proj": f"{at}attn.out_proj{inner}",
            f"{there}mlp.gate_proj": f"{at}ffn.gate",
            f"{there}mlp.up_proj": f"{at}ffn.up",
            f"{there}mlp.down_proj": f"{at}ffn.down{inner}",
        }
    )
    before_ffn = "pre_feedforward_layernorm" if sandwich else "post_attention_layernorm"
    norms = {
        f"{there}input_layernorm": f"{at}norm1",
        f"{there}{before_ffn}": f"{at}norm2",
        f"{there}self_attn.q_norm": f"{at}attn.q_norm",
        f"{there}self_attn.k_norm": f"{at}attn.k_norm",
    }
    if sandwich:
        norms |= {
            f"{there}post_attention_layernorm": f"{at}attn.out_proj.layers.1",
            f"{there}post_feedforward_layernorm": f"{at}ffn.down.layers.1",
        }
    layer |= pairs(norms, norm, ("weight",))
    return model, {
        "embed_tokens.weight": {"tokens.weight": whole},
        "lm_head.weight": {"head.weight": whole},
        **pairs({"norm": "blocks.norm"}, norm, ("weight",)),
        **of_layers(layer, count),
    }


def llama(settings: Settings, dtype: np.dtype[Any]) -> tuple[GPT, Rules]:
    """Return a model of Llama."""
    return llama_like(
        settings,
        dtype,
        attn_bias=settings.take("attention_bias", default=False),
        bias=settings.take("mlp_bias", default=False),
    )


def window_of(width: int | None) -> tuple[int, int] | None:
    """Return the window of a query that sees ``width`` tokens, itself among them."""
    return None if width is None else (width - 1, 0)


def mistral(settings: Settings, dtype: np.dtype[Any]) -> tuple[GPT, Rules]:
    """Return a model of Mistral: Llama with a window."""
    return llama_like(
        settings, dtype, window=window_of(settings.take("sliding_window", default=None))
    )


def smollm3(settings: Settings, dtype: np.dtype[Any]) -> tuple[GPT, Rules]:
    """Return a model of SmolLM3: Llama with layers that are not told positions."""
    without_windows(settings)
    every = settings.take("no_rope_layer_interval", default=4)
    count, heads = settings.look("num_hidden_layers"), settings.look("num_attention_heads")
    told = settings.take("no_rope_layers", default=None)  # 1 where a layer turns
    told = [(i + 1) % every for i in range(count)] if told is None else told
    rotary = rotary_of(settings, settings.look("hidden_size") // heads, base=2000000.0)
    settings.default("tie_word_embeddings", True)
    return llama_like(
        settings,
        dtype,
        attn_bias=settings.take("attention_bias", default=False),
        bias=settings.take("mlp_bias", default=False),
        by_layer=[{"rotary": rotary if turns else None} for turns in told],
    )


def without_windows(settings: Settings) -> None:
    """Raise where layers are asked to have windows."""
    settings.expect("use_sliding_window", False)
    settings.take("sliding_window", default=None)
    kinds = settings.take("layer_types", default=None) or []
    if set(kinds) - {"full_attention"}:
        raise ValueError(f"config.json: expected layer_types of full attention, got {kinds}")


def qwen2(settings: Settings, dtype: np.dtype[Any]) -> tuple[GPT, Rules]:
    """Return a model of Qwen2: Llama with biases of q, k and v."""
    without_windows(settings)
    return llama_like(settings, dtype, attn_bias=("q", "k", "v"))


def qwen3(settings: Settings, dtype: np.dtype[Any]) -> tuple[GPT, Rules]:
    """Return a model of Qwen3: Llama with normalised q and k."""
    without_windows(settings)
    bias = settings.take("attention_bias", default=False)
    return llama_like(settings, dtype, attn_bias=bias, qk_norm="head")


def olmo2(settings: Settings, dtype: np.dtype[Any]) -> tuple[GPT, Rules]:
    """Return a model of OLMo2: Llama with norms after the sublayers only."""
    bias = settings.take("attention_bias", default=False)
    model, rules = llama_like(settings, dtype, attn_bias=bias, qk_norm="full", sandwich=True)
    for layer in model.blocks.layers:  # norms after the sublayers alone
        layer.norm1, layer.norm2 = nn.Identity(), nn.Identity()
    return model, rules
