"""Causal self-attention, cross-attention and feed-forward: the decoder layer, and stacks of it."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Unpack

import numpy as np
from numpy.typing import DTypeLike

from miniattn import _checks, masks
from miniattn._context import context
from miniattn._tracing import point, point_backward
from miniattn._typing import Array, MaskLike
from miniattn.masks._array import borrowed
from miniattn.nn import _init
from miniattn.nn._attention import (
    LayerAttentionOptions,
    MultiHeadAttentionContext,
)
from miniattn.nn._attention.kinds import attention_layer
from miniattn.nn._cache import KVCache, of_layers
from miniattn.nn._dropout import Dropout
from miniattn.nn._layers import (
    QUERY_IS_X,
    FeedForwardName,
    LayerOptions,
    dropouts,
    feed_forward,
    new_cache,
)
from miniattn.nn._module import Module
from miniattn.nn._residual import Norm, Residual, ResidualLayer, norm_layer

_KEY_IS_MEMORY = _checks.renamed(key="memory", mask="memory_mask")


class TransformerDecoderOptions(LayerOptions, total=False):
    """The options of `TransformerDecoderLayer` that a stack hands on to each of its layers."""

    memory_dim: int | None
    causal: bool


@context
class TransformerDecoderLayerContext(NamedTuple):
    """What `TransformerDecoderLayer.backward` needs: the contexts of its parts."""

    norm1: Any
    self_attn: MultiHeadAttentionContext
    dropout1: Any
    norm2: Any
    cross_attn: MultiHeadAttentionContext
    dropout2: Any
    norm3: Any
    ffn: Any
    dropout3: Any


class TransformerDecoderGrads(NamedTuple):
    """Gradients of a decoder, or of a layer of it."""

    dx: Array
    """(B, T, E)."""
    dmemory: Array
    """(B, S, memory_dim)."""


class TransformerDecoderLayer(ResidualLayer):
    """Causal self-attention, attention to a memory, then a feed-forward.

    With ``norm_first`` (pre-norm): x ← x + self_attn(norm1(x)), x ← x + cross_attn(norm2(x),
    memory), then y = x + ffn(norm3(x)). Otherwise (post-norm) each norm comes after its sum.

    Parameters
    ----------
    embed_dim, num_heads : int
        Width E and query heads H.
    memory_dim : int, optional
        Width of the memory; E by default.
    causal : bool
        Whether a token sees only those before it and itself. False leaves that to ``mask``.
    ffn_dim, norm_first, activation, norm, norm_eps, bias
    dropout, attn_dropout, ffn_dropout, rng, dtype
        As in `TransformerEncoderLayer`.
    **options
        Those of the self-attention, as in `TransformerEncoderLayer`; ``num_kv_heads``,
        ``head_dim``, ``scale``, ``attn_bias``, ``softcap`` and ``normalizer`` go to the
        cross-attention too.

    References
    ----------
    Vaswani et al., "Attention Is All You Need", 2017, section 3.1.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> layer = nn.TransformerDecoderLayer(16, 4)
    >>> x, memory = np.ones((2, 5, 16), np.float32), np.ones((2, 7, 16), np.float32)
    >>> y, ctx = layer.forward(x, memory)
    >>> dx, dmemory = layer.backward(np.ones_like(y), ctx)
    >>> dx.shape, dmemory.shape
    ((2, 5, 16), (2, 7, 16))
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        memory_dim: int | None = None,
        causal: bool = True,
        ffn_dim: int | None = None,
        norm_first: bool = True,
        activation: FeedForwardName = "gelu",
        norm: Norm = "layer",
        norm_eps: float | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        attn_dropout: float | None = None,
        ffn_dropout: float | None = None,
        rng: np.random.Generator | None = None,
        dtype: DTypeLike = np.float32,
        **options: Unpack[LayerAttentionOptions],
    ) -> None:
        rng = _init.generator(rng)
        self.norm_first = _checks.flag("norm_first", norm_first)
        self.causal = _checks.flag("causal", causal)
        attn_dropout, ffn_dropout = dropouts(dropout, attn_dropout, ffn_dropout)
        if memory_dim is not None:
            _checks.sizes(memory_dim=memory_dim)
        self.norm1 = norm_layer(norm, embed_dim, eps=norm_eps, bias=bias, dtype=dtype)
        self.self_attn: Any = attention_layer(
            embed_dim, num_heads, bias=bias, dropout=attn_dropout, rng=rng, dtype=dtype, **options
        )
        self.norm2 = norm_layer(norm, embed_dim, eps=norm_eps, bias=bias, dtype=dtype)
        both = ("num_kv_heads", "head_dim", "scale", "softcap", "normalizer", "attn_bias")
        shared: dict[str, Any] = {name: x for name, x in options.items() if name in both}
        self.cross_attn: Any = attention_layer(
            embed_dim,
            num_heads,
            **shared,
            kdim=memory_dim,
            vdim=memory_dim,
            bias=bias,
            dropout=attn_dropout,
            rng=rng,
            dtype=dtype,
        )
        self.norm3 = norm_layer(norm, embed_dim, eps=norm_eps, bias=bias, dtype=dtype)
        self.ffn = feed_forward(
            embed_dim, ffn_dim, activation, dropout=ffn_dropout, bias=bias, rng=rng, dtype=dtype
        )
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x: Array,
        memory: Array | KVCache,
        *,
        mask: MaskLike = None,
        memory_mask: MaskLike = None,
        cache: KVCache | None = None,
        rng: np.random.Generator | None = None,
    ) -> tuple[Array, TransformerDecoderLayerContext]:
        """Return (y, ctx), both x and y (B, T, E).

        Parameters
        ----------
        x : (B, T, E)
        memory : (B, S, memory_dim), or what ``cross_attn.remember`` returned
        mask : Mask or bool array that broadcasts to (B, H, T, T), optional
            For the self-attention, besides causality.
        memory_mask : Mask or bool array that broadcasts to (B, H, T, S), optional
            For the cross-attention.
        cache : KVCache, optional
            Of the self-attention, for decoding (see `MultiHeadAttention.forward`).
        rng : numpy.random.Generator, optional
            Given, dropout is applied.
        """
        if memory is None:  # attention without keys would be of x to itself
            raise TypeError("memory: expected an array (B, S, memory_dim) or a KVCache, got None")
        if self.causal and cache is None:  # with a cache, attention is causal anyway
            given = borrowed(mask)
            mask = masks.causal() if given is None else masks.causal() & given
        with QUERY_IS_X:
            x, (norm1, self_attn, dropout1) = self._forward(
                x, self.norm1, self.self_attn, mask=mask, cache=cache, rng=rng
            )
        x = point("middle", x)
        with _KEY_IS_MEMORY:
            x, (norm2, cross_attn, dropout2) = self._forward(
                x, self.norm2, self.cross_attn, memory, mask=memory_mask, rng=rng
            )
        x = point("middle2", x)
        y, (norm3, ffn, dropout3) = self._forward(x, self.norm3, self.ffn, rng=rng)
        return y, TransformerDecoderLayerContext(
            norm1, self_attn, dropout1, norm2, cross_attn, dropout2, norm3, ffn, dropout3
        )

    def backward(self, dy: Array, ctx: TransformerDecoderLayerContext) -> TransformerDecoderGrads:
        """Return (dx, dmemory), (B, T, E) and (B, S, memory_dim)."""
        ctx = _checks.context(ctx, TransformerDecoderLayerContext)
        # y = x + ffn(norm3(x))
        frame = Residual(ctx.norm3, ctx.ffn, ctx.dropout3)
        dx, _ = self._backward(dy, self.norm3, self.ffn, frame)
        dx = point_backward("middle2", dx)
        # x = x + cross_attn(norm2(x), memory)
        frame = Residual(ctx.norm2, ctx.cross_attn, ctx.dropout2)
        dx, grads = self._backward(dx, self.norm2, self.cross_attn, frame)
        dx = point_backward("middle", dx)
        # x = x + self_attn(norm1(x))
        frame = Residual(ctx.norm1, ctx.self_attn, ctx.dropout1)
        dx, _ = self._backward(dx, self.norm1, self.self_attn, frame)
        return TransformerDecoderGrads(dx, grads[1])

    def describe(self) -> str:
        """Return e.g. ``"pre-norm, causal"``."""
        order = "pre-norm" if self.norm_first else "post-norm"
        return f"{order}, causal" if self.causal else order


