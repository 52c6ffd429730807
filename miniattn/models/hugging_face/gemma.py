"""Gemma: Llama with wide heads, token vectors times √E, and norms that multiply by 1 + weight."""

from __future__ import annotations

from typing import Any

import numpy as np

from miniattn.models.gpt import GPT
from miniattn.models.hugging_face.llama import llama_like, window_of
from miniattn.models.hugging_face.rotary import rotary_of, two_rotaries
from miniattn.models.hugging_face.rules import Part, Rules, named, one_more
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


def gemma2(settings: Settings, dtype: np.dtype[Any]) -> tuple[GPT, Rules]:
    """Return a model of Gemma 2: every other layer has a window, scores and logits a cap."""
    windows = _windows(settings, every=2)
    return _sandwiched(
        settings,
        dtype,
        softcap=settings.take("attn_logit_softcapping", default=50.0),
        final_softcap=settings.take("final_logit_softcapping", default=30.0),
        rotary=rotary_of(settings, _head_dim(settings)),
        by_layer=[{"window": window} for window in windows],
    )


def gemma3(settings: Settings, dtype: np.dtype[Any]) -> tuple[GPT, Rules]:
    """Return a model of Gemma 3: windows and rotary positions by layer, sandwich norms."""
    every = settings.take("sliding_window_pattern", "_sliding_window_pattern", default=6)
    windows = _windows(settings, every=every)
    near, far = two_rotaries(
        settings,
        _head_dim(settings),
        near=settings.take("rope_local_base_freq", default=10000.0),
        far=settings.take("rope_theta", default=1000000.0),
    )
    return _sandwiched(
        settings,
        dtype,
        softcap=settings.take("attn_logit_softcapping", default=None),
        final_softcap=settings.take("final_logit_softcapping", default=None),
        qk_norm="head",
        by_layer=[{"window": window, "rotary": near if window else far} for window in windows],
    )


def _sandwiched(
    settings: Settings, dtype: np.dtype[Any], **options: Any
) -> tuple[GPT, dict[str, dict[str, Part]]]:
    """Return what Gemma 2 and 3 share."""
    settings.expect("use_bidirectional_attention", None, False)
    settings.default("hidden_activation", "gelu_pytorch_tanh")
    settings.default("tie_word_embeddings", True)
    model, rules = llama_like(
        settings,
        dtype,
        norm=one_more,
        attn_bias=settings.take("attention_bias", default=False),
        sandwich=True,
        scale=settings.take("query_pre_attn_scalar", default=256) ** -0.5,
        **options,
    )
    return with_root_of_width(model), rules


def _head_dim(settings: Settings) -> int:
    settings.default("head_dim", 256)
    head_dim: int = settings.look("head_dim")
    return head_dim


def _windows(settings: Settings, *, every: int) -> list[tuple[int, int] | None]:
    """Return the window of each layer: all have it, but each ``every``-th by default."""
    count = settings.look("num_hidden_layers")
    near, far = "sliding_attention", "full_attention"
    kinds = settings.take("layer_types", default=None)
    kinds = [near if (i + 1) % every else far for i in range(count)] if kinds is None else kinds
    windows = {near: window_of(settings.take("sliding_window", default=4096)), far: None}
    return [named(windows, kind, "layer_types") for kind in kinds]
