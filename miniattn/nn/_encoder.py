"""Self-attention and feed-forward: the encoder layer, and stacks of it.

Under a causal mask the same layers are a decoder-only model.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, Unpack, cast, get_args

import numpy as np
from numpy.typing import DTypeLike

from miniattn import _checks
from miniattn._context import context
from miniattn._tracing import point, point_backward
from miniattn._typing import Array, MaskLike
from miniattn.masks._array import borrowed
from miniattn.nn import _init
from miniattn.nn._activation import Activation
from miniattn.nn._attention import (
    LayerAttentionOptions,
    MultiHeadAttentionContext,
    ValueResidualGrads,
)
from miniattn.nn._attention.kinds import attention_layer
from miniattn.nn._cache import KVCache, of_layers
from miniattn.nn._container import Sequential
from miniattn.nn._dropout import Dropout
from miniattn.nn._feed_forward import FeedForward, GatedFeedForward, SwiGLU
from miniattn.nn._module import Module
from miniattn.nn._residual import Norm, Residual, ResidualLayer, norm_layer

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
        softcap, scale, qk_norm, qk_norm_eps, gate, value_residual; ``attn_bias`` for its bias where
        that is not ``bias``. ``attention`` is "softmax", "differential" (`DifferentialAttention`,
        with lambda_init), "talking_heads" (`TalkingHeadsAttention`) or "memory"
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
    value_residual : bool
        Mixes the values of the first layer into those of all others [1]_.
    by_layer : sequence of dicts, one a layer, optional
        Options of single layers, which go before those of all: ``[{"window": (7, 0)}, {}]``.
    **options
        Those of `TransformerEncoderLayer`, the same for each layer.

    References
    ----------
    .. [1] Zhou et al., "Value Residual Learning", 2024, section 3.3.

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
    _worked_out = ("ffn_dim", "num_kv_heads", "head_dim", "norm_eps", "memory_dim", "attn_bias")

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
        value_residual: bool = False,
        by_layer: Sequence[Mapping[str, Any]] | None = None,
        rng: np.random.Generator | None = None,
        dtype: DTypeLike = np.float32,
        **options: Unpack[TransformerEncoderOptions],
    ) -> None:
        _checks.integer("num_layers", num_layers, least=0)
        rng = _init.generator(rng)
        self.value_residual = _checks.flag("value_residual", value_residual)
        self.layers = [
            TransformerEncoderLayer(
                embed_dim,
                num_heads,
                **{
                    **options,
                    "norm_first": norm_first,
                    "norm": norm,
                    "norm_eps": norm_eps,
                    "bias": bias,
                    "value_residual": self.value_residual and i > 0,
                    "rng": rng,
                    "dtype": dtype,
                    **own,
                },
            )
            for i, own in enumerate(layer_options(by_layer, num_layers))
        ]
        self.norm = None
        if _checks.flag("norm_first", norm_first):
            self.norm = norm_layer(norm, embed_dim, eps=norm_eps, bias=bias, dtype=dtype)

    def forward(
        self,
        x: Array,
        *,
        mask: MaskLike | Sequence[MaskLike] = None,
        bias: Array | None = None,
        positions: Array | None = None,
        caches: Sequence[KVCache] | None = None,
        rng: np.random.Generator | None = None,
    ) -> tuple[Array, TransformerEncoderContext]:
        """Return (y, ctx), both x and y (B, T, E); ``caches`` has one KVCache a layer.

        ``mask`` is one for all layers, or a list or tuple with one for each.
        """
        contexts: list[TransformerEncoderLayerContext] = []
        known = of_layers(caches, len(self.layers))
        for layer, cache, own in zip(self.layers, known, self._masks(mask), strict=True):
            first = contexts[0].attn.values if contexts and self.value_residual else None
            x, ctx = layer.forward(
                x,
                mask=own,
                bias=bias,
                positions=positions,
                first_values=first,
                cache=cache,
                rng=rng,
            )
            contexts.append(ctx)
        x, norm = (x, None) if self.norm is None else self.norm.forward(x)
        return x, TransformerEncoderContext(tuple(contexts), norm)

    def backward(self, dy: Array, ctx: TransformerEncoderContext) -> Any:
        """Return dx (B, T, E), or (dx, dbias), `TransformerEncoderGrads`, if a bias was given."""
        ctx = _checks.context(ctx, TransformerEncoderContext)
        # y = norm(x)
        dx = dy if self.norm is None else self.norm.backward(dy, ctx.norm)
        dbias = dvalues = None
        contexts = _checks.contexts(ctx.layers, len(self.layers))
        for i in reversed(range(len(self.layers))):
            # x = layer(x, bias, values of the first layer)
            # Only what there is: a layer of one's own need not know of values.
            given: dict[str, Any] = {} if i or dvalues is None else {"dvalues": dvalues}
            grads = self.layers[i].backward(dx, contexts[i], **given)
            if isinstance(grads, ValueResidualEncoderGrads):
                dvalues = _sum(dvalues, grads.dfirst_values)
            if isinstance(grads, tuple):
                dx, dbias = grads[0], _sum(dbias, grads[1])
            else:
                dx = grads
        return dx if dbias is None else TransformerEncoderGrads(dx, dbias)

    def _masks(self, mask: object) -> list[MaskLike]:
        """Return the mask of each layer; an array that all share is looked at once."""
        count = len(self.layers)
        if not isinstance(mask, list | tuple):
            return [borrowed(mask)] * count
        if len(mask) != count:
            raise ValueError(
                f"mask: expected one, or one for each of {count} layers, got {len(mask)}"
            )
        return [borrowed(each) for each in mask]

    def new_caches(self, batch_size: int, capacity: int) -> list[KVCache]:
        """Return an empty cache for each layer."""
        return [new_cache("attn", layer.attn, batch_size, capacity) for layer in self.layers]


def new_cache(name: str, attn: object, batch_size: int, capacity: int) -> KVCache:
    """Return an empty cache of a layer's attention, which may be a user's own without any."""
    having: Any = _checks.having(name, attn, "new_cache")
    cache: KVCache = having.new_cache(batch_size, capacity)
    return cache


def _sum(total: Array | None, more: Array | None) -> Array | None:
    """Return the sum of two gradients, each of which there may be none of."""
    if total is None or more is None:
        return more if total is None else total
    return total + more


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
