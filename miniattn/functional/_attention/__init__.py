"""Scaled dot-product attention: forward, backward, its weights and its map.

`result` says what attention is; `operation` is the pair that does it, and `weights` its weights.
These two check what they are given and lay it out by `inputs`, and hand it to
``functional._attention_calls``. `context` is what passes between them and their caller.
"""

from miniattn.functional._attention.context import (
    AttentionContext,
    AttentionGrads,
    Normalizer,
    ScoredAttentionGrads,
    check_lse,
    grads_of,
    is_changed,
    maxima_and_sums,
)
from miniattn.functional._attention.inputs import checked_normalizer
from miniattn.functional._attention.operation import attention_backward, attention_forward
from miniattn.functional._attention.result import attention
from miniattn.functional._attention.weights import attention_map, attention_weights, weights_of

__all__ = [
    "AttentionContext",
    "AttentionGrads",
    "Normalizer",
    "ScoredAttentionGrads",
    "attention",
    "attention_backward",
    "attention_forward",
    "attention_map",
    "attention_weights",
    "check_lse",
    "checked_normalizer",
    "grads_of",
    "is_changed",
    "maxima_and_sums",
    "weights_of",
]
