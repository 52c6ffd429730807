"""Talking heads: scores and weights are mixed over the heads."""

from __future__ import annotations

from typing import NamedTuple, Unpack

import numpy as np
from numpy.typing import DTypeLike

import miniattn.functional as F
from miniattn import _checks
from miniattn._context import context
from miniattn._tracing import point, point_backward
from miniattn._typing import Array
from miniattn.nn._attention.heads import sum_to
from miniattn.nn._attention.middle import Call, MiddleGrads
from miniattn.nn._attention.multi_head import MultiHeadAttention
from miniattn.nn._attention.options import MultiHeadOptions
from miniattn.nn._parameter import Parameter


@context
class TalkingHeadsContext(NamedTuple):
    """The middle of `TalkingHeadsAttention`: what its lines made, in their order."""

    q: Array
    k: Array
    v: Array
    scores: Array
    """(B, H, T, S), before they are mixed."""
    softmax: F.SoftmaxContext
    dropout: F.DropoutContext | None
    dropped: Array
    mixed: Array
    mix_weights: Array
    scale: float
    bias_shape: tuple[int, ...] | None

    def weights(self) -> Array:
        """Return the weights by which v is summed, (B, H, T, S), but for dropout."""
        return _mixed(self.softmax.y, self.mix_weights)


