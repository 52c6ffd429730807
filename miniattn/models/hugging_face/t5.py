"""T5: an encoder and a decoder that are told distances alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from miniattn import nn
from miniattn.models.encoder_decoder import EncoderDecoder
from miniattn.models.hugging_face.rules import ACTIVATIONS, Rules, named, of_layers, pairs, whole
from miniattn.models.hugging_face.settings import Settings

_GATED = {"gelu": "geglu_tanh", "silu": "swiglu", "relu": "reglu"}  # "gelu" is gelu_new there


def mt5(settings: Settings, dtype: np.dtype[Any]) -> tuple[EncoderDecoder, Rules]:
    """Return a model of mT5: a T5 whose output layer reads what the decoder says as it is.

    Whether that layer has a table of its own, its file says: it holds ``lm_head.weight`` then.
    """
    settings.take("tie_word_embeddings", default=None)
    settings.default("feed_forward_proj", "gated-gelu")
    settings.default("tie_word_embeddings", False)
    settings.expect("scale_decoder_outputs", False)
    return t5(settings, dtype)


def t5(settings: Settings, dtype: np.dtype[Any]) -> tuple[EncoderDecoder, Rules]:
    """Return a model of T5: unscaled scores, one table of distances a stack, no biases."""
    for name in ("dropout_rate", "n_positions", "output_past", "dense_act_fn", "is_gated_act"):
        settings.take(name, default=None)
    settings.expect("is_decoder", False)
    width, heads = settings.take("d_model"), settings.take("num_heads")
    counts = settings.take("num_layers"), settings.take("num_decoder_layers", default=None)
    counts = counts[0], counts[1] or counts[0]
    tied = settings.take("tie_word_embeddings", default=True)
    settings.expect("scale_decoder_outputs", tied)
    gated, _, activation = settings.take("feed_forward_proj", default="relu").rpartition("-")
    buckets = settings.take("relative_attention_num_buckets", default=32)
    most = settings.take("relative_attention_max_distance", default=128)

    def distances(*, bidirectional: bool) -> nn.T5Bias:
        return nn.T5Bias(
            heads, buckets=buckets, bidirectional=bidirectional, max_distance=most, dtype=dtype
        )

    model = EncoderDecoder(
        settings.take("vocab_size"),
        embed_dim=width,
        num_heads=heads,
        head_dim=settings.take("d_kv"),
        num_encoder_layers=counts[0],
        num_decoder_layers=counts[1],
        ffn_dim=settings.take("d_ff"),
        positions=None,
        score=distances(bidirectional=True),
        target_score=distances(bidirectional=False),
        scale=1.0,
        norm="rms",
        norm_eps=settings.take("layer_norm_epsilon", default=1e-6),
        activation=named(_GATED if gated else ACTIVATIONS, activation, "feed_forward_proj"),
        bias=False,
        tied=tied,
        dtype=dtype,
    )
    model.target_tokens.weight = model.source_tokens.weight
    # A shared table is read as it is, and multiplied by 1 / sqrt(E) where it writes.
    before_head = width**-0.5 if tied else 1.0
    return model, {
        "shared.weight": {"source_tokens.weight": whole},
        "encoder.embed_tokens.weight": {"source_tokens.weight": whole},
        "decoder.embed_tokens.weight": {"source_tokens.weight": whole},
        "lm_head.weight": {"head.weight": whole},
        "encoder.final_layer_norm.weight": {"encoder.norm.weight": whole},
        "decoder.final_layer_norm.weight": {"decoder.norm.weight": lambda x: x * before_head},
        **_stack("encoder", counts[0], ["attn"], ["SelfAttention"]),
        **_stack("decoder", counts[1], ["self_attn", "cross_attn"], _DECODER),
    }


_DECODER = ["SelfAttention", "EncDecAttention"]


def _stack(stack: str, count: int, ours: list[str], theirs: list[str]) -> Rules:
    """Return the rules of a stack, whose sublayers have numbers in their file."""
    at, there = f"{stack}.layers.{{i}}.", f"{stack}.block.{{i}}.layer."
    names = {}
    for j, (own, other) in enumerate(zip(ours, theirs, strict=True)):
        names[f"{there}{j}.layer_norm"] = f"{at}norm{j + 1}"
        for x in "qkv":
            names[f"{there}{j}.{other}.{x}"] = f"{at}{own}.{x}_proj"
        names[f"{there}{j}.{other}.o"] = f"{at}{own}.out_proj"
    last = len(ours)
    names[f"{there}{last}.layer_norm"] = f"{at}norm{last + 1}"
    for other, own in {"wi": "up", "wi_0": "gate", "wi_1": "up", "wo": "down"}.items():
        names[f"{there}{last}.DenseReluDense.{other}"] = f"{at}ffn.{own}"
    table = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    place = f"{stack}.layers.0.{ours[0]}.score.tables.table"
    return {**of_layers(pairs(names, whole, ("weight",)), count), table: {place: whole}}
