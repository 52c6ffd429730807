"""Multi-head attention: projections, heads, attention, and back."""

from __future__ import annotations

import functools
import operator
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

import miniattn.functional as F
from miniattn import _checks, masks
from miniattn._context import context
from miniattn._typing import Array, MaskLike
from miniattn.nn import _init
from miniattn.nn._attention.heads import merge, places, sized, split, sum_to
from miniattn.nn._attention.options import checked_window
from miniattn.nn._cache import KVCache
from miniattn.nn._linear import Linear, backward_together, forward_together
from miniattn.nn._module import Module
from miniattn.nn._positions import Rotary, alibi_bias, token_positions


@context
class MultiHeadAttentionContext(NamedTuple):
    """What `MultiHeadAttention.backward` needs: the contexts of its parts, and how it was called.

    ``attention`` is the context of `miniattn.functional.attention_forward`: q, k, v by heads,
    ``out`` and ``lse``.
    """

    q_proj: Any
    k_proj: Any
    v_proj: Any
    rotary_q: F.RotaryContext | None
    rotary_k: F.RotaryContext | None
    attention: F.AttentionContext
    out_proj: Any
    given: int  # how many of query, key and value
    bias_shape: tuple[int, ...] | None  # of the caller's bias
    cached: bool


class MultiHeadAttentionGrads(NamedTuple):
    """Gradients of `MultiHeadAttention.forward`; None for what was not given."""

    dquery: Array
    """(B, T, E). Where no key was given it is of the keys and values, too."""
    dkey: Array | None
    """(B, S, kdim). Where no value was given it is of the values, too."""
    dvalue: Array | None
    """(B, S, vdim)."""
    dbias: Array | None
    """Of bias's own shape."""


