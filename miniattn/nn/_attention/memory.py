"""Attention with keys and values that every query sees, whatever the sequence holds."""

from __future__ import annotations

from typing import Any, NamedTuple, Unpack

import numpy as np
from numpy.typing import DTypeLike

import miniattn.functional as F
from miniattn import _checks
from miniattn._context import context
from miniattn._typing import Array
from miniattn.nn import _init
from miniattn.nn._attention.middle import (
    Call,
    MiddleGrads,
    attend,
    attend_back,
    attention_map,
)
from miniattn.nn._attention.multi_head import MultiHeadAttention
from miniattn.nn._attention.options import MultiHeadOptions
from miniattn.nn._parameter import Parameter

_OF_THE_SEQUENCE: dict[str, Any] = {"mask": None, "bias": None, "score": None, "sink": None}


@context
class MemoryContext(NamedTuple):
    """The middle of `MemoryAttention`: attention to the sequence, to the memory, and the two."""

    sequence: F.AttentionContext
    memory: F.AttentionContext
    merge: F.MergeAttentionContext

    def weights(self) -> Array:
        """Return the weights of the sequence, (B, H, T, S); the memory has the rest of each row."""
        weights = attention_map(self.sequence)
        shares: Array = self.merge.weights[0].astype(weights.dtype)[..., None]
        return weights * shares


class MemoryAttention(MultiHeadAttention):
    """Attention to a sequence and to M learned keys and values, in one softmax.

    The memory is seen by every query under any mask, at no position, and holds what is true of all
    sequences. Attention to it is merged with that to the sequence by `functional.merge_attention`,
    which is exactly attention to both.

    Parameters
    ----------
    embed_dim, num_heads : int
        Width E and query heads H.
    slots : int
        M, keys and values of each of the G heads.
    bias, dropout, rng, dtype
    **options
        As in `MultiHeadAttention`, but for ``normalizer``. A ``bias`` of the scores, ``score``,
        ALiBi and rotary positions are for the sequence alone.

    Attributes
    ----------
    memory_keys, memory_values : Parameter, shape (G, M, D)
        Start as N(0, 1/D) and N(0, 1/M).

    References
    ----------
    Sukhbaatar et al., "Augmenting Self-attention with Persistent Memory", 2019, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import masks, nn
    >>> attn = nn.MemoryAttention(16, 2, slots=3)
    >>> x = np.random.default_rng(0).standard_normal((1, 5, 16), dtype=np.float32)
    >>> y, ctx = attn.forward(x, mask=masks.causal())
    >>> attn.backward(np.ones_like(y), ctx).shape, attn.memory_keys.grad.shape
    ((1, 5, 16), (2, 3, 8))
    >>> bool((attn.weights(ctx).sum(axis=-1) < 1).all())
    True
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        slots: int = 16,
        rng: np.random.Generator | None = None,
        dtype: DTypeLike = np.float32,
        **options: Unpack[MultiHeadOptions],
    ) -> None:
        rng = _init.generator(rng)
        super().__init__(embed_dim, num_heads, rng=rng, dtype=dtype, **options)
        if self.normalizer != "softmax":
            raise ValueError(
                "normalizer: expected 'softmax' beside a memory, which is merged by log-sum-exps, "
                f"got {self.normalizer!r}"
            )
        _checks.integer("slots", slots, least=1)
        shape = self.num_kv_heads, slots, self.head_dim
        self.memory_keys = Parameter(_init.normal(rng, shape, self.head_dim**-0.5, dtype))
        self.memory_values = Parameter(_init.normal(rng, shape, slots**-0.5, dtype))

    def _attend(self, q: Array, k: Array, v: Array, call: Call) -> tuple[Array, MemoryContext]:
        out1, sequence = attend(q, k, v, call)
        every = len(q), *self.memory_keys.shape
        keys, values = (np.broadcast_to(p.data, every) for p in self._memory())
        out2, memory = attend(q, keys, values, call._replace(**_OF_THE_SEQUENCE))
        out, merged = F.merge_attention_forward([out1, out2], [sequence, memory])
        return out, MemoryContext(sequence, memory, merged)

    def _attend_back(self, dout: Array, ctx: MemoryContext, *, with_bias: bool) -> MiddleGrads:
        # out = merge(out1, out2)
        (d1, d2), (dlse1, dlse2) = F.merge_attention_backward(dout, ctx.merge)
        # out2 = attention(q, memory)
        dq2, dkeys, dvalues, *_ = attend_back(d2, ctx.memory, with_bias=False, dlse=dlse2)
        for parameter, grad in zip(self._memory(), (dkeys, dvalues), strict=True):
            if parameter.trainable:
                parameter.accumulate(grad.sum(axis=0))
        # out1 = attention(q, k, v, bias)
        grads = attend_back(d1, ctx.sequence, with_bias=with_bias, dlse=dlse1)
        return grads._replace(dq=grads.dq + dq2)

    def _memory(self) -> tuple[Parameter, Parameter]:
        return self.memory_keys, self.memory_values

    def describe(self) -> str:
        """Return e.g. ``"64, heads=4, slots=16"``."""
        return f"{super().describe()}, slots={self.memory_keys.shape[1]}"
