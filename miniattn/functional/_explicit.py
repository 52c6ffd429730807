"""Attention written out: plain NumPy with every score and weight in the open, forward and backward.

What the fused kernels never hold, made from a context when somebody looks at it; and the form that
a layer takes whose scores or weights are edited. It works in float64 on (B, H, T, S) numbers.
Formulas: docs/derivations/attention.md.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from miniattn._typing import Array, Shape
from miniattn.functional._attention import (
    AttentionContext,
    AttentionGrads,
    ScoredAttentionGrads,
    grads_of,
    weights_of,
)
from miniattn.functional._attention_calls import Besides, Options
from miniattn.functional._doubles import run
from miniattn.functional._explicit_weights import weigh, weigh_backward
from miniattn.functional._scores import backward_half, gradients, learned
from miniattn.scores import Score

# Takes a name, "scores" or "weights", and an array; returns the array to go on with.
Look: TypeAlias = Callable[[str, Array], Array]


class Explicit(NamedTuple):
    """What the explicit backward needs beside the context; (B, H, T, S) each."""

    visible: Array
    capped: Array
    """Scores / softcap after tanh; without a softcap, zeros."""
    before: Array
    """What a user's function of scores was given."""
    weights: Array
    """What the normalizer makes of the scores, before an edit of the weights."""
    own: Array
    """(B, H, T): the weight of the sink."""
    used: Array
    """What the values were multiplied by: edited weights after dropout."""
    kept: Array | float
    """The factor of dropout."""


def forward(ctx: AttentionContext, look: Look) -> tuple[AttentionContext, Explicit]:
    """Return the context of the same call with ``look`` at scores and weights, and all of it.

    The mask has the last word on scores: what it hides is -inf before an edit and after. Weights
    are taken as an edit leaves them.
    """
    _, _, v = _by_heads(ctx)
    s, visible, capped, before = _scores(ctx)
    s = _looked_at(look, "scores", np.where(visible, s, -np.inf), ctx)
    s = np.where(visible, s, -np.inf)
    weighed = weigh(s, visible, ctx)
    w = _looked_at(look, "weights", weighed.weights, ctx)
    kept = _kept(ctx)
    out = _product(w * kept, v, visible)
    new = ctx._replace(
        out=_like(out, ctx.out),
        lse=_like(weighed.lse, ctx.lse),
        stats=_rounded(weighed.stats, ctx.stats.dtype),
    )
    made = visible, capped, before, weighed.weights, weighed.own
    return new, Explicit(*made, w * kept, kept)


def backward(
    dout: Array, ctx: AttentionContext, dlse: Array | None, made: Explicit, look: Look
) -> AttentionGrads | ScoredAttentionGrads:
    """Return the gradients of `forward`; ``look`` takes and returns those of weights and scores."""
    dtype = ctx.q.dtype
    q, k, v = _by_heads(ctx)
    do = _four(dout)
    seen_by = np.swapaxes(made.visible, -1, -2)
    # out = used v
    dv = _product(np.swapaxes(made.used, -1, -2), do, seen_by)
    dused = _dweights(do, v, made.visible)
    # used = kept weights
    dw = look("weights", _rounded(_in_shape(dused * made.kept, ctx), dtype))
    # weights, lse = softmax(scores), logsumexp(scores)
    ds, dsink = weigh_backward(_four(dw), dlse, made.weights, made.own, ctx.normalizer)
    ds = _four(look("scores", _rounded(_in_shape(ds, ctx), dtype)))
    ds = np.where(made.visible, ds, 0.0)
    # scores = score(cap(scale q kᵀ)) + bias
    dbias = None if ctx.bias is None else _rounded(_sum_to(ds, ctx.bias.shape), dtype)
    ds, dscore = _scored_backward(ctx, ds, made)
    ds = ctx.scale * ds * (1 - made.capped**2)
    dq, dk = _product(ds, k, made.visible), _product(np.swapaxes(ds, -1, -2), q, seen_by)
    of_inputs = (
        _like(dq, ctx.q),
        _like(_grouped(dk, ctx.k), ctx.k),
        _like(_grouped(dv, ctx.v), ctx.v),
        dbias,
    )
    return grads_of(ctx, of_inputs, None if ctx.sink is None else _rounded(dsink, dtype), dscore)


