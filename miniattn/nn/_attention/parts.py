"""What may be put around the attention of heads: norms of q and k, a gate, earlier values.

Each part is a small module of its own; `MultiHeadAttention` has those that it was asked for.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

import miniattn.functional as F
from miniattn import _checks
from miniattn._context import context
from miniattn._typing import Array
from miniattn.nn._linear import Linear
from miniattn.nn._module import Module
from miniattn.nn._norm import RMSNorm
from miniattn.nn._parameter import Parameter

Width: TypeAlias = Literal["head", "full"]
"""Whether something is done to each head, or to all of them as one vector."""


class HeadNorm(RMSNorm):
    """RMSNorm of q or k (B, T, H·D): over each head's D entries, or over all H·D of them.

    Parameters
    ----------
    num_heads, head_dim : int
    over : {"head", "full"}
        One gain (D,) for all heads, or one (H·D,).
    eps : float
    dtype : float32 or float64

    References
    ----------
    Henry et al., "Query-Key Normalization for Transformers", 2020, section 3; as it is used here,
    Dehghani et al., "Scaling Vision Transformers to 22 Billion Parameters", 2023, section 2.
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        *,
        over: Width,
        eps: float = 1e-6,
        dtype: DTypeLike = np.float32,
    ) -> None:
        whole = _checks.choice("qk_norm", over, ("head", "full")) == "full"
        super().__init__(num_heads * head_dim if whole else head_dim, eps=eps, dtype=dtype)

    def forward(
        self, x: Array, *, rng: np.random.Generator | None = None
    ) -> tuple[Array, F.RmsNormContext]:
        """Return (y, ctx), both x and y (B, T, H·D)."""
        y, ctx = super().forward(x.reshape(*x.shape[:2], -1, self.weight.size))
        return y.reshape(x.shape), ctx

    def backward(self, dy: Array, ctx: F.RmsNormContext) -> Array:
        """Return dx (B, T, H·D)."""
        ctx = _checks.context(ctx, F.RmsNormContext)
        # y = norm(x by heads)
        return super().backward(dy.reshape(ctx.x.shape), ctx).reshape(dy.shape)


@context
class OutputGateContext(NamedTuple):
    """What `OutputGate.backward` needs: the two factors, and the contexts of its parts."""

    heads: Array
    open: Array
    proj: Any
    sigmoid: F.SigmoidContext


class OutputGateGrads(NamedTuple):
    """Gradients of `OutputGate.forward`."""

    dheads: Array
    """(B, T, H·D)."""
    dquery: Array
    """(B, T, E)."""


class OutputGate(Module):
    """Gates what the heads found by the query's own input: heads · sigmoid(proj(query)).

    Parameters
    ----------
    embed_dim, num_heads, head_dim : int
    over : {"head", "full"}
        One gate for each head, or for each entry of it.
    rng : numpy.random.Generator
        Draws the weight.
    dtype : float32 or float64

    References
    ----------
    Qiu et al., "Gated Attention for Large Language Models: Non-linearity, Sparsity, and
    Attention-Sink-Free", 2025, section 2.2 (G1, elementwise and headwise).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        head_dim: int,
        *,
        over: Width,
        rng: np.random.Generator,
        dtype: DTypeLike = np.float32,
    ) -> None:
        whole = _checks.choice("gate", over, ("head", "full")) == "full"
        gates = num_heads * head_dim if whole else num_heads
        self.proj = Linear(embed_dim, gates, bias=False, rng=rng, dtype=dtype)

    def forward(
        self, heads: Array, query: Array, *, rng: np.random.Generator | None = None
    ) -> tuple[Array, OutputGateContext]:
        """Return (y, ctx): heads and y (B, T, H·D), query (B, T, E)."""
        gate, proj = self.proj.forward(query)
        gate, sigmoid = F.sigmoid_forward(gate)
        cut = heads.reshape(*gate.shape, -1)  # one gate for each group of entries
        y = (cut * gate[..., None]).reshape(heads.shape)
        return y, OutputGateContext(cut, gate, proj, sigmoid)

    def backward(self, dy: Array, ctx: OutputGateContext) -> OutputGateGrads:
        """Return (dheads, dquery)."""
        ctx = _checks.context(ctx, OutputGateContext)
        # y = heads · gate
        cut = dy.reshape(ctx.heads.shape)
        dheads, dgate = cut * ctx.open[..., None], (cut * ctx.heads).sum(axis=-1)
        # gate = sigmoid(proj(query))
        dquery = self.proj.backward(F.sigmoid_backward(dgate, ctx.sigmoid), ctx.proj)
        return OutputGateGrads(dheads.reshape(dy.shape), dquery)


@context
class ValueMixContext(NamedTuple):
    """What `ValueMix.backward` needs: what was mixed."""

    v: Array
    first: Array


class ValueMixGrads(NamedTuple):
    """Gradients of `ValueMix.forward`, both (B, G, T, D)."""

    dv: Array
    dfirst: Array


class ValueMix(Module):
    """Adds the values of the first layer to those of this one: λ₀ · v + λ₁ · first.

    Parameters
    ----------
    dtype : float32 or float64

    Attributes
    ----------
    share : Parameter, shape (2,)
        Both start at 1/2.

    References
    ----------
    Zhou et al., "Value Residual Learning", 2024, section 3.3.
    """

    def __init__(self, *, dtype: DTypeLike = np.float32) -> None:
        self.share = Parameter(np.full(2, 0.5, _checks.float_dtype("dtype", dtype)))

    def forward(
        self, v: Array, first: Array, *, rng: np.random.Generator | None = None
    ) -> tuple[Array, ValueMixContext]:
        """Return (y, ctx), all of v, first and y (B, G, T, D)."""
        own, shared = self.share.data
        return own * v + shared * first, ValueMixContext(v, first)

    def backward(self, dy: Array, ctx: ValueMixContext) -> ValueMixGrads:
        """Return (dv, dfirst), both (B, G, T, D)."""
        v, first = _checks.context(ctx, ValueMixContext)
        # y = share[0] · v + share[1] · first
        if self.share.trainable:
            self.share.accumulate(np.array([(dy * v).sum(), (dy * first).sum()], dy.dtype))
        own, shared = self.share.data
        return ValueMixGrads(own * dy, shared * dy)
