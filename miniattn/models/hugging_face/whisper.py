"""Whisper: an encoder of sound, and a decoder that writes what was said."""

from __future__ import annotations

from typing import Any

import numpy as np

from miniattn._typing import Array
from miniattn.models.encoder_decoder import EncoderDecoder
from miniattn.models.hugging_face.rules import Rules, activation, of_layers, pairs, whole
from miniattn.models.hugging_face.settings import Settings

# Of training (masks over the input, dropped layers), of other heads, and of times of words.
_UNUSED = """
encoder_layerdrop decoder_layerdrop activation_dropout init_std apply_spec_augment mask_time_prob
mask_time_length mask_time_min_masks mask_feature_prob mask_feature_length mask_feature_min_masks
use_weighted_layer_sum classifier_proj_size median_filter_width num_hidden_layers
"""


def whisper(settings: Settings, dtype: np.dtype[Any]) -> tuple[EncoderDecoder, Rules]:
    """Return a model of Whisper, whose keys have no bias; places of sound are not learned."""
    for name in _UNUSED.split():
        settings.take(name, default=None)
    settings.expect("scale_embedding", False)
    heads, ffn_dim = settings.take("encoder_attention_heads"), settings.take("encoder_ffn_dim")
    settings.expect("decoder_attention_heads", heads)
    settings.expect("decoder_ffn_dim", ffn_dim)
    counts = settings.take("encoder_layers"), settings.take("decoder_layers")
    model = EncoderDecoder(
        settings.take("vocab_size"),
        input_dim=settings.take("num_mel_bins", default=80),
        embed_dim=settings.take("d_model"),
        num_heads=heads,
        num_encoder_layers=counts[0],
        num_decoder_layers=counts[1],
        ffn_dim=ffn_dim,
        positions="learned",
        max_length=settings.take("max_target_positions", default=448),
        max_source_length=settings.take("max_source_positions", default=1500),
        norm_eps=1e-5,
        activation=activation(settings, "activation_function", "gelu"),
        attn_bias=("q", "v", "out"),
        tied=settings.take("tie_word_embeddings", default=True),
        dtype=dtype,
    )
    if model.source_positions is not None:
        model.source_positions.freeze()
    convolutions = {
        f"encoder.conv{i}.{end}": {f"source_tokens.{ours}.linear.{end}": part}
        for i, ours in ((1, "first"), (2, "second"))
        for end, part in (("weight", _steps_first), ("bias", whole))
    }
    return model, {
        **convolutions,
        "encoder.embed_positions.weight": {"source_positions.weight": whole},
        "decoder.embed_tokens.weight": {"target_tokens.weight": whole},
        "decoder.embed_positions.weight": {"target_positions.weight": whole},
        "proj_out.weight": {"head.weight": whole},
        **pairs({f"{x}.layer_norm": f"{x}.norm" for x in ("encoder", "decoder")}),
        **_stack("encoder", counts[0], {"self_attn": "attn"}),
        **_stack("decoder", counts[1], {"self_attn": "self_attn", "encoder_attn": "cross_attn"}),
    }


def _stack(stack: str, count: int, attentions: dict[str, str]) -> Rules:
    """Return the rules of a stack, whose sublayers are attentions and a feed-forward."""
    at = there = f"{stack}.layers.{{i}}."
    names = {f"{there}fc1": f"{at}ffn.up", f"{there}fc2": f"{at}ffn.down"}
    for j, (theirs, ours) in enumerate(attentions.items()):
        names[f"{there}{theirs}_layer_norm"] = f"{at}norm{j + 1}"
        for x in ("q", "k", "v", "out"):
            names[f"{there}{theirs}.{x}_proj"] = f"{at}{ours}.{x}_proj"
    names[f"{there}final_layer_norm"] = f"{at}norm{len(attentions) + 1}"
    return of_layers(pairs(names), count)


def _steps_first(x: Array) -> Array:
    """Return the weight (out, in, 3) of a convolution as that of a linear map of three steps."""
    return x.swapaxes(1, 2).reshape(len(x), -1)