class TalkingHeadsAttention(MultiHeadAttention):
    """Talking heads: out = mix_w(softmax(mix_s(q kᵀ / √D) + bias, masked)) v.

    Both mixes are learned sums over the heads, H × H: y_g = Σ over h of x_h · P[h, g]. Scores and
    weights are made as arrays, O(T · S) memory.

    Parameters
    ----------
    embed_dim, num_heads : int
        Width E and query heads H.
    bias, dropout, rng, dtype
    **options
        As in `MultiHeadAttention`, but for ``softcap``, ``score``, ``sink`` and ``normalizer``.

    Attributes
    ----------
    mix_scores, mix_weights : Parameter, shape (H, H)
        Both start as the identity: heads that do not talk.

    Notes
    -----
    Rows of weights sum to 1 before they are mixed. Where a mask differs between heads, what one
    head may see reaches the others.

    References
    ----------
    Shazeer et al., "Talking-Heads Attention", 2020, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> attn = nn.TalkingHeadsAttention(16, 4)
    >>> x = np.random.default_rng(0).standard_normal((1, 5, 16), dtype=np.float32)
    >>> y, ctx = attn.forward(x)
    >>> attn.backward(np.ones_like(y), ctx).shape, attn.mix_scores.grad.shape
    ((1, 5, 16), (4, 4))
    """

    _fused = False

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        rng: np.random.Generator | None = None,
        dtype: DTypeLike = np.float32,
        **options: Unpack[MultiHeadOptions],
    ) -> None:
        super().__init__(embed_dim, num_heads, rng=rng, dtype=dtype, **options)
        if self.softcap is not None:
            raise ValueError(f"softcap: expected None where heads talk, got {self.softcap}")
        if self.normalizer != "softmax":
            raise ValueError(
                f"normalizer: expected 'softmax' where heads talk, got {self.normalizer!r}"
            )
        self.mix_scores = Parameter(np.eye(self.num_heads, dtype=self.q_proj.weight.dtype))
        self.mix_weights = Parameter(np.eye(self.num_heads, dtype=self.q_proj.weight.dtype))

    def _attend(
        self, q: Array, k: Array, v: Array, call: Call
    ) -> tuple[Array, TalkingHeadsContext]:
        q, k, v = point("q", q), point("k", k), point("v", v)
        share = self.num_heads // self.num_kv_heads
        k, v = np.repeat(k, share, axis=1), np.repeat(v, share, axis=1)
        scale = q.shape[-1] ** -0.5 if call.scale is None else call.scale
        scores = np.matmul(q, k.swapaxes(2, 3)) * np.asarray(scale, q.dtype)
        talked = _mixed(scores, self.mix_scores.data)
        if call.bias is not None:
            _checks.same_dtype(query=q, bias=call.bias)
            _checks.broadcastable("bias", call.bias, "B, H, T, S", talked.shape)
            talked = talked + call.bias
        seen = None if call.mask is None else call.mask.to_array(*talked.shape)
        talked = point("scores", talked)
        weights, softmax = F.softmax_forward(talked, mask=seen)
        weights = point("weights", weights)
        dropped, drop = (weights, None)
        if call.rng is not None and call.dropout:
            dropped, drop = F.dropout_forward(weights, call.dropout, call.rng)
        mixed = _mixed(dropped, self.mix_weights.data)
        bias_shape = None if call.bias is None else call.bias.shape
        out = point("heads", _product(mixed, v))
        return out, TalkingHeadsContext(
            q,
            k,
            v,
            scores,
            softmax,
            drop,
            dropped,
            mixed,
            self.mix_weights.data.copy(),
            scale,
            bias_shape,
        )

    def _attend_back(
        self, dout: Array, ctx: TalkingHeadsContext, *, with_bias: bool
    ) -> MiddleGrads:
        dout = point_backward("heads", dout)
        # out = mixed · v
        dv = np.matmul(ctx.mixed.swapaxes(2, 3), dout)
        dmixed = np.matmul(dout, ctx.v.swapaxes(2, 3))
        # mixed = dropped mixed over the heads
        ddropped = _unmixed(dmixed, ctx.dropped, self.mix_weights)
        # dropped = dropout(softmax(talked))
        dweights = ddropped if ctx.dropout is None else F.dropout_backward(ddropped, ctx.dropout)
        dweights = point_backward("weights", dweights)
        dtalked = point_backward("scores", F.softmax_backward(dweights, ctx.softmax))
        # talked = scores mixed over the heads + bias
        dbias = None
        if with_bias and ctx.bias_shape is not None:
            dbias = sum_to(dtalked, (1,) * (4 - len(ctx.bias_shape)) + ctx.bias_shape)
        dscores = _unmixed(dtalked, ctx.scores, self.mix_scores)
        # scores = q · kᵀ · scale
        dscores *= np.asarray(ctx.scale, dscores.dtype)
        dq, dk = _product(dscores, ctx.k), np.matmul(dscores.swapaxes(2, 3), ctx.q)
        dk, dv = self._of_groups(dk), self._of_groups(dv)
        dv, dk, dq = (point_backward(n, dx) for n, dx in (("v", dv), ("k", dk), ("q", dq)))
        return MiddleGrads(dq, dk, dv, dbias)

    def _of_groups(self, dx: Array) -> Array:
        """Return the sums over the query heads that share a key head, (B, G, S, D)."""
        batch, heads, *rest = dx.shape
        groups = self.num_kv_heads
        summed: Array = dx.reshape(batch, groups, heads // groups, *rest).sum(axis=2)
        return summed


def _mixed(x: Array, by: Array) -> Array:
    """Return Σ over h of x[:, h] · by[h, g], (B, H, T, S)."""
    batch, heads, *rest = x.shape
    y: Array = np.matmul(by.T, x.reshape(batch, heads, -1)).reshape(batch, heads, *rest)
    return y


def _unmixed(dy: Array, x: Array, by: Parameter) -> Array:
    """Return dx of ``_mixed(x, by)``, and add to the gradient of ``by``."""
    if by.trainable:
        by.accumulate(np.einsum("bhts,bgts->hg", x, dy))
    return _mixed(dy, by.data.T)


def _product(weights: Array, x: Array) -> Array:
    """Return weights · x, where what has weight 0 is left out, not even NaN times 0."""
    finite = np.all(np.isfinite(x), axis=(1, 3))
    out: Array = np.matmul(weights, np.where(finite[:, None, :, None], x, 0))
    for b, s in np.argwhere(np.logical_not(finite)):
        w = weights[b, :, :, s, None]
        out[b] += np.where(w != 0, w * x[b, :, s, None, :], 0)
    return out
