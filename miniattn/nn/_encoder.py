"""Self-attention and feed-forward: the encoder layer, and stacks of it.

Under a causal mask the same layers are a decoder-only model.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Unpack, get_args

import numpy as np
from numpy.typing import DTypeLike

from miniattn import _checks
from miniattn._context import context
from miniattn._tracing import point, point_backward
from miniattn._typing import Array, MaskLike
from miniattn.nn import _init
from miniattn.nn._activation import Activation
from miniattn.nn._attention import (
    AttentionOptions,
    MultiHeadAttention,
    MultiHeadAttentionContext,
    MultiHeadAttentionGrads,
)
from miniattn.nn._cache import KVCache, of_layers
from miniattn.nn._dropout import Dropout
from miniattn.nn._feed_forward import FeedForward, SwiGLU
from miniattn.nn._module import Module
from miniattn.nn._residual import Norm, Residual, ResidualLayer, norm_layer

# What attention calls query, where it gets the layer's input as it came (post-norm).
QUERY_IS_X = _checks.renamed(query="x")


class TransformerEncoderOptions(AttentionOptions, total=False):
    """The options of `TransformerEncoderLayer` that a stack hands on to each of its layers."""

    ffn_dim: int | None
    activation: Activation | Literal["swiglu"]
    dropout: float
    attn_dropout: float | None
    ffn_dropout: float | None


@context
class TransformerEncoderLayerContext(NamedTuple):
    """What `TransformerEncoderLayer.backward` needs: the contexts of its parts."""

    norm1: Any
    attn: MultiHeadAttentionContext
    dropout1: Any
    norm2: Any
    ffn: Any
    dropout2: Any


class TransformerEncoderGrads(NamedTuple):
    """Gradients of an encoder, or of a layer of it, that was given a bias."""

    dx: Array
    """(B, T, E)."""
    dbias: Array
    """Of bias's own shape."""


