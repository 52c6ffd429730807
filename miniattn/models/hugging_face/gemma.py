"""Gemma: Llama with wide heads, token vectors times √E, and norms that multiply by 1 + weight."""

from __future__ import annotations

from typing import Any

import numpy as np

from miniattn.models.gpt import GPT
from miniattn.models.hugging_face.llama import llama_like, window_of
from miniattn.models.hugging_face.rotary import rotary_of_kind
from miniattn.models.hugging_face.rules import Rules, one_more
from miniattn.models.hugging_face.settings import Settings


def with_root_of_width(model: GPT) -> GPT:
    """Multiply token vectors by √E, as it is in the dtype of the model that was trained."""
    model.tokens.scale = float(np.float32(model.tokens.weight.shape[1]) ** 0.5)
    return model


def gemma(settings: Settings, dtype: np.dtype[Any]) -> tuple[GPT, Rules]:
    """Return a model of Gemma."""
    settings.expect("use_bidirectional_attention", None, False)
    act = settings.take("hidden_activation", default=None)
    settings.take("hidden_act", default=None)
    settings.default("hidden_act", act or "gelu_pytorch_tanh")  # what the authors' code does
    bias = settings.take("attention_bias", default=False)
    settings.default("tie_word_embeddings", True)
    model, rules = llama_like(settings, dtype, norm=one_more, attn_bias=bias)
    return with_root_of_width(model), rules


def gemma3(settings: Settings, dtype: np.dtype[Any]) -> tuple[GPT, Rules]:
    """Return a model of Gemma 3: windows and rotary positions by layer, sandwich norms."""
    settings.expect("use_bidirectional_attention", None, False)
    settings.expect("final_logit_softcapping", None)
    settings.expect("attn_logit_softcapping", None)
    bias = settings.take("attention_bias", default=False)
    settings.default("tie_word_embeddings", True)
    kinds = settings.take("layer_types")
    settings.take("sliding_window_pattern", "_sliding_window_pattern", default=None)
    window = window_of(settings.take("sliding_window"))
    head_dim = settings.take("head_dim")
    settings.default("head_dim", head_dim)
    told = dict(settings.take("rope_parameters"))
    rotary = {
        kind: rotary_of_kind(
            {k: v for k, v in rope.items() if k != "rope_theta"},
            head_dim,
            rope["rope_theta"],
            head_dim,
        )
        for kind, rope in told.items()
    }
    windows = {"sliding_attention": window, "full_attention": None}
    model, rules = llama_like(
        settings,
        dtype,
        norm=one_more,
        attn_bias=bias,
        qk_norm="head",
        sandwich=True,
        scale=settings.take("query_pre_attn_scalar") ** -0.5,
        by_layer=[{"window": windows[kind], "rotary": rotary[kind]} for kind in kinds],
    )
    return with_root_of_width(model), rules
