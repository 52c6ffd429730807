"""What attention gives besides its output: what backward needs, and what backward returns."""

import math
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from miniattn import masks
from miniattn._context import context
from miniattn._typing import Array
from miniattn.functional._attention_calls import measure_of

Input: TypeAlias = Literal["q", "k", "v", "bias"]
INPUTS: tuple[Input, ...] = ("q", "k", "v", "bias")


@context
class AttentionContext(NamedTuple):
    """What `attention_backward` needs of a call of `attention_forward`."""

    q: Array
    k: Array
    v: Array
    out: Array
    lse: Array
    """(B, H, T): log-sum-exp of each row of scores; -inf where a row sees nothing."""
    stats: Array
    """(2, B, H, T): of each row the maximum of its scores, as the kernels have them, and log2 of
    the sum of exponentials relative to it. lse is their sum, rounded. They are float64 where
    float32 could not hold what came in between: then backward is done in float64, too.
    """
    mask: masks.Mask | None
    bias: Array | None
    scale: float
    softcap: float | None
    dropout: float
    seed: int
    """Names the dropout pattern together with (b, h, i, j)."""


class AttentionGrads(NamedTuple):
    """Gradients of `attention_forward`; None where not needed, and for a bias not given."""

    dq: Array | None
    """(B, H, T, D)."""
    dk: Array | None
    """(B, G, S, D)."""
    dv: Array | None
    """(B, G, S, Dv)."""
    dbias: Array | None
    """Of bias's own shape."""


def maxima_and_sums(ctx: AttentionContext) -> tuple[Array, Array]:
    """Return the maximum of each row of scores, -inf where it sees nothing, and log of its sum.

    In float64, each of the shape of ``ctx.lse``: exactly what the kernels know.
    """
    top, log_sum = ctx.stats.astype(np.float64).reshape(2, *ctx.lse.shape)
    measure = measure_of(ctx.scale, ctx.softcap, ctx.bias is not None)
    return top * measure, log_sum * math.log(2)