class MultiHeadAttention(Module):
    """Multi-head attention: out_proj(softmax(q kᵀ / √D + bias, masked) v), by heads.

    q = q_proj(query), k = k_proj(key) and v = v_proj(value) are cut into heads of width D = E / H.
    Heads are views: nothing is copied to make them.

    Parameters
    ----------
    embed_dim : int
        Width E of the query and of the result.
    num_heads : int
        Query heads H; divides E.
    num_kv_heads : int, optional
        Key and value heads G, each shared by H / G query heads [2]_; H by default, 1 is
        multi-query attention.
    kdim, vdim : int, optional
        Widths of key and value where they are not E.
    bias : bool
        Whether the four projections add a bias.
    dropout : float
        Probability of dropping an attention weight, where ``rng`` is given to ``forward``.
    rotary : Rotary, optional
        Turns q and k by their positions.
    alibi : bool
        Adds −slope_h · abs(i − j) to the scores [3]_.
    window : (left, right), optional
        Sliding window: a query sees that many keys before and after its own place; None = open.
    sinks : int
        The first ``sinks`` keys stay visible outside the window [4]_.
    softcap : float, optional
        Scores s become c · tanh(s / c).
    rng : numpy.random.Generator, optional
        Draws the weights; None is a fresh unseeded one.
    dtype : float32 or float64

    Attributes
    ----------
    q_proj, k_proj, v_proj, out_proj : Linear
        ``weight`` (out, in) starts Glorot-uniform, ``bias`` at 0 (see `Linear`).

    Notes
    -----
    What padding holds reaches the outputs of no other token. In backward a padded token is a query
    like any other, and the gradients of the weights add up dy · x over all tokens: with dy = 0 it
    adds nothing while it is finite, but 0 · NaN is NaN. Fill padding with zeros, as the models do.

    References
    ----------
    .. [1] Vaswani et al., "Attention Is All You Need", 2017, section 3.2.2.
    .. [2] Ainslie et al., "GQA: Training Generalized Multi-Query Transformer Models from
       Multi-Head Checkpoints", 2023, section 2.2.
    .. [3] Press, Smith & Lewis, "Train Short, Test Long", ICLR 2022, section 3.
    .. [4] Xiao et al., "Efficient Streaming Language Models with Attention Sinks", 2023,
       section 3.2.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import masks, nn
    >>> rng = np.random.default_rng(0)
    >>> attn = nn.MultiHeadAttention(16, 4, rng=rng)
    >>> x = rng.standard_normal((2, 5, 16), dtype=np.float32)
    >>> y, ctx = attn.forward(x, mask=masks.padding([5, 3]))
    >>> dx = attn.backward(np.ones_like(y), ctx)
    >>> y.shape, dx.shape, attn.weights(ctx).shape
    ((2, 5, 16), (2, 5, 16), (2, 4, 5, 5))
    """

    _worked_out = ("num_kv_heads", "kdim", "vdim")
    _live = ("num_heads", "dropout", "alibi", "window", "sinks", "softcap")

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        kdim: int | None = None,
        vdim: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        rotary: Rotary | None = None,
        alibi: bool = False,
        window: tuple[int | None, int | None] | None = None,
        sinks: int = 0,
        softcap: float | None = None,
        rng: np.random.Generator | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        rng = _init.generator(rng)
        self.num_heads = _checks.integer("num_heads", num_heads, least=1)
        self.num_kv_heads = (
            num_heads
            if num_kv_heads is None
            else _checks.integer("num_kv_heads", num_kv_heads, least=1)
        )
        if num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads: expected a divisor of num_heads = {num_heads}, got {num_kv_heads}"
            )
        if _checks.integer("embed_dim", embed_dim, least=1) % num_heads:
            raise ValueError(
                f"num_heads: expected a divisor of embed_dim = {embed_dim}, got {num_heads}"
            )
        self.embed_dim, self.head_dim = embed_dim, embed_dim // num_heads
        self.kdim = embed_dim if kdim is None else _checks.integer("kdim", kdim, least=1)
        self.vdim = embed_dim if vdim is None else _checks.integer("vdim", vdim, least=1)
        self.dropout = _checks.probability("dropout", dropout)
        self.softcap = None if softcap is None else _checks.positive("softcap", softcap)
        self.window, self.sinks = checked_window(window), _checks.integer("sinks", sinks, least=0)
        if sinks and window is None:
            raise ValueError(f"sinks: expected 0 without a window, got {sinks}")
        self.alibi = _checks.flag("alibi", alibi)
        self.rotary = _checks.instance("rotary", rotary, Rotary, optional=True)
        if rotary is not None:
            rotary.check_width(self.head_dim)
        kv_dim = self.num_kv_heads * self.head_dim
        self.q_proj = Linear(embed_dim, embed_dim, bias=bias, rng=rng, dtype=dtype)
        self.k_proj = Linear(self.kdim, kv_dim, bias=bias, rng=rng, dtype=dtype)
        self.v_proj = Linear(self.vdim, kv_dim, bias=bias, rng=rng, dtype=dtype)
        self.out_proj = Linear(embed_dim, embed_dim, bias=bias, rng=rng, dtype=dtype)

    def forward(
        self,
        query: Array,
        key: Array | KVCache | None = None,
        value: Array | None = None,
        *,
        mask: MaskLike = None,
        bias: Array | None = None,
        positions: Array | None = None,
        cache: KVCache | None = None,
        rng: np.random.Generator | None = None,
    ) -> tuple[Array, MultiHeadAttentionContext]:
        """Return (y, ctx), y (B, T, E).

        Parameters
        ----------
        query : (B, T, E)
        key : (B, S, kdim), or what `remember` returned, optional
            The query itself by default: self-attention.
        value : (B, S, vdim), optional
            The key itself by default.
        mask : Mask or bool array that broadcasts to (B, H, T, S), optional
            True = may attend.
        bias : float array that broadcasts to (B, H, T, S), optional
            Added to the scores; it has a gradient.
        positions : int array (T,) or (B, T), optional
            Where the queries are, for rotary and ALiBi: 0 to T − 1 by default. The keys of
            self-attention are where the queries are, those of cross-attention at 0 to S − 1.
        cache : KVCache, optional
            For decoding with self-attention: the keys and values of ``query`` are appended, and
            each query sees the tokens up to itself. A cached forward has no backward.
        rng : numpy.random.Generator, optional
            Given, attention weights are dropped with probability ``dropout``.
        """
        query, key, value = self._checked(query, key, value)
        if cache is not None:
            self._check_cache("cache", cache, query)
            if not (key is None and positions is None):
                raise ValueError("cache: expected no key and no positions beside it, got some")
        bias = None if bias is None else _checks.float_array("bias", bias)
        start = None if cache is None else cache.lengths.copy()
        if positions is None:
            q_at = places(query.shape[1], start)
        else:
            q_at = token_positions(positions, query.shape[:2], negative=True)

        if isinstance(key, KVCache):
            q, q_proj = self.q_proj.forward(query)
            k, v = key.held()
            k_at = places(k.shape[2])
            k_proj = rotary_k = v_proj = None
        else:
            k_at = q_at if key is None else places(key.shape[1])
            (q, q_proj), (k, k_proj), (v, v_proj) = self._project(query, key, value)
            k, rotary_k = self._turn(split(k, self.num_kv_heads), k_at)
            v = split(v, self.num_kv_heads)
        q, rotary_q = self._turn(split(q, self.num_heads), q_at)
        if cache is not None:
            k, v = cache.append(k, v)
            k_at = places(k.shape[2])
        out, attention = F.attention_forward(
            q,
            k,
            v,
            mask=self._mask(mask, start),
            bias=self._bias(bias, q_at, k_at, q.dtype),
            softcap=self.softcap,
            dropout=0.0 if rng is None else self.dropout,
            rng=rng,
        )
        y, out_proj = self.out_proj.forward(merge(out))
        return y, MultiHeadAttentionContext(
            q_proj,
            k_proj,
            v_proj,
            rotary_q,
            rotary_k,
            attention,
            out_proj,
            given=1 + (key is not None) + (value is not None),
            bias_shape=None if bias is None else bias.shape,
            cached=cache is not None or isinstance(key, KVCache),
        )

    def backward(self, dy: Array, ctx: MultiHeadAttentionContext) -> Any:
        """Return dquery (B, T, E), or where more than a query was given, all the gradients.

        Then it is a `MultiHeadAttentionGrads`: ``(dquery, dkey, dvalue, dbias)``, None for what was
        not given.
        """
        ctx = _checks.context(ctx, MultiHeadAttentionContext)
        if ctx.cached:
            raise ValueError("ctx: expected a forward without a cache, which has no backward")
        # y = out_proj(merge(out))
        dout = split(self.out_proj.backward(dy, ctx.out_proj), self.num_heads)
        # out = attention(q, k, v, bias)
        needs: list[Literal["q", "k", "v", "bias"]] = ["q", "k", "v"]
        if ctx.bias_shape is not None:  # ALiBi's slopes are not learned
            needs.append("bias")
        dq, dk, dv, dbias = F.attention_backward(dout, ctx.attention, needs=needs)
        assert dq is not None  # all three were asked for
        assert dk is not None
        assert dv is not None
        # k = turn(k); q = turn(q)
        dq, dk = self._turn_back(dq, ctx.rotary_q), self._turn_back(dk, ctx.rotary_k)
        # q, k, v = split(q_proj(query)), split(k_proj(key)), split(v_proj(value))
        given = self._project_back(merge(dq), merge(dk), merge(dv), ctx)
        if len(given) == 1 and ctx.bias_shape is None:
            return given[0]
        if ctx.bias_shape is not None:
            assert dbias is not None  # there was a bias
            dbias = sum_to(dbias, ctx.bias_shape)
        dquery, dkey, dvalue = (*given, None, None)[:3]
        assert dquery is not None  # there is always a query
        return MultiHeadAttentionGrads(dquery, dkey, dvalue, dbias)

    @staticmethod
    def weights(ctx: MultiHeadAttentionContext) -> Array:
        """Return the exact attention map of the call that made ``ctx``, (B, H, T, S).

        Before dropout: each row sums to 1, or is 0 where nothing may be attended to.
        """
        a = _checks.context(ctx, MultiHeadAttentionContext).attention
        return F.attention_weights(
            a.q, a.k, mask=a.mask, bias=a.bias, scale=a.scale, softcap=a.softcap
        )

    def remember(self, key: Array, value: Array | None = None) -> KVCache:
        """Return the projected keys and values of a memory, to be given as ``key`` many times."""
        key = sized("key", key, "B, S, kdim", kdim=self.kdim)
        if value is not None:
            sizes = {"B": len(key), "S": key.shape[1], "vdim": self.vdim}
            value = sized("value", value, "B, S, vdim", **sizes)
        with _checks.renamed(x="key"):
            k = split(self.k_proj(key), self.num_kv_heads)
        with _checks.renamed(x="key" if value is None else "value"):
            v = split(self.v_proj(key if value is None else value), self.num_kv_heads)
        k, _ = self._turn(k, places(key.shape[1]))
        memory = KVCache(len(k), self.num_kv_heads, k.shape[2], self.head_dim, dtype=k.dtype)
        memory.append(k, v)
        return memory

    def new_cache(self, batch_size: int, capacity: int) -> KVCache:
        """Return an empty cache for decoding with this layer."""
        dtype = next(p.dtype for _, p in self.named_parameters())
        return KVCache(batch_size, self.num_kv_heads, capacity, self.head_dim, dtype=dtype)

    def describe(self) -> str:
        """Return e.g. ``"64, heads=4, kv_heads=2"``."""
        words = [f"{self.embed_dim}, heads={self.num_heads}"]
        if self.num_kv_heads != self.num_heads:
            words.append(f"kv_heads={self.num_kv_heads}")
        if self.dropout:
            words.append(f"dropout={self.dropout:g}")
        if self.alibi:
            words.append("alibi")
        if self.window is not None:
            words.append(f"window={self.window}, sinks={self.sinks}")
        if self.softcap is not None:
            words.append(f"softcap={self.softcap:g}")
        return ", ".join(words)

    def _checked(
        self, query: Array, key: Array | KVCache | None, value: Array | None
    ) -> tuple[Array, Array | KVCache | None, Array | None]:
        query = sized("query", query, "B, T, E", E=self.embed_dim)
        batch = query.shape[0]
        if isinstance(key, KVCache):
            self._check_cache("key", key, query)
        if key is None or isinstance(key, KVCache):
            if value is not None:
                raise TypeError("value: expected None where no key array is given, got an array")
            return query, key, None
        key = sized("key", key, "B, S, kdim", B=batch, kdim=self.kdim)
        if value is not None:
            sizes = {"B": batch, "S": key.shape[1], "vdim": self.vdim}
            value = sized("value", value, "B, S, vdim", **sizes)
        return query, key, value

    def _check_cache(self, name: str, cache: object, query: Array) -> None:
        """Raise unless ``cache`` has room for the heads and the rows of this call."""
        batch, heads, _, width = _checks.instance(name, cache, KVCache).keys.shape
        expected = (query.shape[0], self.num_kv_heads, self.head_dim)
        if (batch, heads, width) != expected:
            raise ValueError(
                f"{name}: expected a KVCache for (B, G, D) = {expected}, got {batch, heads, width}"
            )

    def _project(self, *inputs: Array | None) -> list[Any]:
        """Return (y, ctx) of each of the three projections."""
        layers: list[Module] = [self.q_proj, self.k_proj, self.v_proj]
        given = [x for x in inputs if x is not None]
        projected = []
        for i, group in enumerate(_OF_SAME_INPUT[len(given)]):
            with _X_IS[i]:
                projected += forward_together(layers[group], given[i])
        return projected

    def _project_back(
        self, dq: Array, dk: Array, dv: Array, ctx: MultiHeadAttentionContext
    ) -> tuple[Array, ...]:
        """Return the gradients of those inputs that were given."""
        layers: list[Module] = [self.q_proj, self.k_proj, self.v_proj]
        dys, ctxs = [dq, dk, dv], [ctx.q_proj, ctx.k_proj, ctx.v_proj]
        groups = _OF_SAME_INPUT[ctx.given]
        return tuple(backward_together(layers[of], dys[of], ctxs[of]) for of in groups)

    def _turn(self, x: Array, positions: Array) -> tuple[Array, F.RotaryContext | None]:
        return (x, None) if self.rotary is None else self.rotary.forward(x, positions)

    def _turn_back(self, dx: Array, ctx: F.RotaryContext | None) -> Array:
        return dx if self.rotary is None or ctx is None else self.rotary.backward(dx, ctx)

    def _mask(self, mask: MaskLike, start: Array | None) -> masks.Mask | None:
        """Return ``mask`` and the layer's window and, for tokens from ``start`` on, causality."""
        rules = [masks.as_mask(mask)]
        if start is not None:
            rules.append(masks.causal(start))
        if self.window is not None:
            rules.append(masks.window(*self.window, start, sinks=self.sinks))
        given = [rule for rule in rules if rule is not None]
        return functools.reduce(operator.and_, given) if given else None

    def _bias(self, bias: Array | None, q_at: Array, k_at: Array, dtype: DTypeLike) -> Array | None:
        if not self.alibi:
            return bias
        slopes = alibi_bias(self.num_heads, q_at, k_at, dtype)
        return slopes if bias is None else slopes + bias


# What the projections call x.
_X_IS = tuple(_checks.renamed(x=name) for name in ("query", "key", "value"))

# Which of the projections of query, key and value have the same input, by how many are given.
_OF_SAME_INPUT = {
    1: (slice(0, 3),),
    2: (slice(0, 1), slice(1, 3)),
    3: (slice(0, 1), slice(1, 2), slice(2, 3)),
}