class TransformerEncoderLayer(ResidualLayer):
    """Self-attention, then a feed-forward, each with its normalisation and residual sum.

    With ``norm_first`` (pre-norm): x ← x + attn(norm1(x)), then y = x + ffn(norm2(x)).
    Otherwise (post-norm): x ← norm1(x + attn(x)), then y = norm2(x + ffn(x)).

    Parameters
    ----------
    embed_dim, num_heads : int
        Width E and query heads H.
    ffn_dim : int, optional
        Width F of the feed-forward; see `FeedForward` and `SwiGLU` for the defaults.
    norm_first : bool
        Pre-norm or post-norm.
    activation : {"gelu", "gelu_tanh", "relu", "silu", "sigmoid", "tanh", "swiglu"}
        Of the feed-forward; "swiglu" makes it a `SwiGLU`.
    norm : {"layer", "rms"}
        `LayerNorm` or `RMSNorm`.
    norm_eps : float, optional
        What it adds to the variance: 1e-5 for "layer", 1e-6 for "rms" by default.
    bias : bool
        Whether linear maps and LayerNorms have a bias.
    dropout : float
        On what each sublayer adds to the residual stream, where ``rng`` is given to ``forward``.
    attn_dropout, ffn_dropout : float, optional
        On attention weights and on hidden units; ``dropout`` by default.
    rng : numpy.random.Generator, optional
        Draws the weights; None is a fresh unseeded one.
    dtype : float32 or float64
    **attention
        Options of `MultiHeadAttention`: num_kv_heads, rotary, alibi, window, sinks, softcap.

    References
    ----------
    Vaswani et al., "Attention Is All You Need", 2017, section 3.1;
    Xiong et al., "On Layer Normalization in the Transformer Architecture", ICML 2020, figure 1.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import masks, nn
    >>> layer = nn.TransformerEncoderLayer(16, 4)
    >>> y, ctx = layer.forward(np.ones((2, 5, 16), np.float32), mask=masks.padding([5, 3]))
    >>> layer.backward(np.ones_like(y), ctx).shape
    (2, 5, 16)
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        ffn_dim: int | None = None,
        norm_first: bool = True,
        activation: Activation | Literal["swiglu"] = "gelu",
        norm: Norm = "layer",
        norm_eps: float | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        attn_dropout: float | None = None,
        ffn_dropout: float | None = None,
        rng: np.random.Generator | None = None,
        dtype: DTypeLike = np.float32,
        **attention: Unpack[AttentionOptions],
    ) -> None:
        rng = _init.generator(rng)
        self.norm_first = _checks.flag("norm_first", norm_first)
        attn_dropout, ffn_dropout = dropouts(dropout, attn_dropout, ffn_dropout)
        self.norm1 = norm_layer(norm, embed_dim, eps=norm_eps, bias=bias, dtype=dtype)
        self.attn = MultiHeadAttention(
            embed_dim,
            num_heads,
            bias=bias,
            dropout=attn_dropout,
            rng=rng,
            dtype=dtype,
            **attention,
        )
        self.norm2 = norm_layer(norm, embed_dim, eps=norm_eps, bias=bias, dtype=dtype)
        self.ffn = feed_forward(
            embed_dim,
            ffn_dim,
            activation,
            dropout=ffn_dropout,
            bias=bias,
            rng=rng,
            dtype=dtype,
        )
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x: Array,
        *,
        mask: MaskLike = None,
        bias: Array | None = None,
        positions: Array | None = None,
        cache: KVCache | None = None,
        rng: np.random.Generator | None = None,
    ) -> tuple[Array, TransformerEncoderLayerContext]:
        """Return (y, ctx), both x and y (B, T, E); the options are `MultiHeadAttention`'s."""
        with QUERY_IS_X:
            x, (norm1, attn, dropout1) = self._forward(
                x,
                self.norm1,
                self.attn,
                mask=mask,
                bias=bias,
                positions=positions,
                cache=cache,
                rng=rng,
            )
        x = point("middle", x)
        y, (norm2, ffn, dropout2) = self._forward(x, self.norm2, self.ffn, rng=rng)
        return y, TransformerEncoderLayerContext(norm1, attn, dropout1, norm2, ffn, dropout2)

    def backward(self, dy: Array, ctx: TransformerEncoderLayerContext) -> Any:
        """Return dx (B, T, E), or (dx, dbias), `TransformerEncoderGrads`, if a bias was given."""
        ctx = _checks.context(ctx, TransformerEncoderLayerContext)
        # y = x + ffn(norm2(x))
        frame = Residual(ctx.norm2, ctx.ffn, ctx.dropout2)
        dx, _ = self._backward(dy, self.norm2, self.ffn, frame)
        dx = point_backward("middle", dx)
        # x = x + attn(norm1(x), bias)
        frame = Residual(ctx.norm1, ctx.attn, ctx.dropout1)
        dx, grads = self._backward(dx, self.norm1, self.attn, frame)
        if isinstance(grads, MultiHeadAttentionGrads) and grads.dbias is not None:
            return TransformerEncoderGrads(dx, grads.dbias)
        return dx

    def describe(self) -> str:
        """Return ``"pre-norm"`` or ``"post-norm"``."""
        return "pre-norm" if self.norm_first else "post-norm"


@context
class TransformerEncoderContext(NamedTuple):
    """What `TransformerEncoder.backward` needs: the contexts of its parts."""

    layers: tuple[TransformerEncoderLayerContext, ...]
    norm: Any


