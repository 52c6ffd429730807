"""Cross-entropy of a linear map, whose logits never exist all at once: `linear_cross_entropy`.

Of a vocabulary of V words the logits of R tokens are R x V numbers, and so is their gradient:
50,257 words and 1,024 tokens make 206 MB of each. Here both directions walk over runs of words.
Forward keeps of each row what the online softmax keeps, its maximum and the sum of its
exponentials; backward makes the logits of a run once more, and turns them into its part of the
gradients.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from miniattn import _checks
from miniattn._context import context
from miniattn._memory import empty, empty_like, zeros
from miniattn._typing import AFFINE, AffineInput, Array
from miniattn.functional._arrays import rows
from miniattn.functional._axes import slopes
from miniattn.functional._linear import LinearGrads, checked_parameters, sum_rows
from miniattn.functional._loss import checked_scalar, count_targets, mean_of
from miniattn.functional._product import Sum, product, products
from miniattn.functional._rows import run_rows
from miniattn.kernels.rows import loss as kernels

ELEMENTS = 2**20  # logits of a run: they stay in the cache from the product to what reads them
LEAST = 256  # words of a run, with which a product is still at its speed
GROUP = 64  # runs are whole groups of words, but for the last
_NEVER = -(2**62)  # no target, as a target to be ignored


@context
class LinearCrossEntropyContext(NamedTuple):
    """What `linear_cross_entropy_backward` needs: softmax(z) is exp((z − top) − log_sum)."""

    x: Array
    weight: Array
    bias: Array | None
    """What was added to the logits."""
    targets: Array
    top: Array
    """(rows that count,): their largest logit; in float64 where float32 could not hold logits."""
    log_sum: Array
    """(rows that count,): the logarithm of the sum of exp(z − top)."""
    ignore_index: int
    label_smoothing: float


def linear_cross_entropy(
    x: Array,
    weight: Array,
    targets: Array,
    *,
    bias: Array | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> np.floating:
    """Cross-entropy of a linear map: ``cross_entropy(x · weightᵀ + bias, targets)``.

    In memory of O(R) beside its arguments and their gradients for R rows: of the (R, V) logits only
    a run of words exists at a time.

    Parameters
    ----------
    x : ndarray, shape (..., E)
        float32 or float64.
    weight : ndarray, shape (V, E)
        Row v makes the logit of class v, as in `linear`.
    targets : ndarray of int, shape (...)
        Classes in [0, V), or ``ignore_index`` for rows that do not count.
    bias : ndarray, shape (V,), optional
    ignore_index : int
        Such rows are left out of the mean and have gradient 0, whatever they hold.
    label_smoothing : float
        ε in [0, 1]: targets are 1 − ε at their class and ε/V everywhere.

    Returns
    -------
    numpy scalar
        The mean over the counted rows, in the dtype of ``x``; 0.0 if no row counts.

    Raises
    ------
    TypeError
        If ``x``, ``weight`` and ``bias`` are not float32 or float64 alike, or ``targets`` not int.
    ValueError
        If the shapes do not fit, or a target is no class.

    Notes
    -----
    Forward takes one product of R x E x V multiply-adds, backward three: it makes the logits once
    more. Sums over words are added up run by run, so that results differ from those of the two
    operations in their last bits; they are the same for any number of threads. Where float32
    cannot hold a logit, the call is done once more in float64. Backward by hand:
    ``docs/derivations/linear_cross_entropy.md``.

    References
    ----------
    Milakov, Gimelshein. "Online normalizer calculation for softmax" (2018), algorithm 3.
    Wijmans et al. "Cut Your Losses in Large-Vocabulary Language Models" (2024), section 4.

    Examples
    --------
    >>> import numpy as np
    >>> import miniattn.functional as F
    >>> rng = np.random.default_rng(0)
    >>> x, weight = rng.standard_normal((4, 8)), rng.standard_normal((1000, 8))
    >>> targets = np.array([3, 1, 999, -100])
    >>> loss = F.linear_cross_entropy(x, weight, targets)
    >>> bool(np.isclose(loss, F.cross_entropy(F.linear(x, weight), targets)))
    True
    """
    return linear_cross_entropy_forward(
        x,
        weight,
        targets,
        bias=bias,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )[0]


@np.errstate(all="ignore")  # NaN and infinity travel on silently, as through the kernels
def linear_cross_entropy_forward(
    x: Array,
    weight: Array,
    targets: Array,
    *,
    bias: Array | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> tuple[np.floating, LinearCrossEntropyContext]:
    """Return ``linear_cross_entropy(x, weight, targets)`` and the context for its backward.

    The context holds x, weight, bias and targets themselves: before the backward, write to a copy.
    """
    x = _checks.float_array("x", x)
    _checks.shape("x", x, "..., E")
    weight, bias = checked_parameters(x, weight, bias)
    targets = _checks.int_array("targets", targets)
    if targets.shape != x.shape[:-1]:
        raise ValueError(
            f"targets: expected the shape of x without its last axis, got {targets.shape} for "
            f"x {x.shape}"
        )
    ignore_index = _checks.integer("ignore_index", ignore_index)
    label_smoothing = _checks.share("label_smoothing", label_smoothing)
    count_targets(targets, len(weight), ignore_index)

    kept = _counted(x, weight, bias, targets, ignore_index)
    loss, top, log_sum = _loss_of(kept, label_smoothing)
    if x.dtype == np.float32 and not np.isfinite(loss):  # logits may be what float32 cannot hold
        loss, top, log_sum = _loss_of(_in_doubles(kept), label_smoothing)
    ctx = LinearCrossEntropyContext(
        x, weight, bias, targets, top, log_sum, ignore_index, label_smoothing
    )
    return x.dtype.type(loss), ctx


@np.errstate(all="ignore")
def linear_cross_entropy_backward(
    dloss: float, ctx: LinearCrossEntropyContext, *, needs: Sequence[AffineInput] = AFFINE
) -> LinearGrads:
    """Return ``(dx, dweight, dbias)``; None where not needed, and for a bias not given.

    ``needs`` names the inputs whose gradients are wanted: all of ``("x", "weight", "bias")``. With
    dz = (softmax(z) − t) · dloss / count for z = x · weightᵀ + bias, taken run by run:

    - dx = dz · weight, 0 in rows that do not count
    - dweight = dzᵀ · x
    - dbias = Σ over rows of dz
    """
    ctx = _checks.context(ctx, LinearCrossEntropyContext)
    of_x, of_weight, of_bias = _checks.needs(needs, AFFINE)
    kept = _counted(ctx.x, ctx.weight, ctx.bias, ctx.targets, ctx.ignore_index)
    if ctx.top.dtype != ctx.x.dtype:
        kept = _in_doubles(kept)
    scale = checked_scalar("dloss", dloss) / max(len(kept.targets), 1)
    dx = np.zeros_like(kept.x)
    dweight = zeros(kept.weight.shape, ctx.x.dtype) if of_weight else None
    dbias = zeros(len(kept.weight), ctx.x.dtype) if of_bias and ctx.bias is not None else None
    for start, stop in _runs(kept):
        # loss = mean(cross_entropy(z))
        dz = _dlogits(ctx, kept, start, stop, scale)
        # z = x · weightᵀ + bias
        run = kept.weight[start:stop]
        sums = [Sum(((dz, run),), dx if start else None)] if of_x else []
        if dweight is not None:
            sums.append(Sum(((dz.T, kept.x),)))
        results = products(*sums) if sums else []
        if of_x:
            dx = results[0]
        if dweight is not None:
            dweight[start:stop] = results[-1]
        if dbias is not None:
            dbias[start:stop] = sum_rows(dz)
    return LinearGrads(_spread(dx, ctx) if of_x else None, dweight, dbias)


class _Counted(NamedTuple):
    """The linear map, and the rows that count: what the others hold is not even read."""

    x: Array
    weight: Array
    bias: Array | None
    targets: Array


def _counted(
    x: Array, weight: Array, bias: Array | None, targets: Array, ignore_index: int
) -> _Counted:
    """Return what is to be worked on."""
    x, targets = rows(x), np.ascontiguousarray(targets).reshape(-1)
    counts = targets != ignore_index
    if not counts.all():
        x, targets = x[counts], targets[counts]
    return _Counted(x, weight, bias, targets)


def _in_doubles(kept: _Counted) -> _Counted:
    """Return the same in float64, for logits that float32 cannot hold."""
    x, weight, bias, targets = kept
    bias = None if bias is None else bias.astype(np.float64)
    return _Counted(x.astype(np.float64), weight.astype(np.float64), bias, targets)


def _spread(dx: Array, ctx: LinearCrossEntropyContext) -> Array:
    """Return the gradient of x, of which ``dx`` are the rows that count."""
    if len(dx) == ctx.targets.size:
        return dx.reshape(ctx.x.shape).astype(ctx.x.dtype, copy=False)
    spread = np.zeros_like(ctx.x, order="C")
    spread[ctx.targets != ctx.ignore_index] = dx
    return spread


def _runs(kept: _Counted) -> Iterator[tuple[int, int]]:
    """Return where runs of words begin and end, by the shapes alone; none where no row counts."""
    count, words = len(kept.targets), len(kept.weight)
    if count:
        step = max(LEAST, ELEMENTS // count // GROUP * GROUP)
        for start in range(0, words, step):
            yield start, min(start + step, words)


def _logits(kept: _Counted, start: int, stop: int) -> Array:
    """Return the logits of a run of words."""
    add = None if kept.bias is None else kept.bias[start:stop]
    return product(kept.x, kept.weight[start:stop].T, add=add)


def _loss_of(kept: _Counted, smoothing: float) -> tuple[np.floating, Array, Array]:
    """Return the loss, and top and log_sum of each row."""
    above = _Above(len(kept.targets))
    for start, stop in _runs(kept):
        z = _logits(kept, start, stop)
        top, total = empty((2, len(z)), z.dtype)
        run_rows(kernels.tops_and_totals, z, slopes(1.0, z.dtype)[1:], (z, top, total))
        above.include(top, total)
        above.choose(z, kept.targets - start)
        if smoothing > 0:
            above.add(z, 1 / len(kept.weight))
    dtype = kept.x.dtype
    loss = mean_of(above.losses(smoothing), len(kept.targets), dtype)
    return loss, above.top.astype(dtype), np.log(above.total).astype(dtype)


def _dlogits(
    ctx: LinearCrossEntropyContext, kept: _Counted, start: int, stop: int, scale: float
) -> Array:
    """Return their gradient, ``(softmax(z) − t) · scale``."""
    z = _logits(kept, start, stop)
    dz = empty_like(z)
    run_rows(
        kernels.cross_entropy_backward,
        z,
        (*slopes(1.0, z.dtype)[1:], ctx.label_smoothing, scale, float(len(ctx.weight))),
        (z, kept.targets - start, dz, ctx.top, ctx.log_sum),
        _NEVER,
    )
    return dz


class _Above:
    """What is known of the logits of each row so far, in float64.

    ``top = max_j z_j`` and ``total = Σ_j exp(z_j − top)`` as in the online softmax; ``target``, the
    logit of the row's class; and ``mean = Σ_j (z_j − origin) / V``. The origin is the first run's
    maximum: the mean of logits far from 0 would lose what they differ by.
    """

    def __init__(self, count: int) -> None:
        self.top = np.full(count, -np.inf)
        self.total, self.target, self.mean = np.zeros((3, count))
        self.origin = np.zeros((count, 1))
        self.begun = False

    def include(self, top: Array, total: Array) -> None:
        """Put the maxima and sums of another run to those before."""
        new = np.maximum(self.top, top.astype(np.float64))
        base = np.where(new == -np.inf, 0, new)  # -inf - (-inf) is NaN
        self.total = self.total * np.exp(self.top - base) + total * np.exp(top - base)
        self.top = new
        if not self.begun:
            self.origin, self.begun = np.where(np.isfinite(new), new, 0)[:, None], True

    def choose(self, z: Array, targets: Array) -> None:
        """Remember the logits of targets that are among these words, counted from their first."""
        inside = np.flatnonzero((targets >= 0) & (targets < z.shape[1]))
        self.target[inside] = z[inside, targets[inside]]

    def add(self, z: Array, share: float) -> None:
        """Add the share that these words have in the mean."""
        self.mean += ((z.astype(np.float64) - self.origin) * share).sum(axis=1)

    def losses(self, smoothing: float) -> Array:
        """Return the loss of each row."""
        losses: Array = np.log(self.total)
        if smoothing < 1:  # else 0 · ∞ where the target's logit is −∞
            losses -= (1 - smoothing) * (self.target - self.top)
        if smoothing > 0:
            losses -= smoothing * (self.mean - (self.top - self.origin[:, 0]))
        return np.where(self.total == 0, np.inf, losses)  # nothing to choose from
