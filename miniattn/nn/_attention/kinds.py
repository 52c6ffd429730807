"""Attention by name, as layers and stacks ask for it."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

from miniattn import _checks
from miniattn.nn._attention.differential import DifferentialAttention
from miniattn.nn._attention.memory import MemoryAttention
from miniattn.nn._attention.multi_head import MultiHeadAttention
from miniattn.nn._attention.options import AttentionOptions, Biases
from miniattn.nn._attention.talking import TalkingHeadsAttention

AttentionKind: TypeAlias = Literal["softmax", "differential", "talking_heads", "memory"]
_CLASSES: dict[str, type[MultiHeadAttention]] = {
    "softmax": MultiHeadAttention,
    "differential": DifferentialAttention,
    "talking_heads": TalkingHeadsAttention,
    "memory": MemoryAttention,
}


class LayerAttentionOptions(AttentionOptions, total=False):
    """The options of a layer that are about its attention."""

    attention: AttentionKind
    attn_bias: Biases | None
    lambda_init: float
    slots: int


def attention_layer(
    embed_dim: int,
    num_heads: int,
    *,
    bias: bool,
    attention: AttentionKind = "softmax",
    attn_bias: Biases | None = None,
    **options: Any,
) -> MultiHeadAttention:
    """Return the attention that ``attention`` stands for; ``attn_bias`` goes before ``bias``."""
    made = _CLASSES[_checks.choice("attention", attention, get_args(AttentionKind))]
    return made(embed_dim, num_heads, bias=bias if attn_bias is None else attn_bias, **options)
