"""What attention gives besides its output: what backward needs, and what backward returns."""

import math
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from miniattn import masks
from miniattn._context import context
from miniattn._typing import Array
from miniattn._typing import Normalizer as Normalizer
from miniattn.functional._attention_calls import measure_of
from miniattn.scores import Score

Input: TypeAlias = Literal["q", "k", "v", "bias", "sink", "score"]
INPUTS: tuple[Input, ...] = ("q", "k", "v", "bias", "sink", "score")


@context
class AttentionContext(NamedTuple):
    """What `attention_backward` needs of a call of `attention_forward`."""

    q: Array
    k: Array
    v: Array
    out: Array
    lse: Array
    """(B, H, T): log-sum-exp of each row of scores; -inf where a row sees nothing.

    Of no other normalizer than softmax is there one: then it is NaN.
    """
    stats: Array
    """(2, B, H, T): of each row the maximum of its scores, as the kernels have them, and log2 of
    the sum of exponentials relative to it. lse is their sum, rounded. They are float64 where
    float32 could not hold what came in between: then backward is done in float64, too. Under
    sparsemax and entmax15 the second is the row's threshold; sigmoid has neither.
    """
    mask: masks.Mask | None
    bias: Array | None
    scale: float
    softcap: float | None
    dropout: float
    seed: int
    """Names the dropout pattern together with (b, h, i, j)."""
    score: Score | None = None
    sink: Array | None = None
    normalizer: Normalizer = "softmax"


class AttentionGrads(NamedTuple):
    """Gradients of `attention_forward`; None where not needed, and where not given.

    Of a call with a score or a sink they are `ScoredAttentionGrads`; ``dsink`` and ``dscore`` of
    any other are None.
    """

    dq: Array | None
    """(B, H, T, D)."""
    dk: Array | None
    """(B, G, S, D)."""
    dv: Array | None
    """(B, G, S, Dv)."""
    dbias: Array | None
    """Of bias's own shape."""

    @property
    def dsink(self) -> None:
        """None: there was no sink."""

    @property
    def dscore(self) -> None:
        """None: there was no score."""


class ScoredAttentionGrads(NamedTuple):
    """Gradients of an `attention_forward` with a score or a sink; None where not needed."""

    dq: Array | None
    """(B, H, T, D)."""
    dk: Array | None
    """(B, G, S, D)."""
    dv: Array | None
    """(B, G, S, Dv)."""
    dbias: Array | None
    """Of bias's own shape."""
    dsink: Array | None
    """(H,)."""
    dscore: tuple[Array | None, ...] | None
    """Of each table of the score, None for ints and numbers; None if there is no other."""


def grads_of(
    ctx: AttentionContext,
    of_inputs: tuple[Array | None, Array | None, Array | None, Array | None],
    dsink: Array | None,
    dscore: tuple[Array | None, ...] | None,
) -> AttentionGrads | ScoredAttentionGrads:
    """Return the gradients of (q, k, v, bias), and of a sink and a score where there were some.

    Four are unpacked wherever four were given.
    """
    if ctx.score is None and ctx.sink is None:
        return AttentionGrads(*of_inputs)
    return ScoredAttentionGrads(*of_inputs, dsink, dscore)


def is_changed(ctx: AttentionContext) -> bool:
    """Return whether more than scale and softcap stands between products and their softmax."""
    return any(x is not None for x in (ctx.bias, ctx.score, ctx.sink))


def check_lse(name: str, ctx: AttentionContext) -> None:
    """Refuse what is asked of the lse of a call whose normalizer has none."""
    if ctx.normalizer != "softmax":
        raise ValueError(
            f"{name}: expected a call with normalizer='softmax', whose rows have a log-sum-exp, "
            f"got one with {ctx.normalizer!r}"
        )


def maxima_and_sums(ctx: AttentionContext) -> tuple[Array, Array]:
    """Return the maximum of each row of scores, -inf where it sees nothing, and log of its sum.

    In float64, each of the shape of ``ctx.lse``: exactly what the kernels know.
    """
    top, log_sum = ctx.stats.astype(np.float64).reshape(2, *ctx.lse.shape)
    measure = measure_of(ctx.scale, ctx.softcap, is_changed(ctx))
    return top * measure, log_sum * math.log(2)
