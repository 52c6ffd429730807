"""Modules and parameters, with every backward written by hand."""

from miniattn import _lazy
from miniattn.nn import frequencies
from miniattn.nn._activation import (
    GELU,
    Activation,
    Identity,
    IdentityContext,
    QuickGELU,
    ReLU,
    Sigmoid,
    SiLU,
    Softcap,
    Tanh,
)
from miniattn.nn._adapter import (
    Adapter,
    AdapterContext,
    LoRA,
    LoRAContext,
    add_adapters,
    add_lora,
    merge_lora,
)
from miniattn.nn._attention import (
    AttentionKind,
    AttentionOptions,
    CrossAttention,
    DifferentialAttention,
    DifferentialContext,
    LayerAttentionOptions,
    MemoryAttention,
    MemoryContext,
    MultiHeadAttention,
    MultiHeadAttentionContext,
    MultiHeadAttentionGrads,
    SelfAttention,
    TalkingHeadsAttention,
    TalkingHeadsContext,
    ValueResidualGrads,
)
from miniattn.nn._cache import KVCache
from miniattn.nn._container import Sequential, SequentialContext
from miniattn.nn._decoder import (
    TransformerDecoder,
    TransformerDecoderContext,
    TransformerDecoderGrads,
    TransformerDecoderLayer,
    TransformerDecoderLayerContext,
    TransformerDecoderOptions,
)
from miniattn.nn._dropout import Dropout
from miniattn.nn._embedding import Embedding
from miniattn.nn._encoder import TransformerEncoder, TransformerEncoderContext
from miniattn.nn._encoder_layer import (
    TransformerEncoderGrads,
    TransformerEncoderLayer,
    TransformerEncoderLayerContext,
    TransformerEncoderOptions,
    ValueResidualEncoderGrads,
)
from miniattn.nn._feed_forward import (
    FeedForward,
    FeedForwardContext,
    GatedContext,
    GatedFeedForward,
    SwiGLU,
)
from miniattn.nn._layers import FeedForwardName
from miniattn.nn._linear import Linear
from miniattn.nn._module import Module
from miniattn.nn._norm import BatchNorm, LayerNorm, RMSNorm
from miniattn.nn._parameter import Parameter, Statistics
from miniattn.nn._positions import (
    LearnedPositions,
    LearnedPositionsContext,
    Rotary,
    SinusoidalPositions,
    SinusoidalPositionsContext,
    alibi_bias,
)
from miniattn.nn._scores import ALiBi, LearnedScore, LearnedScoreContext, RelativeBias, T5Bias
from miniattn.scores._ready import alibi_slopes

__all__ = [
    "GELU",
    "ALiBi",
    "Activation",
    "Adapter",
    "AdapterContext",
    "AttentionKind",
    "AttentionOptions",
    "BatchNorm",
    "CrossAttention",
    "DifferentialAttention",
    "DifferentialContext",
    "Dropout",
    "Embedding",
    "FeedForward",
    "FeedForwardContext",
    "FeedForwardName",
    "GatedContext",
    "GatedFeedForward",
    "Identity",
    "IdentityContext",
    "KVCache",
    "LayerAttentionOptions",
    "LayerNorm",
    "LearnedPositions",
    "LearnedPositionsContext",
    "LearnedScore",
    "LearnedScoreContext",
    "Linear",
    "LoRA",
    "LoRAContext",
    "MemoryAttention",
    "MemoryContext",
    "Module",
    "MultiHeadAttention",
    "MultiHeadAttentionContext",
    "MultiHeadAttentionGrads",
    "Parameter",
    "QuickGELU",
    "RMSNorm",
    "ReLU",
    "RelativeBias",
    "Rotary",
    "SelfAttention",
    "Sequential",
    "SequentialContext",
    "SiLU",
    "Sigmoid",
    "SinusoidalPositions",
    "SinusoidalPositionsContext",
    "Softcap",
    "Statistics",
    "SwiGLU",
    "T5Bias",
    "TalkingHeadsAttention",
    "TalkingHeadsContext",
    "Tanh",
    "TransformerDecoder",
    "TransformerDecoderContext",
    "TransformerDecoderGrads",
    "TransformerDecoderLayer",
    "TransformerDecoderLayerContext",
    "TransformerDecoderOptions",
    "TransformerEncoder",
    "TransformerEncoderContext",
    "TransformerEncoderGrads",
    "TransformerEncoderLayer",
    "TransformerEncoderLayerContext",
    "TransformerEncoderOptions",
    "ValueResidualEncoderGrads",
    "ValueResidualGrads",
    "add_adapters",
    "add_lora",
    "alibi_bias",
    "alibi_slopes",
    "frequencies",
    "merge_lora",
]

__dir__ = _lazy.listed(__name__, __all__)
