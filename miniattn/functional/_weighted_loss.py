"""Cross-entropy where a target is no single class, or classes count differently.

A composition: the shares u_rj that the log-probabilities of a row count with are written out, which
the fused kernel of `_loss` never does. loss = −Σ_r Σ_j u_rj log softmax(logits)_rj / total.
"""

from typing import NamedTuple

import numpy as np

from miniattn import _checks
from miniattn._context import context
from miniattn._typing import Array
from miniattn.functional._softmax import (
    LogSoftmaxContext,
    log_softmax_backward,
    log_softmax_forward,
)


@context
class WeightedCrossEntropyContext(NamedTuple):
    """What `cross_entropy_backward` needs where there were class weights or probabilities."""

    log_softmax: LogSoftmaxContext
    shares: Array
    """(rows that count, N): u."""
    counted: Array
    """bool, logits' shape without the last axis."""
    total: float
    """What the sum is divided by."""
    dtype: np.dtype[np.floating]
    """That of the logits."""


def weighted_forward(
    logits: Array,
    targets: Array,
    class_weights: Array | None,
    ignore_index: int,
    label_smoothing: float,
) -> tuple[np.floating, WeightedCrossEntropyContext]:
    """Return (loss, ctx); ``targets`` are classes that were checked, or probabilities."""
    classes = logits.shape[-1]
    soft = targets.dtype.kind == "f"
    weights = np.ones(classes) if class_weights is None else class_weights.astype(np.float64)
    counted = np.ones(logits.shape[:-1], bool) if soft else targets != ignore_index
    if soft:
        q = targets.reshape(-1, classes).astype(np.float64)
        total = float(len(q))
    else:
        q = np.zeros((int(counted.sum()), classes))
        chosen = targets[counted]
        q[np.arange(len(q)), chosen] = 1.0
        total = float(weights[chosen].sum())
    q = (1 - label_smoothing) * q + label_smoothing / max(classes, 1)
    shares = q * weights
    # In float64: differences of logits may be greater than float32 holds where the mean is not.
    logp, log_softmax = log_softmax_forward(logits[counted].astype(np.float64))
    terms = np.multiply(shares, logp, out=np.zeros_like(shares), where=shares > 0)  # not 0 · −inf
    with np.errstate(over="ignore"):
        loss = logits.dtype.type(-terms.sum() / total if total else 0.0)
    return loss, WeightedCrossEntropyContext(log_softmax, shares, counted, total, logits.dtype)


def weighted_backward(dloss: float, ctx: WeightedCrossEntropyContext) -> Array:
    """Return ``dlogits`` = (p Σ_k u_k − u) · dloss / total; 0 in rows that do not count."""
    # loss = −Σ u · logp / total
    dlogp = -dloss / (ctx.total or 1.0) * ctx.shares
    dlogits = np.zeros((*ctx.counted.shape, ctx.shares.shape[-1]), ctx.dtype)
    # logp = log_softmax(logits[counted])
    dlogits[ctx.counted] = log_softmax_backward(dlogp, ctx.log_softmax)
    return dlogits


def checked_weights(class_weights: object, classes: int) -> Array:
    """Return weights (N,), finite and not negative."""
    weights = _checks.float_array("class_weights", class_weights)
    _checks.shape("class_weights", weights, "N", {"N": classes})
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError(f"class_weights: expected finite numbers >= 0, got {weights}")
    return weights


def checked_probabilities(targets: Array, logits: Array) -> Array:
    """Return target distributions, as many as there are rows of logits."""
    if targets.shape != logits.shape:
        raise ValueError(
            f"targets: expected probabilities of the shape of logits, {logits.shape}, "
            f"got {targets.shape}"
        )
    sums = targets.sum(axis=-1, dtype=np.float64)
    if not (targets >= 0).all() or not np.allclose(sums, 1, rtol=0, atol=1e-3):
        raise ValueError("targets: expected probabilities, numbers >= 0 that sum to 1 in each row")
    return targets
