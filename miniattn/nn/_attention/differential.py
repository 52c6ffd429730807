"""Differential attention: what two maps of one head have in common is taken away."""

from __future__ import annotations

from typing import Any, NamedTuple, Unpack

import numpy as np
from numpy.typing import DTypeLike

import miniattn.functional as F
from miniattn import _checks
from miniattn._context import context
from miniattn._typing import Array
from miniattn.nn import _init
from miniattn.nn._attention.heads import merge, split
from miniattn.nn._attention.middle import (
    Call,
    MiddleGrads,
    attend,
    attend_back,
    attention_map,
)
from miniattn.nn._attention.multi_head import MultiHeadAttention
from miniattn.nn._attention.options import MultiHeadOptions
from miniattn.nn._norm import RMSNorm
from miniattn.nn._parameter import Parameter


@context
class DifferentialContext(NamedTuple):
    """The middle of `DifferentialAttention`: the contexts of both maps, and λ."""

    first: F.AttentionContext
    second: F.AttentionContext
    exps: tuple[float, float]
    share: float
    out2: Array
    norm: F.RmsNormContext

    def weights(self) -> Array:
        """Return A₁ − λ A₂, (B, H, T, S): signed, each row sums to 1 − λ."""
        first, second = attention_map(self.first), attention_map(self.second)
        difference: Array = first - np.asarray(self.share, first.dtype) * second
        return difference


class DifferentialAttention(MultiHeadAttention):
    """Differential attention: out = (1 − λ₀) · norm((A₁ − λ A₂) v), by heads.

    A₁ and A₂ are the softmax maps of the first and the second half of each head of q and k, and
    λ = exp(λ_q1 · λ_k1) − exp(λ_q2 · λ_k2) + λ₀ is learned, one number for the layer.

    Parameters
    ----------
    embed_dim, num_heads : int
        Width E and heads H; E / H is even.
    lambda_init : float
        λ₀. The paper has 0.8 − 0.6 · exp(−0.3 l) in the layer with l layers below it.
    bias, dropout, rng, dtype
    **options
        As in `MultiHeadAttention`. Rotary positions turn each half by itself.

    Attributes
    ----------
    lambdas : Parameter, shape (4, D/2)
        λ_q1, λ_k1, λ_q2, λ_k2; start as N(0, 0.1²).
    norm : RMSNorm
        Over the D entries of each head.

    References
    ----------
    Ye et al., "Differential Transformer", 2024, section 2.1 and equations 1 to 3.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> attn = nn.DifferentialAttention(16, 2, lambda_init=0.2)
    >>> x = np.random.default_rng(0).standard_normal((1, 5, 16), dtype=np.float32)
    >>> y, ctx = attn.forward(x)
    >>> attn.backward(np.ones_like(y), ctx).shape, attn.weights(ctx).shape
    ((1, 5, 16), (1, 2, 5, 5))
    """

    _live = (*MultiHeadAttention._live, "lambda_init")

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        lambda_init: float = 0.8,
        rng: np.random.Generator | None = None,
        dtype: DTypeLike = np.float32,
        **options: Unpack[MultiHeadOptions],
    ) -> None:
        rng = _init.generator(rng)
        super().__init__(embed_dim, num_heads, rng=rng, dtype=dtype, **options)
        if self.head_dim % 2:
            raise ValueError(f"num_heads: expected heads of even width, got {self.head_dim}")
        self.lambda_init = _checks.share("lambda_init", lambda_init)
        self.lambdas = Parameter(_init.normal(rng, (4, self.head_dim // 2), 0.1, dtype))
        self.norm = RMSNorm(self.head_dim, eps=1e-5, dtype=dtype)

    def _attend(self, q: Array, k: Array, v: Array, call: Call) -> tuple[Array, Any]:
        half = self.head_dim // 2
        out1, first = attend(q[..., :half], k[..., :half], v, call)
        out2, second = attend(q[..., half:], k[..., half:], v, call)
        q1, k1, q2, k2 = self.lambdas.data.astype(np.float64)
        exps = float(np.exp(q1 @ k1)), float(np.exp(q2 @ k2))
        share = exps[0] - exps[1] + self.lambda_init
        out, norm = self.norm.forward(out1 - np.asarray(share, v.dtype) * out2)
        out *= np.asarray(1 - self.lambda_init, v.dtype)
        return out, DifferentialContext(first, second, exps, share, out2, norm)

    def _attend_back(
        self, dout: Array, ctx: DifferentialContext, *, with_bias: bool
    ) -> MiddleGrads:
        # out = (1 − λ₀) · norm(out1 − λ · out2)
        d1 = self.norm.backward(dout * np.asarray(1 - self.lambda_init, dout.dtype), ctx.norm)
        d2 = d1 * np.asarray(-ctx.share, d1.dtype)
        if self.lambdas.trainable:
            self._lambdas_back(-float(np.vdot(d1, ctx.out2)), ctx.exps)
        # out1, out2 = attention of the halves
        one = attend_back(d1, ctx.first, with_bias=with_bias)
        two = attend_back(d2, ctx.second, with_bias=with_bias)
        dq, dk = (np.concatenate(both, axis=-1) for both in ((one.dq, two.dq), (one.dk, two.dk)))
        dscore = None
        if one.dscore is not None and two.dscore is not None:
            dscore = tuple(_sum(a, b) for a, b in zip(one.dscore, two.dscore, strict=True))
        return MiddleGrads(
            dq, dk, one.dv + two.dv, _sum(one.dbias, two.dbias), _sum(one.dsink, two.dsink), dscore
        )

    def _lambdas_back(self, dshare: float, exps: tuple[float, float]) -> None:
        # share = exp(q1 · k1) − exp(q2 · k2) + λ₀
        q1, k1, q2, k2 = self.lambdas.data
        first, second = dshare * exps[0], -dshare * exps[1]
        grad = np.stack([first * k1, first * q1, second * k2, second * q2])
        self.lambdas.accumulate(grad.astype(self.lambdas.dtype))

    def _turned_width(self) -> int:
        return self.head_dim // 2

    def _turn(self, x: Array, positions: Array) -> tuple[Array, F.RotaryContext | None]:
        heads = x.shape[1]
        y, ctx = super()._turn(split(merge(x), 2 * heads), positions)
        return split(merge(y), heads), ctx

    def _turn_back(self, dx: Array, ctx: F.RotaryContext | None) -> Array:
        heads = dx.shape[1]
        return split(merge(super()._turn_back(split(merge(dx), 2 * heads), ctx)), heads)

    def describe(self) -> str:
        """Return e.g. ``"64, heads=4, lambda_init=0.8"``."""
        return f"{super().describe()}, lambda_init={self.lambda_init:g}"


def _sum(a: Array | None, b: Array | None) -> Array | None:
    return None if a is None or b is None else a + b
