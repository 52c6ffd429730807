"""Losses."""

# mypy: warn-return-any=False

import numpy as np
from numpy.typing import ArrayLike, NDArray

from miniattn.reference._arrays import Array, f64, quiet
from miniattn.reference._linear import linear, linear_backward
from miniattn.reference._softmax import log_softmax


@quiet
def cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    class_weights: ArrayLike | None = None,
) -> float:
    """Mean of -sum(w q log p) over the counted targets; q is smoothed towards uniform."""
    logp, q, _, total = _target_distribution(
        logits, targets, ignore_index, label_smoothing, class_weights
    )
    return float(-np.sum(q * logp / total, where=q > 0))


@quiet
def cross_entropy_backward(
    dloss: float,
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    class_weights: ArrayLike | None = None,
) -> Array:
    """dlogits = dloss (p sum(w q) - w q) / total; 0 in the rows of ignored targets."""
    logp, q, counted, total = _target_distribution(
        logits, targets, ignore_index, label_smoothing, class_weights
    )
    dlogits = np.zeros(np.shape(logits))
    dlogits[counted] = dloss * (np.exp(logp) * q.sum(axis=-1, keepdims=True) - q) / total
    return dlogits


def _target_distribution(
    logits: ArrayLike,
    targets: ArrayLike,
    ignore_index: int,
    smoothing: float,
    class_weights: ArrayLike | None,
) -> tuple[Array, Array, NDArray[np.bool_], float]:
    """Log-probabilities and w q of the counted rows, which rows count, and the sum of weights."""
    targets = np.asarray(targets)
    logp = log_softmax(logits)
    classes = logp.shape[-1]
    w = np.ones(classes) if class_weights is None else f64(class_weights)
    if targets.dtype.kind == "f":
        counted = np.ones(logp.shape[:-1], bool)
        q = (1.0 - smoothing) * f64(targets)[counted] + smoothing / max(1, classes)
        return logp[counted], w * q, counted, max(1, len(q))
    counted = targets != ignore_index
    q = np.full(logp[counted].shape, smoothing / max(1, classes))
    q[np.arange(len(q)), targets[counted]] += 1.0 - smoothing
    total = float(np.sum(w[targets[counted]]))
    return logp[counted], w * q, counted, total or 1.0


@quiet
def linear_cross_entropy(
    x: ArrayLike,
    weight: ArrayLike,
    targets: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> float:
    """Cross-entropy of x W^T + b."""
    logits = linear(x, weight, bias)
    return cross_entropy(
        logits, targets, ignore_index=ignore_index, label_smoothing=label_smoothing
    )


@quiet
def linear_cross_entropy_backward(
    dloss: float,
    x: ArrayLike,
    weight: ArrayLike,
    targets: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> tuple[Array, Array, Array | None]:
    """The gradient of the logits, taken back through the linear map."""
    logits = linear(x, weight, bias)
    dlogits = cross_entropy_backward(
        dloss, logits, targets, ignore_index=ignore_index, label_smoothing=label_smoothing
    )
    return linear_backward(dlogits, x, weight, bias)


@quiet
def mse(pred: ArrayLike, target: ArrayLike) -> float:
    """Mean of (pred - target)^2 over all entries."""
    error = f64(pred) - f64(target)
    return float((error**2).sum() / max(1, error.size))


def mse_backward(dloss: float, pred: ArrayLike, target: ArrayLike) -> Array:
    """dpred = 2 dloss (pred - target) / n."""
    error = f64(pred) - f64(target)
    return 2.0 * (error / max(1, error.size) * dloss)
