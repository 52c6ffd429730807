"""Weights of scores written out, (B, H, T, S) in float64, by each of the normalizers, and back."""

from typing import NamedTuple

import numpy as np

from miniattn._typing import Array
from miniattn.functional._activation import sigmoid
from miniattn.functional._attention import AttentionContext, Normalizer, is_changed
from miniattn.functional._attention_calls import measure_of
from miniattn.functional._sparse import entmax15, sparsemax


class Weighed(NamedTuple):
    """What a normalizer makes of scores."""

    weights: Array
    """(B, H, T, S)."""
    own: Array
    """(B, H, T): the weight of the sink, 0 where there is none."""
    stats: Array
    """(2, B, H, T): as in the context."""
    lse: Array
    """(B, H, T): as in the context."""


@np.errstate(all="ignore")
def weigh(s: Array, visible: Array, ctx: AttentionContext) -> Weighed:
    """Return the weights of scores, which are -inf where hidden."""
    if ctx.normalizer == "sigmoid":
        p = np.where(visible, sigmoid(s), 0.0)
        nothing = np.zeros(s.shape[:-1])
        return Weighed(p, nothing, np.stack([nothing, nothing - 1]), nothing + np.nan)
    if ctx.normalizer == "softmax":
        return _softmax(s, visible, ctx)
    return _sparse(s, visible, ctx)


def _softmax(s: Array, visible: Array, ctx: AttentionContext) -> Weighed:
    top = s.max(-1, initial=-np.inf)
    sink = np.full((s.shape[1], 1), -np.inf) if ctx.sink is None else ctx.sink[:, None]
    top = np.maximum(top, sink)
    origin = np.where(np.isneginf(top), 0.0, top)
    e = np.where(visible, np.exp(s - origin[..., None]), 0.0)
    own = np.exp(sink - origin)
    total = e.sum(-1) + own
    share = 1.0 / np.where(total == 0, 1.0, total)
    p = np.where(visible, e * share[..., None], 0.0)
    stats = np.stack([top / measure_of(ctx.scale, ctx.softcap, is_changed(ctx)), np.log2(total)])
    lse = np.where(total == 0, -np.inf, top + np.log(total))
    return Weighed(p, own * share, stats, lse)


def _sparse(s: Array, visible: Array, ctx: AttentionContext) -> Weighed:
    """Return the weights of a row whose last score is the sink."""
    sink = -np.inf if ctx.sink is None else ctx.sink.astype(np.float64)[:, None, None]
    last = np.broadcast_to(sink, (*s.shape[:-1], 1))
    rows, seen = np.concatenate([s, last], -1), np.concatenate([visible, last > -np.inf], -1)
    weights = (sparsemax if ctx.normalizer == "sparsemax" else entmax15)(rows, mask=seen)
    top = rows.max(-1, initial=-np.inf, where=seen)
    largest = weights.max(-1)  # of the score that is the origin of thresholds
    threshold = -largest if ctx.normalizer == "sparsemax" else -np.sqrt(largest)
    stats = np.stack([top / measure_of(ctx.scale, ctx.softcap, is_changed(ctx)), threshold])
    return Weighed(weights[..., :-1], weights[..., -1], stats, top + np.nan)


@np.errstate(all="ignore")
def weigh_backward(
    dp: Array, dlse: Array | None, weights: Array, own: Array, normalizer: Normalizer
) -> tuple[Array, Array]:
    """Return the gradients of scores, anything where hidden, and of sinks.

    ``dS = u (dP - Σ u dP / Σ u + dlse)``, u the slope of each weight. A sink has dP = 0.
    """
    u, of_sink = _slope(weights, normalizer), _slope(own, normalizer)
    along = np.zeros((*own.shape, 1))
    if normalizer != "sigmoid":
        along = np.where(u != 0, u * dp, 0.0).sum(-1, keepdims=True)
    if normalizer in ("sparsemax", "entmax15"):
        total = u.sum(-1, keepdims=True) + of_sink[..., None]
        along /= np.where(total == 0, 1.0, total)
    if dlse is not None:
        along -= dlse.reshape(along.shape)
    dscores: Array = np.where(u != 0, u * (dp - along), 0.0)
    dsink: Array = -(of_sink[..., None] * along).sum(axis=(0, 2, 3))
    return dscores, dsink


def _slope(p: Array, normalizer: Normalizer) -> Array:
    """Return how fast weights grow with their own scores, less what their sum takes back."""
    slope = p
    if normalizer == "sigmoid":
        slope = p * (1 - p)
    elif normalizer == "sparsemax":
        slope = np.where(p != 0, 1.0 + 0 * p, 0.0)
    elif normalizer == "entmax15":
        slope = np.sqrt(p)
    return slope
