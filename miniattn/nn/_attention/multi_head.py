"""Multi-head attention: projections, heads, attention, and back."""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

import miniattn.functional as F
from miniattn import _checks, masks
from miniattn._typing import Array, MaskLike
from miniattn.masks._array import borrowed
from miniattn.nn import _init
from miniattn.nn._attention.heads import merge, places, sized, split, sum_to
from miniattn.nn._attention.middle import Call, MiddleGrads, attend, attend_back, attention_map
from miniattn.nn._attention.options import (
    Biases,
    checked_biases,
    checked_heads,
    checked_window,
)
from miniattn.nn._attention.parts import (
    HeadNorm,
    OutputGate,
    OutputGateContext,
    ValueMix,
    ValueMixContext,
    Width,
)
from miniattn.nn._attention.projections import project, project_back
from miniattn.nn._attention.ranks import Split, alibi_function, checked_ranks
from miniattn.nn._attention.results import (
    MultiHeadAttentionContext,
    MultiHeadAttentionGrads,
    PartsContext,
    ValueResidualGrads,
)
from miniattn.nn._cache import KVCache
from miniattn.nn._linear import Linear
from miniattn.nn._module import Module
from miniattn.nn._positions import Rotary, alibi_bias, token_positions

if TYPE_CHECKING:
    from miniattn.distributed import Comm


