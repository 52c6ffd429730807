"""The same operations in plain NumPy and float64: the specification, as short as it can be said.

Nothing here is fast, and nothing is shared with the kernels that are tested against it. Every
function converts its arrays to float64 and returns new ones. ``op(inputs, options)`` is the
forward direction; ``op_backward(dy, inputs, options)`` takes the same arguments, recomputes what
it needs and returns the gradients in the order of the inputs.

Masks *select*: a hidden entry is not multiplied by zero, it is never read. That is why NaN in a
hidden place cannot leak, and why a row that may see nothing is exactly 0 (and its log-sum-exp
-inf). The letters are B batch, H heads, G key/value heads, T queries, S keys, D and Dv widths.
"""

from miniattn import _lazy
from miniattn.reference._activation import (
    gelu,
    gelu_backward,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    silu,
    silu_backward,
    tanh,
    tanh_backward,
)
from miniattn.reference._attention import (
    Attention,
    AttentionGrads,
    Merged,
    ScoredAttentionGrads,
    attention,
    attention_backward,
    attention_map,
    attention_weights,
    merge_attention,
    merge_attention_backward,
    scaled_dot_product_attention,
)
from miniattn.reference._linear import (
    dropout,
    dropout_backward,
    embedding,
    embedding_backward,
    linear,
    linear_backward,
)
from miniattn.reference._loss import (
    cross_entropy,
    cross_entropy_backward,
    linear_cross_entropy,
    linear_cross_entropy_backward,
    mse,
    mse_backward,
)
from miniattn.reference._norm import (
    batch_norm,
    batch_norm_backward,
    layer_norm,
    layer_norm_backward,
    rms_norm,
    rms_norm_backward,
)
from miniattn.reference._rotary import (
    rotary,
    rotary_backward,
)
from miniattn.reference._softmax import (
    entmax15,
    entmax15_backward,
    log_softmax,
    log_softmax_backward,
    logsumexp,
    logsumexp_backward,
    softmax,
    softmax_backward,
    sparsemax,
    sparsemax_backward,
)

__all__ = [
    "Attention",
    "AttentionGrads",
    "Merged",
    "ScoredAttentionGrads",
    "attention",
    "attention_backward",
    "attention_map",
    "attention_weights",
    "batch_norm",
    "batch_norm_backward",
    "cross_entropy",
    "cross_entropy_backward",
    "dropout",
    "dropout_backward",
    "embedding",
    "embedding_backward",
    "entmax15",
    "entmax15_backward",
    "gelu",
    "gelu_backward",
    "layer_norm",
    "layer_norm_backward",
    "linear",
    "linear_backward",
    "linear_cross_entropy",
    "linear_cross_entropy_backward",
    "log_softmax",
    "log_softmax_backward",
    "logsumexp",
    "logsumexp_backward",
    "merge_attention",
    "merge_attention_backward",
    "mse",
    "mse_backward",
    "relu",
    "relu_backward",
    "rms_norm",
    "rms_norm_backward",
    "rotary",
    "rotary_backward",
    "scaled_dot_product_attention",
    "sigmoid",
    "sigmoid_backward",
    "silu",
    "silu_backward",
    "softmax",
    "softmax_backward",
    "sparsemax",
    "sparsemax_backward",
    "tanh",
    "tanh_backward",
]

__dir__ = _lazy.listed(__name__, __all__)