@context
class TransformerDecoderContext(NamedTuple):
    """What `TransformerDecoder.backward` needs: the contexts of its parts."""

    layers: tuple[TransformerDecoderLayerContext, ...]
    norm: Any


class TransformerDecoder(Module):
    """A stack of decoder layers; pre-norm stacks end with a normalisation of their own.

    Parameters
    ----------
    num_layers : int
        At least 1.
    embed_dim, num_heads : int
        Width E and query heads H.
    **options
        Those of `TransformerDecoderLayer`, the same for each layer.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> decoder = nn.TransformerDecoder(2, 16, 4)
    >>> x, memory = np.ones((2, 5, 16), np.float32), np.ones((2, 7, 16), np.float32)
    >>> y, ctx = decoder.forward(x, memory)
    >>> [grad.shape for grad in decoder.backward(np.ones_like(y), ctx)]
    [(2, 5, 16), (2, 7, 16)]
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
        **options: Unpack[TransformerDecoderOptions],
    ) -> None:
        _checks.integer("num_layers", num_layers, least=1)
        rng = _init.generator(rng)
        self.layers = [
            TransformerDecoderLayer(
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
        memory: Array | Sequence[KVCache],
        *,
        mask: MaskLike = None,
        memory_mask: MaskLike = None,
        caches: Sequence[KVCache] | None = None,
        rng: np.random.Generator | None = None,
    ) -> tuple[Array, TransformerDecoderContext]:
        """Return (y, ctx), both x and y (B, T, E).

        ``memory`` is an array (B, S, memory_dim) or what `remember` returned; ``caches`` has one
        KVCache a layer.
        """
        contexts = []
        count = len(self.layers)
        memories: tuple[Any, ...] = (memory,) * count
        if isinstance(memory, list | tuple) and any(isinstance(m, KVCache) for m in memory):
            memories = of_layers(memory, count, "memory")
        given = zip(self.layers, memories, of_layers(caches, count), strict=True)
        for layer, known, cache in given:
            x, ctx = layer.forward(
                x, known, mask=mask, memory_mask=memory_mask, cache=cache, rng=rng
            )
            contexts.append(ctx)
        x, norm = (x, None) if self.norm is None else self.norm.forward(x)
        return x, TransformerDecoderContext(tuple(contexts), norm)

    def backward(self, dy: Array, ctx: TransformerDecoderContext) -> TransformerDecoderGrads:
        """Return (dx, dmemory), (B, T, E) and (B, S, memory_dim)."""
        ctx = _checks.context(ctx, TransformerDecoderContext)
        # y = norm(x)
        dx = dy if self.norm is None else self.norm.backward(dy, ctx.norm)
        dmemory = None
        contexts = _checks.contexts(ctx.layers, len(self.layers))
        for layer, layer_ctx in zip(reversed(self.layers), reversed(contexts), strict=True):
            # x = layer(x, memory)
            dx, more = layer.backward(dx, layer_ctx)
            dmemory = more if dmemory is None else dmemory + more
        assert dmemory is not None  # there is at least one layer
        return TransformerDecoderGrads(dx, dmemory)

    def remember(self, memory: Array) -> list[KVCache]:
        """Return each layer's keys and values of ``memory``, to decode many tokens with."""
        return [layer.cross_attn.remember(memory) for layer in self.layers]

    def new_caches(self, batch_size: int, capacity: int) -> list[KVCache]:
        """Return an empty cache for each layer."""
        return [
            new_cache("self_attn", layer.self_attn, batch_size, capacity) for layer in self.layers
        ]
