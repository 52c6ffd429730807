"""What a call of attention leaves for its backward, and what that returns."""

from __future__ import annotations

from typing import Any, NamedTuple

import miniattn.functional as F
from miniattn._context import context
from miniattn._typing import Array
from miniattn.nn._attention.parts import OutputGateContext, ValueMixContext


@context
class PartsContext(NamedTuple):
    """The contexts of what was put around the middle."""

    q_norm: F.RmsNormContext | None = None
    k_norm: F.RmsNormContext | None = None
    mix: ValueMixContext | None = None
    gate: OutputGateContext | None = None


@context
class MultiHeadAttentionContext(NamedTuple):
    """What `MultiHeadAttention.backward` needs: the contexts of its parts, and how it was called.

    ``attention`` is the context of `miniattn.functional.attention_forward`: q, k, v by heads,
    ``out`` and ``lse``. ``values`` (B, G, S, D) are those of this layer alone, which later layers
    may take as their ``first_values``.
    """

    q_proj: Any
    k_proj: Any
    v_proj: Any
    rotary_q: F.RotaryContext | None
    rotary_k: F.RotaryContext | None
    values: Array
    attention: Any
    out_proj: Any
    parts: PartsContext | None
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


class ValueResidualGrads(NamedTuple):
    """Gradients of `MultiHeadAttention.forward` where it was given ``first_values``."""

    dquery: Array
    """(B, T, E)."""
    dkey: Array | None
    """(B, S, kdim)."""
    dvalue: Array | None
    """(B, S, vdim)."""
    dbias: Array | None
    """Of bias's own shape."""
    dfirst_values: Array
    """(B, G, S, D)."""
