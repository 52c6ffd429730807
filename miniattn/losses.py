"""Losses for training: a functional pair, how many targets it counts, and what else to report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

import miniattn.functional as F
from miniattn import _checks, _lazy
from miniattn._context import context
from miniattn._typing import Array
from miniattn.data import IGNORED

__all__ = ["MSE", "CrossEntropy", "Loss"]

__dir__ = _lazy.listed(__name__, __all__)


class Loss(Protocol):
    """What a `Trainer` asks of a loss: a mean over the targets that count, and its gradient."""

    def forward(self, outputs: Array, targets: Array) -> tuple[float, Any]:
        """Return (the mean over the counted targets, ctx)."""

    def backward(self, dloss: float, ctx: Any) -> Array:
        """Return the gradient of the outputs."""

    def count(self, targets: Array) -> float:
        """Return how many targets count, or what they do; batches are weighted by it."""

    def metrics(self, outputs: Array, targets: Array) -> Mapping[str, float]:
        """Return further means over the counted targets, for evaluation."""


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """Mean cross-entropy of logits (..., N) and classes (...); evaluation adds the accuracy.

    Logits (B, N) and one class for each sequence, or logits (B, T, N) and one for each step.

    Parameters
    ----------
    ignore_index : int, default `data.IGNORED`
        Targets of this value do not count.
    label_smoothing : float in [0, 1], default 0
    class_weights : sequence of float (N,), optional
        As in `functional.cross_entropy`. Targets may be probabilities (..., N) too, as mixing
        examples makes them.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn.losses import CrossEntropy
    >>> loss = CrossEntropy()
    >>> logits, targets = np.array([[2.0, 0.0], [3.0, 0.0], [0.0, 0.0]]), np.array([0, 1, -100])
    >>> value, ctx = loss.forward(logits, targets)
    >>> round(float(value), 4), loss.count(targets), loss.metrics(logits, targets)
    (1.5878, 2, {'accuracy': 0.5})
    """

    ignore_index: int = IGNORED
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.class_weights is not None:
            weights = np.asarray(self.class_weights)
            if weights.ndim != 1 or weights.dtype.kind not in "iuf" or not (weights >= 0).all():
                raise ValueError(
                    f"class_weights: expected numbers (N,) >= 0, got {self.class_weights!r}"
                )
        _checks.integer("ignore_index", self.ignore_index)
        if not 0 <= _checks.number("label_smoothing", self.label_smoothing) <= 1:
            raise ValueError(
                f"label_smoothing: expected a number in [0, 1], got {self.label_smoothing}"
            )

    def forward(self, outputs: Array, targets: Array) -> tuple[float, Any]:
        """Return (loss, ctx)."""
        weights = self.class_weights
        with _checks.renamed(logits="outputs"):
            loss, ctx = F.cross_entropy_forward(
                outputs,
                targets,
                ignore_index=self.ignore_index,
                label_smoothing=self.label_smoothing,
                class_weights=None if weights is None else np.asarray(weights, np.float64),
            )
        return float(loss), ctx

    def backward(self, dloss: float, ctx: Any) -> Array:
        """Return dlogits (..., N)."""
        return F.cross_entropy_backward(dloss, ctx)

    def count(self, targets: Array) -> float:
        """Return how many targets are not ``ignore_index``; with class weights, their sum."""
        targets = _checks.any_array("targets", targets, "an array of classes or of probabilities")
        if targets.dtype.kind == "f":
            return int(np.prod(targets.shape[:-1]))
        chosen = _checks.int_array("targets", targets)
        chosen = chosen[chosen != self.ignore_index]
        if self.class_weights is not None:
            return float(np.asarray(self.class_weights, np.float64)[chosen].sum())
        return int(chosen.size)

    def metrics(self, outputs: Array, targets: Array) -> dict[str, float]:
        """Return the accuracy: how often the greatest logit is that of the target."""
        outputs = _checks.float_array("outputs", outputs)
        targets = _checks.any_array("targets", targets, "an array of classes or of probabilities")
        _checks.shape("outputs", outputs, "..., N")
        if targets.dtype.kind == "f" and targets.shape == outputs.shape:
            targets = targets.argmax(axis=-1)
        targets = _checks.int_array("targets", targets)
        if targets.shape != outputs.shape[:-1]:
            raise ValueError(f"targets: expected shape {outputs.shape[:-1]}, got {targets.shape}")
        counted = targets != self.ignore_index
        right = counted & (outputs.argmax(axis=-1) == targets)
        return {"accuracy": int(right.sum()) / max(1, int(counted.sum()))}


@context
class _SomeMseContext(NamedTuple):
    counted: Array
    mse: F.MseContext


@dataclass(frozen=True)
class MSE:
    """Mean squared error of outputs and targets of one shape; NaN targets do not count.

    Targets are brought to the dtype of the outputs. `data.pad` puts NaN where a target of one
    entry for each step is filled up.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn.losses import MSE
    >>> outputs, targets = np.array([[1.0, 5.0], [2.0, 4.0]]), np.array([[0.0, np.nan], [2.0, 1.0]])
    >>> value, ctx = MSE().forward(outputs, targets)
    >>> round(value, 4)
    3.3333
    >>> MSE().backward(1.0, ctx)
    array([[0.66666667, 0.        ],
           [0.        , 2.        ]])
    """

    def forward(self, outputs: Array, targets: Array) -> tuple[float, _SomeMseContext]:
        """Return (loss, ctx)."""
        outputs, targets = _checks.float_array("outputs", outputs), _numbers(targets)
        if outputs.shape != targets.shape:
            raise ValueError(
                f"targets: expected shape {outputs.shape} like the outputs, got {targets.shape}"
            )
        counted = ~np.isnan(targets)
        loss, ctx = F.mse_forward(outputs[counted], targets[counted].astype(outputs.dtype))
        return float(loss), _SomeMseContext(counted, ctx)

    def backward(self, dloss: float, ctx: _SomeMseContext) -> Array:
        """Return the gradient of the outputs; 0 where the target does not count."""
        ctx = _checks.context(ctx, _SomeMseContext)
        # loss = mse(outputs[counted], targets[counted])
        d = F.mse_backward(dloss, ctx.mse)
        doutputs = np.zeros(ctx.counted.shape, d.dtype)
        doutputs[ctx.counted] = d
        return doutputs

    def count(self, targets: Array) -> int:
        """Return how many targets are not NaN."""
        return int(np.count_nonzero(~np.isnan(_numbers(targets))))

    def metrics(self, outputs: Array, targets: Array) -> dict[str, float]:
        """Return nothing further."""
        return {}


def _numbers(targets: object) -> Array:
    """Return targets as an array of numbers of any kind."""
    array = _checks.any_array("targets", targets, "an array of numbers")
    if array.dtype.kind not in "biuf":
        raise TypeError(f"targets: expected an array of numbers, got {array.dtype.name}")
    return array