def scores(ctx: AttentionContext) -> Array:
    """Return what the normalizer was given: score(cap(scale q kᵀ)) + bias, -inf where hidden."""
    s, visible, _, _ = _scores(ctx)
    return _rounded(_in_shape(np.where(visible, s, -np.inf), ctx), ctx.q.dtype)


def weights(ctx: AttentionContext) -> Array:
    """Return the exact weights of the call, before dropout."""
    return weights_of(ctx)


def weights_gradient(dout: Array, ctx: AttentionContext) -> Array:
    """Return d loss / d weights: kept · (dout vᵀ), hidden places included, (B, H, T, S)."""
    _, _, v = _by_heads(ctx)
    dw = _kept(ctx) * _dweights(_four(dout), v, _visible(ctx))
    return _rounded(_in_shape(dw, ctx), ctx.q.dtype)


def scores_gradient(dout: Array, ctx: AttentionContext, dlse: Array | None) -> Array:
    """Return d loss / d scores: under softmax weights · (dweights - Σ weights dweights + dlse)."""
    _, _, v = _by_heads(ctx)
    s, visible, _, _ = _scores(ctx)
    weighed = weigh(np.where(visible, s, -np.inf), visible, ctx)
    dw = _kept(ctx) * _dweights(_four(dout), v, visible)
    ds, _ = weigh_backward(dw, dlse, weighed.weights, weighed.own, ctx.normalizer)
    return _rounded(_in_shape(np.where(visible, ds, 0.0), ctx), ctx.q.dtype)


# --- Forward -------------------------------------------------------------------------------------


@np.errstate(all="ignore")
def _scores(ctx: AttentionContext) -> tuple[Array, Array, Array, Array]:
    """Return scores, anything where hidden; what is visible; tanh of scores / softcap; and what
    the user's function was given.
    """
    q, k, _ = _by_heads(ctx)
    s = ctx.scale * (q @ np.swapaxes(k, -1, -2))
    capped = np.zeros(())
    if ctx.softcap is not None:
        capped = np.tanh(s / ctx.softcap)
        s = ctx.softcap * capped
    before, visible = s, _visible(ctx)
    if ctx.score is not None:
        s = scored(ctx.score, s, visible)
        visible = visible & ~np.isneginf(s)
    if ctx.bias is not None:
        s = s + ctx.bias
    return s, visible, capped, before


def scored(score: Score, s: Array, visible: Array) -> Array:
    """Return what the user's function, run as Python, makes of visible scores."""
    found, tables = s.copy(), _tables(score)
    for b, h, i, j in _places(visible):
        place = b, h, i + _shift(score, b), j
        found[b, h, i, j] = score.function.forward(s[b, h, i, j], *place, *tables)
    return found


def _scored_backward(
    ctx: AttentionContext, ds: Array, made: Explicit
) -> tuple[Array, tuple[Array | None, ...] | None]:
    if ctx.score is None:
        return ds, None
    return scored_backward(ctx.score, ds, made.before, made.visible, ctx.q.dtype)


def scored_backward(
    score: Score, ds: Array, before: Array, visible: Array, dtype: np.dtype[Any]
) -> tuple[Array, tuple[Array | None, ...] | None]:
    """Return the gradients of what the function was given (``before``), and of its tables."""
    backward = backward_half(score)
    found, tables = ds.copy(), _tables(score)
    sums = [np.zeros(table.shape) for table in learned(score)]
    for b, h, i, j in _places(visible):
        place = b, h, i + _shift(score, b), j
        found[b, h, i, j] = backward(ds[b, h, i, j], before[b, h, i, j], *place, *tables, *sums)
    parts = np.concatenate([np.zeros(0), *(x.ravel() for x in sums)])[None]
    return found, gradients(score, parts, dtype) if sums else None


def _places(visible: Array) -> list[list[int]]:
    return np.argwhere(visible).tolist()


def _shift(score: Score, b: int) -> int:
    return 0 if score.shift is None else int(score.shift[b % len(score.shift)])


def _tables(score: Score) -> list[Any]:
    """Return the tables with floats in float64."""
    return [
        x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x
        for x in score.tables
    ]


def _visible(ctx: AttentionContext) -> Array:
    B, H, T, S = shape = _shape(ctx)
    seen = np.ones(shape, bool) if ctx.mask is None else ctx.mask.to_array(B, H, T, S)
    return seen if ctx.bias is None else seen & ~np.isneginf(ctx.bias)


