"""Losses: ``cross_entropy`` fused with its softmax, ``mse``, and their pairs."""

import math
from typing import NamedTuple

import numpy as np

from miniattn import _checks
from miniattn._context import context
from miniattn._memory import empty
from miniattn._typing import Array
from miniattn.functional._arrays import kernel_input, rows
from miniattn.functional._axes import slopes
from miniattn.functional._rows import run_rows
from miniattn.functional._weighted_loss import (
    WeightedCrossEntropyContext,
    checked_probabilities,
    checked_weights,
    weighted_backward,
    weighted_forward,
)
from miniattn.kernels.rows import loss as kernels


@context
class CrossEntropyContext(NamedTuple):
    """What `cross_entropy_backward` needs: the softmax is exp(logits − top − log_sum)."""

    logits: Array
    targets: Array
    top: Array
    log_sum: Array
    counted: int
    ignore_index: int
    label_smoothing: float


def cross_entropy(
    logits: Array,
    targets: Array,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    class_weights: Array | None = None,
) -> np.floating:
    """Mean cross-entropy of class scores: loss = mean(−Σ_j t_j log softmax(logits)_j).

    t is 1 − ε + ε/N at the target class and ε/N elsewhere, with ε = ``label_smoothing``; or
    (1 − ε) · targets + ε/N where these are probabilities.

    Parameters
    ----------
    logits : ndarray, shape (..., N)
        float32 or float64 scores of N classes.
    targets : ndarray of int, shape (...), or of float, shape (..., N)
        Classes in [0, N), or ``ignore_index`` for rows that do not count. Floats are target
        distributions, each of sum 1; they are not differentiated.
    ignore_index : int
        Such rows are left out of the mean and have gradient 0, whatever their logits hold.
    label_smoothing : float
        ε in [0, 1]; with 1 all classes count the same, whatever the target.
    class_weights : float array (N,), optional
        What each class counts: −Σ_j w_j t_j log softmax_j. The mean over rows of classes is then
        divided by the sum of w at the targets, that over probabilities by the number of rows, as
        PyTorch does.

    Returns
    -------
    numpy scalar
        The mean over the counted rows, in the dtype of ``logits``. If no row counts the loss is
        0.0 and so is every gradient (PyTorch gives NaN).

    Raises
    ------
    TypeError
        If ``logits`` is not float32 or float64, or ``targets`` neither integer nor float.
    ValueError
        If the shapes do not agree, a target is no class or no distribution, or a weight is
        negative.

    Notes
    -----
    Row losses are summed in float64 and in order. A row of logits that are all −inf has loss inf
    and gradient 0. Backward by hand: ``docs/derivations/cross_entropy.md``.

    References
    ----------
    Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016,
    section 7 (label smoothing).

    Examples
    --------
    >>> import numpy as np
    >>> import miniattn.functional as F
    >>> logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])
    >>> float(F.cross_entropy(logits, np.array([0, 1])).round(4))
    0.4581
    >>> float(F.cross_entropy(logits, np.array([0, -100])).round(4))
    0.6931
    """
    return cross_entropy_forward(
        logits,
        targets,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        class_weights=class_weights,
    )[0]


def cross_entropy_forward(
    logits: Array,
    targets: Array,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    class_weights: Array | None = None,
) -> tuple[np.floating, CrossEntropyContext | WeightedCrossEntropyContext]:
    """Return ``cross_entropy(logits, targets)`` and the context for `cross_entropy_backward`.

    The context holds logits and targets themselves: before the backward, write to a copy. With
    ``class_weights`` or probabilities it is a `WeightedCrossEntropyContext`, which holds an array
    of the logits' size.
    """
    logits = _checks.float_array("logits", logits)
    targets = _checks.any_array("targets", targets, "an array of classes or of probabilities")
    soft = targets.dtype.kind == "f" and targets.shape == logits.shape and logits.ndim > 0
    if soft:
        targets = checked_probabilities(_checks.float_array("targets", targets), logits)
    else:
        targets = _checks.int_array("targets", targets)
        if logits.ndim == 0 or targets.shape != logits.shape[:-1]:
            raise ValueError(
                "targets: expected the shape of logits without its last axis, "
                f"got {targets.shape} for logits {logits.shape}"
            )
    ignore_index = _checks.integer("ignore_index", ignore_index)
    label_smoothing = _checks.share("label_smoothing", label_smoothing)
    counted = 0 if soft else count_targets(targets, logits.shape[-1], ignore_index)
    if class_weights is not None:
        class_weights = checked_weights(class_weights, logits.shape[-1])
    if soft or class_weights is not None:
        return weighted_forward(logits, targets, class_weights, ignore_index, label_smoothing)

    logit_rows, target_rows = rows(logits), kernel_input(targets).reshape(-1)
    losses = empty(target_rows.size, np.float64)
    top, log_sum = empty((2, target_rows.size), logits.dtype)
    _, high, low = slopes(1.0, logits.dtype)
    run_rows(
        kernels.cross_entropy,
        logit_rows,
        (high, low, label_smoothing),
        (logit_rows, target_rows, losses, top, log_sum),
        ignore_index,
    )
    loss = mean_of(losses, counted, logits.dtype)
    ctx = CrossEntropyContext(logits, targets, top, log_sum, counted, ignore_index, label_smoothing)
    return loss, ctx


