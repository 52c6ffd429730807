"""Batch normalisation: ``batch_norm`` and its pair."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from miniattn import _checks
from miniattn._context import context
from miniattn._memory import zeros
from miniattn._typing import AFFINE, AffineInput, Array
from miniattn.functional._norm import LayerNormContext, layer_norm_backward, layer_norm_forward


class BatchNormGrads(NamedTuple):
    """Gradients of `batch_norm`; None where not needed, and for a bias not given."""

    dx: Array | None
    """(..., E), 0 in the padding."""
    dweight: Array | None
    """(E,)."""
    dbias: Array | None
    """(E,)."""


@context
class BatchNormContext(NamedTuple):
    """What `batch_norm_backward` needs: the features as rows, and how they were normalised."""

    shape: tuple[int, ...]
    mask: Array | None
    weight: Array
    has_bias: bool
    normalised: Array
    """(E, R): a row for each feature, of the R vectors that count."""
    rows: LayerNormContext

    def moments(self) -> tuple[Array, Array]:
        """Return mean and (biased) variance of each feature, both (E,) float64."""
        x = self.rows.x.astype(np.float64)
        if not x.size:
            return np.zeros(len(x)), np.zeros(len(x))
        mean = x.mean(axis=1)
        with np.errstate(over="ignore", invalid="ignore"):
            return mean, np.square(x - mean[:, None]).mean(axis=1)


def batch_norm(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    mask: Array | None = None,
    eps: float = 1e-5,
) -> Array:
    """Batch normalisation: y = (x − mean(x)) / √(var(x) + eps) · weight + bias, by features.

    Mean and (biased) variance of each feature are those over all vectors of x that count.

    Parameters
    ----------
    x, weight, bias
        As in `layer_norm`.
    mask : bool ndarray, shape (...), optional
        Which vectors count, e.g. the real steps of padded sequences (B, T). The others are in no
        mean, whatever they hold, and y is 0 there.
    eps : float
        Added to the variance, > 0.

    Returns
    -------
    ndarray, shape (..., E)

    Raises
    ------
    TypeError, ValueError
        As `layer_norm`; if ``mask`` is not bool or does not fit.

    Notes
    -----
    A feature is a row of the transposed x, and what is done to it is `layer_norm` of that row: the
    same kernel, right for numbers of any size. Backward by hand:
    ``docs/derivations/batch_norm.md``.

    References
    ----------
    Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
    Covariate Shift", arXiv:1502.03167, section 3 and algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> import miniattn.functional as F
    >>> x = np.array([[1.0, 5.0], [3.0, 5.0], [np.nan, 0.0]])
    >>> F.batch_norm(x, np.ones(2), mask=np.array([True, True, False])).round(2)
    array([[-1.,  0.],
           [ 1.,  0.],
           [ 0.,  0.]])
    """
    return batch_norm_forward(x, weight, bias, mask=mask, eps=eps)[0]


def batch_norm_forward(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    mask: Array | None = None,
    eps: float = 1e-5,
) -> tuple[Array, BatchNormContext]:
    """Return ``batch_norm(x, weight, bias)`` and the context for `batch_norm_backward`.

    ``ctx.moments()`` are mean and variance of each feature, e.g. for running statistics.
    The context holds weight and mask themselves: before the backward, write to a copy.
    """
    x = _checks.float_array("x", x)
    weight = _checks.float_array("weight", weight)
    bias = None if bias is None else _checks.float_array("bias", bias)
    _checks.same_dtype(x=x, weight=weight, bias=bias)
    _checks.shape("x", x, "..., E")
    _checks.shape("weight", weight, "E", {"E": x.shape[-1]})
    _checks.shape("bias", weight if bias is None else bias, "E", {"E": x.shape[-1]})
    mask = checked_mask(mask, x.shape[:-1])
    eps = _checks.positive("eps", eps)
    features = _gathered(x, mask)
    ones = np.ones(features.shape[1], x.dtype)
    normalised, rows = layer_norm_forward(features, ones, eps=eps)
    y = normalised * weight[:, None]
    y = y if bias is None else np.add(y, bias[:, None], out=y)
    ctx = BatchNormContext(x.shape, mask, weight, bias is not None, normalised, rows)
    return _scattered(y, x.shape, mask), ctx


def batch_norm_backward(
    dy: Array, ctx: BatchNormContext, *, needs: Sequence[AffineInput] = AFFINE
) -> BatchNormGrads:
    """Return ``(dx, dweight, dbias)``; None where not needed, and for a bias not given.

    ``needs`` names the inputs whose gradients are wanted: all of ``("x", "weight", "bias")``.
    With x̂ = (x − mean) · rstd, sums and means over the R vectors that count:

    - dx = weight · rstd · (dy − mean(dy) − x̂ · mean(dy · x̂)), shape (..., E)
    - dweight = Σ dy · x̂, shape (E,)
    - dbias = Σ dy, shape (E,)
    """
    ctx = _checks.context(ctx, BatchNormContext)
    of_x, of_weight, of_bias = _checks.needs(needs, AFFINE)
    dy = _gathered(_checks.gradient("dy", dy, ctx.shape, ctx.weight.dtype), ctx.mask)
    dx = None
    if of_x:
        drows = layer_norm_backward(dy, ctx.rows, needs=("x",)).dx
        assert drows is not None  # it was asked for
        dx = _scattered(drows * ctx.weight[:, None], ctx.shape, ctx.mask)
    wide = dy.astype(np.float64)
    dtype = ctx.weight.dtype
    return BatchNormGrads(
        dx,
        (wide * ctx.normalised).sum(axis=1).astype(dtype) if of_weight else None,
        wide.sum(axis=1).astype(dtype) if of_bias and ctx.has_bias else None,
    )


def checked_mask(mask: Array | None, shape: tuple[int, ...]) -> Array | None:
    """Return which vectors count, (...) bool, checked."""
    if mask is None:
        return None
    mask = _checks.bool_array("mask", mask)
    if mask.shape != shape:
        raise ValueError(f"mask: expected shape {shape}, that of x without E, got {mask.shape}")
    return mask


def _gathered(x: Array, mask: Array | None) -> Array:
    """Return the features of the vectors that count as rows, (E, R)."""
    vectors = x[mask] if mask is not None else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return np.ascontiguousarray(vectors.T)


def _scattered(features: Array, shape: tuple[int, ...], mask: Array | None) -> Array:
    """Undo `_gathered`; what does not count is 0."""
    y = zeros(shape, features.dtype)
    if mask is None:
        y.reshape(features.shape[::-1])[...] = features.T
    else:
        y[mask] = features.T
    return y
