"""ViT and DeiT: classifiers of images."""

from __future__ import annotations

from typing import Any

import numpy as np

from miniattn._typing import Array
from miniattn.models.hugging_face.rules import Rules, activation, of_layers, pairs
from miniattn.models.hugging_face.settings import Settings
from miniattn.models.image_classifier import Distillation, ImageClassifier
from miniattn.nn._attention.options import Biases


def vit(
    settings: Settings, dtype: np.dtype[Any], *, distillation: Distillation | None = None
) -> tuple[ImageClassifier, Rules]:
    """Return a model of ViT."""
    for name in ("encoder_stride", "pooler_act", "pooler_output_size"):
        settings.take(name, default=None)  # of heads that are not built
    count = settings.take("num_hidden_layers")
    with_qkv: Biases = ("q", "k", "v", "out")
    without: Biases = ["out"]
    named = settings.take("id2label", default=None)
    classes = settings.take("num_labels", default=2 if named is None else len(named))
    model = ImageClassifier(
        classes,
        _size(settings.take("image_size", default=224)),
        _size(settings.take("patch_size", default=16)),
        channels=settings.take("num_channels", default=3),
        embed_dim=settings.take("hidden_size"),
        num_heads=settings.take("num_attention_heads"),
        num_layers=count,
        ffn_dim=settings.take("intermediate_size"),
        distillation=distillation,
        activation=activation(settings, "hidden_act", "gelu"),
        norm_eps=settings.take("layer_norm_eps", default=1e-12),
        attn_bias=with_qkv if settings.take("qkv_bias", default=True) else without,
        dtype=dtype,
    )
    at, there = "encoder.layers.{i}.", "encoder.layer.{i}."
    layer = pairs(
        {
            f"{there}layernorm_before": f"{at}norm1",
            f"{there}attention.attention.query": f"{at}attn.q_proj",
            f"{there}attention.attention.key": f"{at}attn.k_proj",
            f"{there}attention.attention.value": f"{at}attn.v_proj",
            f"{there}attention.output.dense": f"{at}attn.out_proj",
            f"{there}layernorm_after": f"{at}norm2",
            f"{there}intermediate.dense": f"{at}ffn.up",
            f"{there}output.dense": f"{at}ffn.down",
        }
    )
    heads = {"layernorm": "encoder.norm", "classifier": "head", "cls_classifier": "head"}
    patches = "embeddings.patch_embeddings.projection"
    return model, {
        "embeddings.cls_token": {"class_token": _flat},
        "embeddings.distillation_token": {"distillation_token": _flat},
        "embeddings.position_embeddings": {"positions.weight": lambda x: x[0]},
        f"{patches}.weight": {"embed.weight": lambda x: x.reshape(len(x), -1)},
        f"{patches}.bias": {"embed.bias": _flat},
        **pairs({**heads, "distillation_classifier": "distillation_head"}),
        **of_layers(layer, count),
    }


def deit(settings: Settings, dtype: np.dtype[Any]) -> tuple[ImageClassifier, Rules]:
    """Return a model of DeiT: a ViT with one more token, and a head of it if it was distilled."""
    names = settings.look("architectures")
    taught = names == ["DeiTForImageClassificationWithTeacher"]
    return vit(settings, dtype, distillation="head" if taught else "token")


def _flat(x: Array) -> Array:
    return x.reshape(-1)


def _size(size: Any) -> Any:
    return tuple(size) if isinstance(size, list) else size
