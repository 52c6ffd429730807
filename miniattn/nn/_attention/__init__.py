"""Multi-head attention: the module, what may be put around its middle, and other middles.

`multi_head` is the whole, forward and backward; `frame` is what it is made of, with the plain
middle, and `parts` what may be put around that. `differential`, `talking` and `memory` are other
middles in the same frame. `protocol` says what else may stand in a layer.
"""

from miniattn.nn._attention.differential import DifferentialAttention, DifferentialContext
from miniattn.nn._attention.kinds import AttentionKind, LayerAttentionOptions
from miniattn.nn._attention.memory import MemoryAttention, MemoryContext
from miniattn.nn._attention.multi_head import MultiHeadAttention
from miniattn.nn._attention.options import AttentionOptions
from miniattn.nn._attention.protocol import CrossAttention, SelfAttention
from miniattn.nn._attention.results import (
    MultiHeadAttentionContext,
    MultiHeadAttentionGrads,
    ValueResidualGrads,
)
from miniattn.nn._attention.talking import TalkingHeadsAttention, TalkingHeadsContext

__all__ = [
    "AttentionKind",
    "AttentionOptions",
    "CrossAttention",
    "DifferentialAttention",
    "DifferentialContext",
    "LayerAttentionOptions",
    "MemoryAttention",
    "MemoryContext",
    "MultiHeadAttention",
    "MultiHeadAttentionContext",
    "MultiHeadAttentionGrads",
    "SelfAttention",
    "TalkingHeadsAttention",
    "TalkingHeadsContext",
    "ValueResidualGrads",
]
