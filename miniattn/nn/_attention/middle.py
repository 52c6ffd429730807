"""The middle of attention: q, k and v by heads in, what each head found out."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

import miniattn.functional as F
from miniattn._typing import Array
from miniattn.masks import Mask
from miniattn.scores import Score


class Call(NamedTuple):
    """What the middle is told beside q, k and v: the options of `functional.attention_forward`."""

    mask: Mask | None
    bias: Any
    scale: float | None
    softcap: float | None
    normalizer: F._attention.Normalizer
    dropout: float
    rng: np.random.Generator | None
    score: Score | None = None
    sink: Array | None = None


class MiddleGrads(NamedTuple):
    """Gradients of the middle."""

    dq: Array
    dk: Array
    dv: Array
    dbias: Array | None
    dsink: Array | None = None
    dscore: tuple[Array | None, ...] | None = None


def attend(q: Array, k: Array, v: Array, call: Call) -> tuple[Array, F.AttentionContext]:
    """Return (out, ctx), out (B, H, T, D)."""
    return F.attention_forward(q, k, v, **call._asdict())


def attend_back(
    dout: Array, ctx: F.AttentionContext, *, with_bias: bool, dlse: Array | None = None
) -> MiddleGrads:
    """Return the gradients of `attend`; ``dlse`` is what comes back to ``ctx.lse``."""
    needs: list[Literal["q", "k", "v", "bias", "sink", "score"]] = ["q", "k", "v", "sink", "score"]
    if with_bias:  # ALiBi's array is no input
        needs.append("bias")
    grads = F.attention_backward(dout, ctx, dlse=dlse, needs=needs)
    assert grads.dq is not None  # all three were asked for
    assert grads.dk is not None
    assert grads.dv is not None
    dsink, dscore = getattr(grads, "dsink", None), getattr(grads, "dscore", None)
    return MiddleGrads(grads.dq, grads.dk, grads.dv, grads.dbias, dsink, dscore)


def attention_map(ctx: F.AttentionContext) -> Array:
    """Return the weights of the call that made ``ctx``, (B, H, T, S)."""
    return F._attention.weights_of(ctx)