class MultiHeadAttention(Module):
    """Multi-head attention: out_proj(softmax(q kᵀ / √D + bias, masked) v), by heads.

    q = q_proj(query), k = k_proj(key) and v = v_proj(value) are cut into heads of width D = E / H.
    Heads are views: nothing is copied to make them. `DifferentialAttention`,
    `TalkingHeadsAttention` and `MemoryAttention` have another middle and the same frame.

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
    head_dim : int, optional
        Width D of a head, where it is not E / H.
    bias : bool or collection of {"q", "k", "v", "out"}
        Whether the four projections add a bias, or which of them do.
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
    scale : float, optional
        What q kᵀ is multiplied by, instead of 1 / √D.
    qk_norm : {"head", "full"}, optional
        Normalises q and k before they are turned, each head alone or all as one vector
        [5]_, by RMSNorm.
    qk_norm_eps : float
        What that adds to the mean square.
    gate : {"head", "full"}, optional
        Multiplies what the heads found by sigmoid(gate.proj(query)), one gate for each head or for
        each entry of it [6]_.
    value_residual : bool
        Mixes the ``first_values`` that ``forward`` is given into the values [7]_.
    comm : Comm, optional
        The ranks that share each sequence: every one calls the layer with its own tokens, and
        masks are over the whole. See docs/distributed.md.
    split : {"ring", "striped", "heads"}
        With ``comm``: keys go round a ring of contiguous stretches or of striped tokens, or each
        rank has some of the heads; see `distributed.ring_attention_forward` and
        `distributed.head_attention_forward`.
    rng : numpy.random.Generator, optional
        Draws the weights; None is a fresh unseeded one.
    dtype : float32 or float64

    Attributes
    ----------
    q_proj, k_proj, v_proj, out_proj : Linear
        ``weight`` (out, in) starts Glorot-uniform, ``bias`` at 0 (see `Linear`).
    q_norm, k_norm, gate, mix : Module or None
        What ``qk_norm``, ``gate`` and ``value_residual`` ask for.

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
    .. [5] Dehghani et al., "Scaling Vision Transformers to 22 Billion Parameters", 2023,
       section 2.
    .. [6] Qiu et al., "Gated Attention for Large Language Models", 2025, section 2.2.
    .. [7] Zhou et al., "Value Residual Learning", 2024, section 3.3.

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
    _live: ClassVar[tuple[str, ...]] = (
        "num_heads",
        "dropout",
        "alibi",
        "window",
        "sinks",
        "softcap",
        "scale",
    )

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        kdim: int | None = None,
        vdim: int | None = None,
        head_dim: int | None = None,
        bias: Biases = True,
        dropout: float = 0.0,
        rotary: Rotary | None = None,
        alibi: bool = False,
        window: tuple[int | None, int | None] | None = None,
        sinks: int = 0,
        softcap: float | None = None,
        scale: float | None = None,
        qk_norm: Width | None = None,
        qk_norm_eps: float = 1e-6,
        gate: Width | None = None,
        value_residual: bool = False,
        comm: Comm | None = None,
        split: Split = "ring",
        rng: np.random.Generator | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        rng = _init.generator(rng)
        self.num_heads, self.num_kv_heads, self.head_dim = checked_heads(
            embed_dim, num_heads, num_kv_heads, head_dim
        )
        self.embed_dim = embed_dim
        self.ranks = checked_ranks(comm, split)
        if comm is not None and type(self)._attend is not MultiHeadAttention._attend:
            raise ValueError(
                f"comm: expected None for {type(self).__name__}, which has a middle of its own, "
                "got a communicator"
            )
        self.kdim = embed_dim if kdim is None else _checks.integer("kdim", kdim, least=1)
        self.vdim = embed_dim if vdim is None else _checks.integer("vdim", vdim, least=1)
        self.dropout = _checks.probability("dropout", dropout)
        self.softcap = None if softcap is None else _checks.positive("softcap", softcap)
        self.scale = None if scale is None else _checks.number("scale", scale)
        self.window, self.sinks = checked_window(window), _checks.integer("sinks", sinks, least=0)
        if sinks and window is None:
            raise ValueError(f"sinks: expected 0 without a window, got {sinks}")
        self.alibi = _checks.flag("alibi", alibi)
        self.rotary = _checks.instance("rotary", rotary, Rotary, optional=True)
        if rotary is not None:
            rotary.check_width(self._turned_width())
        width, kv_width = (n * self.head_dim for n in (self.num_heads, self.num_kv_heads))
        of_q, of_k, of_v, of_out = checked_biases(bias)
        self.q_proj = Linear(embed_dim, width, bias=of_q, rng=rng, dtype=dtype)
        self.k_proj = Linear(self.kdim, kv_width, bias=of_k, rng=rng, dtype=dtype)
        self.v_proj = Linear(self.vdim, kv_width, bias=of_v, rng=rng, dtype=dtype)
        self.out_proj = Linear(width, embed_dim, bias=of_out, rng=rng, dtype=dtype)
        qk_norm_eps = _checks.positive("qk_norm_eps", qk_norm_eps)
        self.q_norm, self.k_norm = (
            None
            if qk_norm is None
            else HeadNorm(heads, self.head_dim, over=qk_norm, eps=qk_norm_eps, dtype=dtype)
            for heads in (self.num_heads, self.num_kv_heads)
        )
        self.gate = None
        if gate is not None:
            self.gate = OutputGate(
                embed_dim, self.num_heads, self.head_dim, over=gate, rng=rng, dtype=dtype
            )
        self.mix = ValueMix(dtype=dtype) if _checks.flag("value_residual", value_residual) else None

    def forward(
        self,
        query: Array,
        key: Array | KVCache | None = None,
        value: Array | None = None,
        *,
        mask: MaskLike = None,
        bias: Array | None = None,
        positions: Array | None = None,
        first_values: Array | None = None,
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
        first_values : (B, G, S, D), optional
            ``ctx.values`` of the first layer, for ``value_residual``.
        cache : KVCache, optional
            For decoding with self-attention: the keys and values of ``query`` are appended, and
            each query sees the tokens up to itself. A cached forward has no backward.
        rng : numpy.random.Generator, optional
            Given, attention weights are dropped with probability ``dropout``.
        """
        query, key, value = self._checked(query, key, value)
        if self.ranks is not None:
            _refuse(bias=bias, cache=cache, key=key if isinstance(key, KVCache) else None)
        if cache is not None:
            self._check_cache("cache", cache, query)
            if not (key is None and positions is None):
                raise ValueError("cache: expected no key and no positions beside it, got some")
        bias = None if bias is None else _checks.float_array("bias", bias)
        start = None if cache is None else cache.lengths.copy()
        if positions is None:
            q_at = self._places(query.shape[1], start)
        else:
            q_at = token_positions(positions, query.shape[:2], negative=True)

        k_norm = k_proj = rotary_k = v_proj = mix = None
        if isinstance(key, KVCache):
            q, q_proj = self.q_proj.forward(query)
            k, v = key.held()
            k_at, values = places(k.shape[2]), v
        else:
            k_at = q_at if key is None else self._places(key.shape[1])
            (q, q_proj), (k, k_proj), (v, v_proj) = project(self._projections(), query, key, value)
            k, k_norm = _normed(self.k_norm, k)
            k, rotary_k = self._turn(split(k, self.num_kv_heads), k_at)
            values = split(v, self.num_kv_heads)
            v, mix = self._mixed(values, first_values)
        q, q_norm = _normed(self.q_norm, q)
        q, rotary_q = self._turn(split(q, self.num_heads), q_at)
        if cache is not None:
            k, v = cache.append(k, v)
            k_at = places(k.shape[2])
        call = Call(
            mask=self._mask(mask, start),
            bias=self._bias(bias, q_at, k_at, q.dtype),
            scale=self.scale,
            softcap=self.softcap,
            dropout=0.0 if rng is None else self.dropout,
            rng=rng,
        )
        out, attention = self._attend(q, k, v, call)
        h, gate = (merge(out), None) if self.gate is None else self.gate.forward(merge(out), query)
        parts = PartsContext(q_norm, k_norm, mix, gate)
        y, out_proj = self.out_proj.forward(h)
        return y, MultiHeadAttentionContext(
            q_proj,
            k_proj,
            v_proj,
            rotary_q,
            rotary_k,
            values,
            attention,
            out_proj,
            parts=parts if any(part is not None for part in parts) else None,
            given=1 + (key is not None) + (value is not None),
            bias_shape=None if bias is None else bias.shape,
            cached=cache is not None or isinstance(key, KVCache),
        )

    def backward(
        self, dy: Array, ctx: MultiHeadAttentionContext, *, dvalues: Array | None = None
    ) -> Any:
        """Return dquery (B, T, E), or where more than a query was given, all the gradients.

        Then it is a `MultiHeadAttentionGrads`: ``(dquery, dkey, dvalue, dbias)``, None for what was
        not given; with ``first_values`` a `ValueResidualGrads`. ``dvalues`` (B, G, S, D) is what
        comes back to ``ctx.values`` from other layers.
        """
        ctx = _checks.context(ctx, MultiHeadAttentionContext)
        if ctx.cached:
            raise ValueError("ctx: expected a forward without a cache, which has no backward")
        parts = ctx.parts or PartsContext()
        # y = out_proj(gate(merge(out), query))
        dh = self.out_proj.backward(dy, ctx.out_proj)
        dh, dgated = self._ungated(dh, parts.gate)
        # out = attention(q, k, v, bias)
        dq, dk, dv, dbias = self._attend_back(
            split(dh, self.num_heads), ctx.attention, with_bias=ctx.bias_shape is not None
        )
        # v = mix(values, first_values)
        dv, dfirst = self._unmixed(dv, parts.mix)
        if dvalues is not None:
            dv = dv + _checks.gradient("dvalues", dvalues, ctx.values.shape, ctx.values.dtype)
        # k = turn(norm(k)); q = turn(norm(q))
        dq, dk = self._turn_back(dq, ctx.rotary_q), self._turn_back(dk, ctx.rotary_k)
        dq = _unnormed(self.q_norm, merge(dq), parts.q_norm)
        dk = _unnormed(self.k_norm, merge(dk), parts.k_norm)
        # q, k, v = split(q_proj(query)), split(k_proj(key)), split(v_proj(value))
        dys, ctxs = (dq, dk, merge(dv)), (ctx.q_proj, ctx.k_proj, ctx.v_proj)
        dquery, *others = project_back(self._projections(), dys, ctxs, ctx.given)
        dquery = dquery if dgated is None else dquery + dgated
        if not others and ctx.bias_shape is None and dfirst is None:
            return dquery
        if ctx.bias_shape is not None:
            assert dbias is not None  # there was a bias
            dbias = sum_to(dbias, ctx.bias_shape)
        dkey, dvalue = (*others, None, None)[:2]
        if dfirst is not None:
            return ValueResidualGrads(dquery, dkey, dvalue, dbias, dfirst)
        return MultiHeadAttentionGrads(dquery, dkey, dvalue, dbias)

    @staticmethod
    def weights(ctx: MultiHeadAttentionContext) -> Array:
        """Return the exact attention map of the call that made ``ctx``, (B, H, T, S).

        Before dropout: each row sums to 1, or is 0 where nothing may be attended to.
        """
        a = _checks.context(ctx, MultiHeadAttentionContext).attention
        if isinstance(a, F.AttentionContext):
            return attention_map(a)
        if not hasattr(a, "weights"):
            raise ValueError("ctx: expected that of a layer without comm, which has all keys")
        shown: Array = a.weights()
        return shown

    def remember(self, key: Array, value: Array | None = None) -> KVCache:
        """Return the projected keys and values of a memory, to be given as ``key`` many times."""
        key = sized("key", key, "B, S, kdim", kdim=self.kdim)
        if value is not None:
            sizes = {"B": len(key), "S": key.shape[1], "vdim": self.vdim}
            value = sized("value", value, "B, S, vdim", **sizes)
        with _checks.renamed(x="key"):
            k, _ = _normed(self.k_norm, self.k_proj(key))
        with _checks.renamed(x="key" if value is None else "value"):
            v = split(self.v_proj(key if value is None else value), self.num_kv_heads)
        k, _ = self._turn(split(k, self.num_kv_heads), places(key.shape[1]))
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
        if self.head_dim * self.num_heads != self.embed_dim:
            words.append(f"head_dim={self.head_dim}")
        if self.dropout:
            words.append(f"dropout={self.dropout:g}")
        if self.alibi:
            words.append("alibi")
        if self.window is not None:
            words.append(f"window={self.window}, sinks={self.sinks}")
        words += [
            f"{name}={value:g}"
            for name, value in (("softcap", self.softcap), ("scale", self.scale))
            if value is not None
        ]
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

    def _projections(self) -> list[Module]:
        return [self.q_proj, self.k_proj, self.v_proj]

    def _mixed(self, values: Array, first: Array | None) -> tuple[Array, ValueMixContext | None]:
        """Return the values with the first layer's in them, where there are any."""
        if first is None:
            return values, None
        if self.mix is None:
            raise ValueError("first_values: expected None without value_residual, got an array")
        first = sized(
            "first_values",
            first,
            "B, G, S, D",
            **dict(zip("BGSD", values.shape, strict=True)),
        )
        return self.mix.forward(values, first)

    def _unmixed(self, dv: Array, ctx: ValueMixContext | None) -> tuple[Array, Array | None]:
        return (dv, None) if self.mix is None or ctx is None else self.mix.backward(dv, ctx)

    def _attend(self, q: Array, k: Array, v: Array, call: Call) -> tuple[Array, Any]:
        """Return (out, ctx), out (B, H, T, D)."""
        if self.ranks is not None:
            return self.ranks.attend(q, k, v, call)
        return attend(q, k, v, call)

    def _attend_back(self, dout: Array, ctx: Any, *, with_bias: bool) -> MiddleGrads:
        # out = attend(q, k, v)
        if self.ranks is not None:
            return self.ranks.attend_back(dout, ctx)
        return attend_back(dout, ctx, with_bias=with_bias)

    def _places(self, count: int, start: Array | None = None) -> Array:
        """Return where tokens are in their sequence; where nothing asks for it, in this part."""
        if self.ranks is None or self.rotary is None:
            return places(count, start)
        return self.ranks.places(count)[0]

    def _ungated(self, dh: Array, ctx: OutputGateContext | None) -> tuple[Array, Array | None]:
        return (dh, None) if self.gate is None or ctx is None else self.gate.backward(dh, ctx)

    def _turned_width(self) -> int:
        """Return how wide that is what rotary positions turn."""
        return self.head_dim

    def _turn(self, x: Array, positions: Array) -> tuple[Array, F.RotaryContext | None]:
        return (x, None) if self.rotary is None else self.rotary.forward(x, positions)

    def _turn_back(self, dx: Array, ctx: F.RotaryContext | None) -> Array:
        return dx if self.rotary is None or ctx is None else self.rotary.backward(dx, ctx)

    def _mask(self, mask: MaskLike, start: Array | None) -> masks.Mask | None:
        """Return ``mask`` and the layer's window and, for tokens from ``start`` on, causality."""
        rules = [borrowed(mask)]
        if start is not None:
            rules.append(masks.causal(start))
        if self.window is not None:
            rules.append(masks.window(*self.window, start, sinks=self.sinks))
        given = [rule for rule in rules if rule is not None]
        return functools.reduce(operator.and_, given) if given else None

    def _bias(self, bias: Array | None, q_at: Array, k_at: Array, dtype: DTypeLike) -> Any:
        if not self.alibi:
            return bias
        if self.ranks is not None:  # no rank holds T x S of anything
            return alibi_function(self.num_heads, dtype)
        slopes = alibi_bias(self.num_heads, q_at, k_at, dtype)
        return slopes if bias is None else slopes + bias


def _refuse(**given: object) -> None:
    """Raise for what a layer whose sequence is shared by ranks doesn't take."""
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"{name}: expected None for a layer with comm, got a {type(value).__name__}"
            )


def _normed(norm: HeadNorm | None, x: Array) -> tuple[Array, F.RmsNormContext | None]:
    return (x, None) if norm is None else norm.forward(x)


def _unnormed(norm: HeadNorm | None, dy: Array, ctx: F.RmsNormContext | None) -> Array:
    return dy if norm is None or ctx is None else norm.backward(dy, ctx)