def _kept(ctx: AttentionContext) -> Array | float:
    """Return the factor of every weight, 0 or 1 / (1 - dropout), as the kernels draw it.

    They are asked with weights of 1 / S, and the identity for values.
    """
    if not ctx.dropout:
        return 1.0
    B, H, T, S = _shape(ctx)
    zero = np.zeros((B, H, T, 1))
    out, lse, stats = np.empty((B, H, T, S)), np.empty((B, H, T)), np.empty((2, B, H, T))
    v = np.ascontiguousarray(np.broadcast_to(np.eye(S), (B, 1, S, S)))
    arrays = {
        "q": zero,
        "k": np.zeros((B, 1, S, 1)),
        "v": v,
        "out": out,
        "lse": lse,
        "stats": stats,
    }
    options, besides = Options(1.0, None, ctx.dropout), Besides(None, ctx.seed)
    run("forward", arrays, ["out", "lse", "stats"], options, besides)
    return (arrays["out"] > 0) / (1.0 - ctx.dropout)


# --- Backward ------------------------------------------------------------------------------------


@np.errstate(all="ignore")
def _dweights(dout: Array, v: Array, visible: Array) -> Array:
    """Return dout vᵀ; what is hidden and no number is 0, for it can't be known."""
    dw = dout @ np.swapaxes(v, -1, -2)
    return np.where(visible | np.isfinite(dw), dw, 0.0)


@np.errstate(all="ignore")
def _product(a: Array, b: Array, visible: Array) -> Array:
    """Return a @ b, without the products of a 0 at a hidden place with what is no number."""
    finite = np.isfinite(b)
    product: Array = a @ np.where(finite, b, 0.0)
    for j in np.flatnonzero(~finite.all(axis=(0, 1, 3))):
        column, rest = a[..., j, None], np.where(finite, 0.0, b)[..., j, None, :]
        product += np.where(visible[..., j, None] | (column != 0), column * rest, 0.0)
    return product


# --- Shapes --------------------------------------------------------------------------------------


def _looked_at(look: Look, name: str, x: Array, ctx: AttentionContext) -> Array:
    """Return ``x`` in float64 as it goes on; rounded only where it was edited."""
    shown = _rounded(_in_shape(x, ctx), ctx.q.dtype)
    seen = look(name, shown)
    return x if seen is shown else _four(seen)


def _shape(ctx: AttentionContext) -> tuple[int, int, int, int]:
    B, H, T, _ = (1,) * (4 - ctx.q.ndim) + ctx.q.shape
    return B, H, T, ctx.k.shape[-2]


def _in_shape(x: Array, ctx: AttentionContext) -> Array:
    """Return (B, H, T, S) with as many axes as the call had."""
    return x.reshape(x.shape[4 - ctx.q.ndim :])


def _four(x: Array) -> Array:
    """Return ``x`` in float64 with all four axes."""
    return x.reshape((1,) * (4 - x.ndim) + x.shape).astype(np.float64)


def _by_heads(ctx: AttentionContext) -> tuple[Array, Array, Array]:
    """Return q, k and v in float64, keys and values once for each query head."""
    q, k, v = _four(ctx.q), _four(ctx.k), _four(ctx.v)
    shared = q.shape[1] // max(1, k.shape[1])
    return q, np.repeat(k, shared, axis=1), np.repeat(v, shared, axis=1)


def _grouped(dx: Array, x: Array) -> Array:
    """Return the gradient (B, H, S, D) summed over the query heads that share a key head."""
    B, H, S, D = dx.shape
    G = _four(x).shape[1]
    grouped: Array = dx.reshape(B, G, H // max(1, G), S, D).sum(2)
    return grouped


def _like(x: Array, other: Array) -> Array:
    return _rounded(x.reshape(other.shape), other.dtype)


@np.errstate(over="ignore")
def _rounded(x: Array, dtype: np.dtype[Any]) -> Array:
    """Return ``x`` in a dtype of a model, infinite where that has nothing so large."""
    rounded: Array = x.astype(dtype)
    return rounded


def _sum_to(x: Array, shape: Shape) -> Array:
    """Return ``x`` summed over the axes along which ``shape`` was broadcast to it."""
    padded = (1,) * (x.ndim - len(shape)) + shape
    stretched = tuple(a for a, n in enumerate(padded) if n == 1)
    summed: Array = x.sum(stretched, keepdims=True).reshape(shape)
    return summed
