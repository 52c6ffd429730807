"""Multi-head attention: the module, its options, and the views of arrays that it is made of."""

from miniattn.nn._attention.multi_head import (
    MultiHeadAttention,
    MultiHeadAttentionContext,
    MultiHeadAttentionGrads,
)
from miniattn.nn._attention.options import AttentionOptions

__all__ = [
    "AttentionOptions",
    "MultiHeadAttention",
    "MultiHeadAttentionContext",
    "MultiHeadAttentionGrads",
]