class TransformerEncoder(Module):
    """A stack of encoder layers; pre-norm stacks end with a normalisation of their own.

    Parameters
    ----------
    num_layers : int
    embed_dim, num_heads : int
        Width E and query heads H.
    **options
        Those of `TransformerEncoderLayer`, the same for each layer.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import masks, nn
    >>> gpt_like = nn.TransformerEncoder(2, 16, 4, rng=np.random.default_rng(0))
    >>> y, ctx = gpt_like.forward(np.ones((1, 5, 16), np.float32), mask=masks.causal())
    >>> gpt_like.backward(np.ones_like(y), ctx).shape
    (1, 5, 16)
    """

    _free = (*Module._free, "attn_dropout", "ffn_dropout")
    _worked_out = ("ffn_dim", "num_kv_heads", "norm_eps", "memory_dim")

    def __init__(
        self,
        num_layers: int,
        embed_dim: int,
        num_heads: int,
        *,
        norm_first: bool = True,
        norm: Norm = "layer",
        norm_eps: float | None = None,
        bias: bool = True,
        rng: np.random.Generator | None = None,
        dtype: DTypeLike = np.float32,
        **options: Unpack[TransformerEncoderOptions],
    ) -> None:
        _checks.integer("num_layers", num_layers, least=0)
        rng = _init.generator(rng)
        self.layers = [
            TransformerEncoderLayer(
                embed_dim,
                num_heads,
                norm_first=norm_first,
                norm=norm,
                norm_eps=norm_eps,
                bias=bias,
                rng=rng,
                dtype=dtype,
                **options,
            )
            for _ in range(num_layers)
        ]
        self.norm = None
        if _checks.flag("norm_first", norm_first):
            self.norm = norm_layer(norm, embed_dim, eps=norm_eps, bias=bias, dtype=dtype)

    def forward(
        self,
        x: Array,
        *,
        mask: MaskLike = None,
        bias: Array | None = None,
        positions: Array | None = None,
        caches: Sequence[KVCache] | None = None,
        rng: np.random.Generator | None = None,
    ) -> tuple[Array, TransformerEncoderContext]:
        """Return (y, ctx), both x and y (B, T, E); ``caches`` has one KVCache a layer."""
        contexts = []
        for layer, cache in zip(self.layers, of_layers(caches, len(self.layers)), strict=True):
            x, ctx = layer.forward(
                x, mask=mask, bias=bias, positions=positions, cache=cache, rng=rng
            )
            contexts.append(ctx)
        x, norm = (x, None) if self.norm is None else self.norm.forward(x)
        return x, TransformerEncoderContext(tuple(contexts), norm)

    def backward(self, dy: Array, ctx: TransformerEncoderContext) -> Any:
        """Return dx (B, T, E), or (dx, dbias), `TransformerEncoderGrads`, if a bias was given."""
        ctx = _checks.context(ctx, TransformerEncoderContext)
        # y = norm(x)
        dx = dy if self.norm is None else self.norm.backward(dy, ctx.norm)
        dbias = None
        contexts = _checks.contexts(ctx.layers, len(self.layers))
        for layer, layer_ctx in zip(reversed(self.layers), reversed(contexts), strict=True):
            # x = layer(x, bias)
            grads = layer.backward(dx, layer_ctx)
            if isinstance(grads, TransformerEncoderGrads):
                dx, more = grads
                dbias = more if dbias is None else dbias + more
            else:
                dx = grads
        return dx if dbias is None else TransformerEncoderGrads(dx, dbias)

    def new_caches(self, batch_size: int, capacity: int) -> list[KVCache]:
        """Return an empty cache for each layer."""
        return [layer.attn.new_cache(batch_size, capacity) for layer in self.layers]


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
    activation: Activation | Literal["swiglu"],
    *,
    dropout: float,
    bias: bool,
    rng: np.random.Generator,
    dtype: DTypeLike,
) -> Module:
    """Return the feed-forward that ``activation`` asks for."""
    _checks.choice("activation", activation, (*get_args(Activation), "swiglu"))
    if activation == "swiglu":
        return SwiGLU(embed_dim, ffn_dim, dropout=dropout, bias=bias, rng=rng, dtype=dtype)
    return FeedForward(
        embed_dim,
        ffn_dim,
        activation=activation,
        dropout=dropout,
        bias=bias,
        rng=rng,
        dtype=dtype,
    )
