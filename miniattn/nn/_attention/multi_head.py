"""Multi-head attention as a whole: projections, heads, attention, and back."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

import miniattn.functional as F
from miniattn import _checks, masks
from miniattn._typing import Array, MaskLike
from miniattn.nn._attention.frame import AttentionFrame, normed, refuse, unnormed
from miniattn.nn._attention.heads import merge, places, sized, split, sum_to
from miniattn.nn._attention.middle import Call, attention_map
from miniattn.nn._attention.projections import project, project_back
from miniattn.nn._attention.results import (
    MultiHeadAttentionContext,
    MultiHeadAttentionGrads,
    PartsContext,
    ValueResidualGrads,
)
from miniattn.nn._cache import KVCache
from miniattn.nn._positions import token_positions


class MultiHeadAttention(AttentionFrame):
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
    normalizer : {"softmax", "sigmoid", "sparsemax", "entmax15"}
        What makes weights of scores; see `functional.attention`.
    scale : float, optional
        What q kᵀ is multiplied by, instead of 1 / √D.
    score : Score or LearnedScore, optional
        A function of scores, ``f(table)`` of a ``@scores.function``, whose float tables become
        parameters. Of a `Score` each layer has its own; a `LearnedScore` (`ALiBi`, `T5Bias`,
        `RelativeBias`) may be shared. Its i and j count from the first token of the sequence,
        with a cache too, whatever ``positions`` say.
    sink : bool
        A learned logit for each head that takes part in the softmax and carries no value [8]_.
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
    q_norm, k_norm, gate, mix, score : Module or None
        What ``qk_norm``, ``gate``, ``value_residual`` and ``score`` ask for.
    sink : Parameter (H,) or None
        Starts at 0, where ``sink`` asks for it.

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
    .. [8] OpenAI, "gpt-oss-120b & gpt-oss-20b Model Card", 2025, section 2.2.

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
        "normalizer",
        "scale",
    )

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
            each query sees the tokens up to itself, or what `KVCache.mask` says. A cached forward
            has no backward.
        rng : numpy.random.Generator, optional
            Given, attention weights are dropped with probability ``dropout``.
        """
        query, key, value = self._checked(query, key, value)
        if self.ranks is not None:
            refuse(bias=bias, cache=cache, key=key if isinstance(key, KVCache) else None)
        if cache is not None:
            self._check_cache("cache", cache, query)
            if not (key is None and positions is None):
                raise ValueError("cache: expected no key and no positions beside it, got some")
            self._check_forgetting(cache, mask, bias)
        bias = None if bias is None else _checks.float_array("bias", bias)
        start = held = order = None
        if cache is not None:
            start, order = cache.lengths.copy(), cache.mask(query.shape[1])
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
            k, k_norm = normed(self.k_norm, k)
            k, rotary_k = self._turn(split(k, self.num_kv_heads), k_at)
            values = split(v, self.num_kv_heads)
            v, mix = self._mixed(values, first_values)
        q, q_norm = normed(self.q_norm, q)
        q, rotary_q = self._turn(split(q, self.num_heads), q_at)
        if cache is not None:
            k, v = cache.append(k, v)
            k_at, held = cache.key_positions(), cache.held_lengths - query.shape[1]
            order = masks.causal(held) if cache.forgotten.any() else order
        call = Call(
            mask=self._mask(mask, held, order),
            bias=self._bias(bias, q_at, k_at, q.dtype),
            scale=self.scale,
            softcap=self.softcap,
            normalizer=self.normalizer,
            dropout=0.0 if rng is None else self.dropout,
            rng=rng,
            score=self._score(q_at, k_at, q.dtype, start),
            sink=None if self.sink is None else self.sink.data,
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
        # out = attention(q, k, v, bias, score, sink)
        grads = self._attend_back(
            split(dh, self.num_heads), ctx.attention, with_bias=ctx.bias_shape is not None
        )
        self._learn(grads)
        dq, dk, dv, dbias = grads[:4]
        # v = mix(values, first_values)
        dv, dfirst = self._unmixed(dv, parts.mix)
        if dvalues is not None:
            dv = dv + _checks.gradient("dvalues", dvalues, ctx.values.shape, ctx.values.dtype)
        # k = turn(norm(k)); q = turn(norm(q))
        dq, dk = self._turn_back(dq, ctx.rotary_q), self._turn_back(dk, ctx.rotary_k)
        dq = unnormed(self.q_norm, merge(dq), parts.q_norm)
        dk = unnormed(self.k_norm, merge(dk), parts.k_norm)
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

        Before dropout: each row sums to 1, to less where there is a sink (to anything under
        sigmoid), or is 0 where nothing may be attended to.
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
            k, _ = normed(self.k_norm, self.k_proj(key))
        with _checks.renamed(x="key" if value is None else "value"):
            v = split(self.v_proj(key if value is None else value), self.num_kv_heads)
        k, _ = self._turn(split(k, self.num_kv_heads), places(key.shape[1]))
        memory = KVCache(len(k), self.num_kv_heads, k.shape[2], self.head_dim, dtype=k.dtype)
        memory.append(k, v)
        return memory

    def new_cache(self, batch_size: int, capacity: int, *, forget: bool = False) -> KVCache:
        """Return an empty cache for decoding with this layer.

        With ``forget`` that of a layer with a window holds what is still seen (`KVCache`), unless
        a ``score`` counts the tokens.
        """
        dtype = next(p.dtype for _, p in self.named_parameters())
        sizes: dict[str, Any] = {"dtype": dtype}
        left = None if self.window is None else self.window[0]
        if _checks.flag("forget", forget) and left is not None and self.score is None:
            sizes |= {"window": left, "sinks": self.sinks}
            # Twice the window: what is forgotten is moved once for as many new tokens.
            capacity = min(capacity, self.sinks + 2 * left + 1)
        return KVCache(batch_size, self.num_kv_heads, capacity, self.head_dim, **sizes)

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
        if self.sink is not None:
            words.append("sink")
        if self.window is not None:
            words.append(f"window={self.window}, sinks={self.sinks}")
        if self.normalizer != "softmax":
            words.append(self.normalizer)
        words += [
            f"{name}={value:g}"
            for name, value in (("softcap", self.softcap), ("scale", self.scale))
            if value is not None
        ]
        return ", ".join(words)