def cross_entropy_backward(
    dloss: float, ctx: CrossEntropyContext | WeightedCrossEntropyContext
) -> Array:
    """Return ``dlogits`` = (softmax(logits) − t) · dloss / counted, 0 in rows that do not count."""
    if isinstance(ctx, WeightedCrossEntropyContext):
        return weighted_backward(checked_scalar("dloss", dloss), ctx)
    ctx = _checks.context(ctx, CrossEntropyContext)
    scale = checked_scalar("dloss", dloss) / max(ctx.counted, 1)
    _, high, low = slopes(1.0, ctx.logits.dtype)
    logit_rows = rows(ctx.logits)
    dlogits = empty(ctx.logits.shape, ctx.logits.dtype)
    target_rows = kernel_input(ctx.targets).reshape(-1)
    run_rows(
        kernels.cross_entropy_backward,
        logit_rows,
        (high, low, ctx.label_smoothing, scale, float(ctx.logits.shape[-1])),
        (logit_rows, target_rows, dlogits, ctx.top, ctx.log_sum),
        ctx.ignore_index,
    )
    return dlogits


@context
class MseContext(NamedTuple):
    """What `mse_backward` needs: (pred − target) / unit; the unit is 1, of huge numbers 2."""

    difference: Array
    unit: float


def mse(pred: Array, target: Array) -> np.floating:
    """Mean squared error: loss = mean((pred − target)²).

    Parameters
    ----------
    pred, target : ndarray, shape (...)
        float32 or float64, equal in shape and dtype.

    Returns
    -------
    numpy scalar
        In the dtype of ``pred``; 0.0 for empty arrays.

    Raises
    ------
    TypeError
        If the dtypes are not float32 or float64, or differ.
    ValueError
        If the shapes differ.

    Notes
    -----
    The target is not differentiated. Backward by hand: ``docs/derivations/mse.md``.

    Examples
    --------
    >>> import numpy as np
    >>> import miniattn.functional as F
    >>> float(F.mse(np.array([1.0, 2.0]), np.array([1.0, 4.0])))
    2.0
    """
    return mse_forward(pred, target)[0]


def mse_forward(pred: Array, target: Array) -> tuple[np.floating, MseContext]:
    """Return ``mse(pred, target)`` and the context for `mse_backward`."""
    pred = _checks.float_array("pred", pred)
    target = _checks.float_array("target", target)
    _checks.same_dtype(pred=pred, target=target)
    if pred.shape != target.shape:
        raise ValueError(f"target: expected shape {pred.shape} like pred, got {target.shape}")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        difference, unit = np.asarray(pred - target), 1.0
        mean = np.square(difference).sum(dtype=np.float64) / max(pred.size, 1)
        if mean == np.inf:  # nearly never
            difference, unit = np.asarray(pred * 0.5 - target * 0.5), 2.0
            mean = _mean_of_squares(difference) * unit * unit
        return pred.dtype.type(mean), MseContext(difference, unit)


def mse_backward(dloss: float, ctx: MseContext) -> Array:
    """Return ``dpred`` = 2 (pred − target) · dloss / size."""
    difference, unit = _checks.context(ctx, MseContext)
    number = difference.dtype.type
    # Twice or four times: a shift of the exponent, made last because the factor may be huge.
    factor, power = math.frexp(checked_scalar("dloss", dloss) / max(difference.size, 1))
    if abs(power) < 100:
        return np.asarray(difference * number(math.ldexp(factor, power) * 2.0 * unit))
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(np.ldexp(difference * number(factor), power + int(unit)))


def _mean_of_squares(x: Array) -> float:
    """Return the mean of x² in a unit in which no square overflows."""
    largest = float(np.maximum.reduce(np.abs(x), axis=None))
    if not 0 < largest < np.inf:
        return largest
    return float(np.square(x / largest).mean(dtype=np.float64)) * largest * largest


def mean_of(losses: Array, counted: int, dtype: np.dtype[np.floating]) -> np.floating:
    """Return the mean of row losses over those that count, added up in float64 and in order."""
    with np.errstate(over="ignore"):  # infinite where the mean is no number of this dtype
        mean = np.add.reduce(losses) / max(counted, 1)
        if mean == np.inf:  # of the sum alone, or of the mean
            mean = np.add.reduce(losses / max(counted, 1))
        loss: np.floating = dtype.type(mean)
        return loss


def count_targets(targets: Array, classes: int, ignore_index: int) -> int:
    """Return how many rows count; raise ValueError for a target that is no class."""
    if targets.size == 0:
        return 0
    flat = targets.reshape(-1)
    least, most = int(np.minimum.reduce(flat)), int(np.maximum.reduce(flat))
    if least >= 0 and most < classes and not least <= ignore_index <= most:
        return targets.size  # nearly always, and a third of the work below
    ignored = targets == ignore_index
    wrong = ~ignored & ((targets < 0) | (targets >= classes))
    if wrong.any():
        where = np.unravel_index(int(wrong.argmax()), targets.shape)
        index = tuple(int(i) for i in where)
        raise ValueError(
            f"targets: expected classes in [0, N) with N = {classes}, or ignore_index = "
            f"{ignore_index}, got {int(targets[index])} at index {index}"
        )
    return int(targets.size - np.count_nonzero(ignored))


def checked_scalar(name: str, value: object) -> float:
    """Return a finite number; a 0-d array is one too."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    return _checks.number(name, value)
