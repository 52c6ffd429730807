"""BERT and its kin: encoders of text."""

from __future__ import annotations

from typing import Any

import numpy as np

from miniattn.models.hugging_face.rules import Rules, activation, of_layers, pairs, whole
from miniattn.models.hugging_face.settings import Settings
from miniattn.models.text_encoder import TextEncoder


def bert(
    settings: Settings, dtype: np.dtype[Any], *, skipped: int = 0
) -> tuple[TextEncoder, Rules]:
    """Return BERT; the first ``skipped`` positions of the table are used by no token."""
    settings.expect("is_decoder", False)
    settings.expect("add_cross_attention", False)
    settings.expect("position_embedding_type", "absolute")
    settings.expect("pruned_heads", {})
    settings.take("tie_word_embeddings", default=True)
    count = settings.take("num_hidden_layers")
    model = TextEncoder(
        settings.take("vocab_size"),
        settings.take("max_position_embeddings") - skipped,
        num_types=settings.take("type_vocab_size"),
        embed_dim=settings.take("hidden_size"),
        num_heads=settings.take("num_attention_heads"),
        num_layers=count,
        ffn_dim=settings.take("intermediate_size"),
        activation=activation(settings, "hidden_act", "gelu"),
        norm_eps=settings.take("layer_norm_eps", default=1e-12),
        dtype=dtype,
    )
    at, there = "encoder.layers.{i}.", "encoder.layer.{i}."
    layer = pairs(
        {
            f"{there}attention.self.query": f"{at}attn.q_proj",
            f"{there}attention.self.key": f"{at}attn.k_proj",
            f"{there}attention.self.value": f"{at}attn.v_proj",
            f"{there}attention.output.dense": f"{at}attn.out_proj",
            f"{there}attention.output.LayerNorm": f"{at}norm1",
            f"{there}intermediate.dense": f"{at}ffn.up",
            f"{there}output.dense": f"{at}ffn.down",
            f"{there}output.LayerNorm": f"{at}norm2",
        }
    )
    return model, {
        "embeddings.word_embeddings.weight": {"tokens.weight": whole},
        "embeddings.position_embeddings.weight": {"positions.weight": lambda x: x[skipped:]},
        "embeddings.token_type_embeddings.weight": {"types.weight": whole},
        **pairs({"embeddings.LayerNorm": "norm"}),
        **of_layers(layer, count),
    }


def roberta(settings: Settings, dtype: np.dtype[Any]) -> tuple[TextEncoder, Rules]:
    """Return a model of RoBERTa: BERT with a later first position."""
    return bert(settings, dtype, skipped=settings.take("pad_token_id", default=1) + 1)


def distilbert(settings: Settings, dtype: np.dtype[Any]) -> tuple[TextEncoder, Rules]:
    """Return a model of DistilBERT: BERT without kinds of tokens."""
    settings.take("tie_word_embeddings", default=True)
    count = settings.take("n_layers")
    model = TextEncoder(
        settings.take("vocab_size"),
        settings.take("max_position_embeddings"),
        embed_dim=settings.take("dim"),
        num_heads=settings.take("n_heads"),
        num_layers=count,
        ffn_dim=settings.take("hidden_dim"),
        activation=activation(settings, "activation", "gelu"),
        norm_eps=1e-12,
        dtype=dtype,
    )
    at, there = "encoder.layers.{i}.", "transformer.layer.{i}."
    layer = pairs(
        {
            **{f"{there}attention.{x}_lin": f"{at}attn.{x}_proj" for x in "qkv"},
            f"{there}attention.out_lin": f"{at}attn.out_proj",
            f"{there}sa_layer_norm": f"{at}norm1",
            f"{there}ffn.lin1": f"{at}ffn.up",
            f"{there}ffn.lin2": f"{at}ffn.down",
            f"{there}output_layer_norm": f"{at}norm2",
        }
    )
    return model, {
        "embeddings.word_embeddings.weight": {"tokens.weight": whole},
        "embeddings.position_embeddings.weight": {"positions.weight": whole},
        **pairs({"embeddings.LayerNorm": "norm"}),
        **of_layers(layer, count),
    }
