"""What layers of encoders and decoders share: options, and the feed-forward they ask for."""

from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import DTypeLike

from miniattn import _checks
from miniattn.nn._activation import Activation
from miniattn.nn._attention import LayerAttentionOptions
from miniattn.nn._attention.frame import AttentionFrame
from miniattn.nn._cache import KVCache
from miniattn.nn._feed_forward import FeedForward, GatedFeedForward, SwiGLU
from miniattn.nn._module import Module

# What attention calls query, where it gets the layer's input as it came (post-norm).
QUERY_IS_X = _checks.renamed(query="x")

FeedForwardName: TypeAlias = Activation | Literal["swiglu", "geglu", "geglu_tanh", "reglu"]
"""A feed-forward by its activation, or by what it is called where it is gated."""
_GATED: dict[str, Activation] = {
    "swiglu": "silu",
    "geglu": "gelu",
    "geglu_tanh": "gelu_tanh",
    "reglu": "relu",
}


class LayerOptions(LayerAttentionOptions, total=False):
    """The options of layers of encoders and decoders that stacks hand on to each of them."""

    ffn_dim: int | None
    activation: FeedForwardName
    dropout: float
    attn_dropout: float | None
    ffn_dropout: float | None


def layer_options(by_layer: object, count: int) -> list[dict[str, Any]]:
    """Return the options of each layer alone, checked."""
    if by_layer is None:
        return [{} for _ in range(count)]
    given = _checks.sequence("by_layer", by_layer, "dicts, one a layer")
    if len(given) != count:
        raise ValueError(f"by_layer: expected one dict a layer, {count} in all, got {len(given)}")
    return [dict(_checks.instance(f"by_layer[{i}]", own, dict)) for i, own in enumerate(given)]


def dropouts(dropout: float, attn: float | None, ffn: float | None) -> tuple[float, float]:
    """Return the dropout of attention weights and of hidden units: ``dropout`` for None."""
    both = _checks.probability("dropout", dropout)
    return (
        both if attn is None else _checks.probability("attn_dropout", attn),
        both if ffn is None else _checks.probability("ffn_dropout", ffn),
    )


def feed_forward(
    embed_dim: int,
    ffn_dim: int | None,
    activation: FeedForwardName,
    *,
    dropout: float,
    bias: bool,
    rng: np.random.Generator,
    dtype: DTypeLike,
) -> Module:
    """Return the feed-forward that ``activation`` asks for."""
    _checks.choice("activation", activation, (*get_args(Activation), *_GATED))
    if activation == "swiglu":
        return SwiGLU(embed_dim, ffn_dim, dropout=dropout, bias=bias, rng=rng, dtype=dtype)
    made = GatedFeedForward if activation in _GATED else FeedForward
    return made(
        embed_dim,
        ffn_dim,
        activation=_GATED.get(activation, cast(Activation, activation)),
        dropout=dropout,
        bias=bias,
        rng=rng,
        dtype=dtype,
    )


def new_cache(
    name: str, attn: object, batch_size: int, capacity: int, *, forget: bool = False
) -> KVCache:
    """Return an empty cache of a layer's attention, which may be a user's own without any."""
    having: Any = _checks.having(name, attn, "new_cache")
    # Only ours know of forgetting.
    more = {"forget": forget} if isinstance(attn, AttentionFrame) else {}
    cache: KVCache = having.new_cache(batch_size, capacity, **more)
    return cache
