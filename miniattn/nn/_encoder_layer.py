"""Self-attention and feed-forward: one layer of an encoder.

Under a causal mask it is one of a decoder-only model.
"""

from typing import Any, NamedTuple, Unpack

import numpy as np
from numpy.typing import DTypeLike

from miniattn import _checks
from miniattn._context import context
from miniattn._tracing import point, point_backward
from miniattn._typing import Array, MaskLike
from miniattn.nn import _init
from miniattn.nn._attention import (
    LayerAttentionOptions,
    MultiHeadAttentionContext,
    ValueResidualGrads,
)
from miniattn.nn._attention.kinds import attention_layer
from miniattn.nn._cache import KVCache
from miniattn.nn._container import Sequential
from miniattn.nn._dropout import Dropout
from miniattn.nn._layers import QUERY_IS_X, FeedForwardName, LayerOptions, dropouts, feed_forward
from miniattn.nn._residual import Norm, Residual, ResidualLayer, norm_layer


class TransformerEncoderOptions(LayerOptions, total=False):
    """The options of `TransformerEncoderLayer` that a stack hands on to each of its layers."""

    sandwich: bool
    parallel: bool


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


class ValueResidualEncoderGrads(NamedTuple):
    """Gradients of a layer that was given the values of the first."""

    dx: Array
    """(B, T, E)."""
    dbias: Array | None
    """Of bias's own shape."""
    dfirst_values: Array
    """(B, G, T, D)."""


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
    activation : {"gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "sigmoid", "tanh"}
        Of the feed-forward; "swiglu", "geglu", "geglu_tanh" and "reglu" make it a
        `GatedFeedForward`.
    norm : {"layer", "rms"}
        `LayerNorm` or `RMSNorm`.
    norm_eps : float, optional
        What it adds to the variance: 1e-5 for "layer", 1e-6 for "rms" by default.
    bias : bool
        Whether linear maps and LayerNorms have a bias.
    sandwich : bool
        Normalises what each sublayer returns, too, before it is added (RMSNorm or LayerNorm, as
        ``norm`` says): out_proj and the feed-forward's down are then followed by a norm [3]_.
    value_residual : bool
        Mixes the ``first_values`` of ``forward`` into the values (`MultiHeadAttention`).
    parallel : bool
        Both sublayers read x: y = x + attn(norm1(x)) + ffn(norm2(x)) [4]_. Pre-norm only.
    dropout : float
        On what each sublayer adds to the residual stream, where ``rng`` is given to ``forward``.
    attn_dropout, ffn_dropout : float, optional
        On attention weights and on hidden units; ``dropout`` by default.
    rng : numpy.random.Generator, optional
        Draws the weights; None is a fresh unseeded one.
    dtype : float32 or float64
    **options
        Those of `MultiHeadAttention`: num_kv_heads, head_dim, rotary, alibi, window, sinks,
        softcap, normalizer, scale, qk_norm, qk_norm_eps, gate, value_residual; ``attn_bias`` for
        its bias where that is not ``bias``. ``attention`` is "softmax", "differential"
        (`DifferentialAttention`, with lambda_init), "talking_heads" (`TalkingHeadsAttention`) or
        "memory"
        (`MemoryAttention`, with slots).

    References
    ----------
    .. [1] Vaswani et al., "Attention Is All You Need", 2017, section 3.1.
    .. [2] Xiong et al., "On Layer Normalization in the Transformer Architecture", ICML 2020,
       figure 1.
    .. [3] Ding et al., "CogView: Mastering Text-to-Image Generation via Transformers", 2021,
       section 2.4.
    .. [4] Wang & Komatsuzaki, "GPT-J-6B", 2021; Chowdhery et al., "PaLM", 2022, section 2.

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
        activation: FeedForwardName = "gelu",
        norm: Norm = "layer",
        norm_eps: float | None = None,
        bias: bool = True,
        sandwich: bool = False,
        parallel: bool = False,
        value_residual: bool = False,
        dropout: float = 0.0,
        attn_dropout: float | None = None,
        ffn_dropout: float | None = None,
        rng: np.random.Generator | None = None,
        dtype: DTypeLike = np.float32,
        **options: Unpack[LayerAttentionOptions],
    ) -> None:
        rng = _init.generator(rng)
        self.norm_first = _checks.flag("norm_first", norm_first)
        self.parallel = _checks.flag("parallel", parallel)
        if parallel and not norm_first:
            raise ValueError("parallel: expected False with post-norm, got True")
        attn_dropout, ffn_dropout = dropouts(dropout, attn_dropout, ffn_dropout)
        self.norm1 = norm_layer(norm, embed_dim, eps=norm_eps, bias=bias, dtype=dtype)
        self.attn: Any = attention_layer(  # or a SelfAttention of a user's own
            embed_dim,
            num_heads,
            bias=bias,
            dropout=attn_dropout,
            value_residual=value_residual,
            rng=rng,
            dtype=dtype,
            **options,
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
        if _checks.flag("sandwich", sandwich):
            for holder, name in ((self.attn, "out_proj"), (self.ffn, "down")):
                after = norm_layer(norm, embed_dim, eps=norm_eps, bias=bias, dtype=dtype)
                setattr(holder, name, Sequential(getattr(holder, name), after))
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x: Array,
        *,
        mask: MaskLike = None,
        bias: Array | None = None,
        positions: Array | None = None,
        first_values: Array | None = None,
        cache: KVCache | None = None,
        rng: np.random.Generator | None = None,
    ) -> tuple[Array, TransformerEncoderLayerContext]:
        """Return (y, ctx), both x and y (B, T, E); the options are `MultiHeadAttention`'s."""
        with QUERY_IS_X:
            middle, (norm1, attn, dropout1) = self._forward(
                x,
                self.norm1,
                self.attn,
                mask=mask,
                bias=bias,
                positions=positions,
                first_values=first_values,
                cache=cache,
                rng=rng,
            )
        middle = point("middle", middle)
        read = x if self.parallel else middle
        y, (norm2, ffn, dropout2) = self._forward(read, self.norm2, self.ffn, rng=rng, onto=middle)
        return y, TransformerEncoderLayerContext(norm1, attn, dropout1, norm2, ffn, dropout2)

    def backward(
        self, dy: Array, ctx: TransformerEncoderLayerContext, *, dvalues: Array | None = None
    ) -> Any:
        """Return dx (B, T, E), or (dx, dbias), `TransformerEncoderGrads`, if a bias was given.

        With ``first_values`` it is a `ValueResidualEncoderGrads`; ``dvalues`` as in
        `MultiHeadAttention.backward`.
        """
        ctx = _checks.context(ctx, TransformerEncoderLayerContext)
        first, second = (
            Residual(ctx.norm1, ctx.attn, ctx.dropout1),
            Residual(ctx.norm2, ctx.ffn, ctx.dropout2),
        )
        if self.parallel:
            # y = middle + ffn(norm2(x)); middle = x + attn(norm1(x), bias)
            dmiddle = point_backward("middle", dy)
            dx, _ = self._backward(dy, self.norm2, self.ffn, second, onto=dmiddle)
            dx, grads = self._backward(
                dmiddle, self.norm1, self.attn, first, onto=dx, dvalues=dvalues
            )
        else:
            # y = middle + ffn(norm2(middle))
            dmiddle, _ = self._backward(dy, self.norm2, self.ffn, second)
            dmiddle = point_backward("middle", dmiddle)
            # middle = x + attn(norm1(x), bias)
            dx, grads = self._backward(dmiddle, self.norm1, self.attn, first, dvalues=dvalues)
        if isinstance(grads, ValueResidualGrads):
            return ValueResidualEncoderGrads(dx, grads.dbias, grads.dfirst_values)
        dbias = getattr(grads, "dbias", None)
        if dbias is not None:
            return TransformerEncoderGrads(dx, dbias)
        return dx

    def describe(self) -> str:
        """Return ``"pre-norm"`` or ``"post-norm"``."""
        return ("pre-norm" if self.norm_first else "post-norm") + ", parallel" * self.parallel
