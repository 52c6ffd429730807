"""Normalisation of the last axis: ``layer_norm``, ``rms_norm`` and their pairs."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from miniattn import _checks
from miniattn._context import context
from miniattn._memory import empty
from miniattn._typing import AFFINE, AffineInput, Array
from miniattn.functional._arrays import kernel_input, rows
from miniattn.functional._rows import run_rows
from miniattn.kernels.rows import columns, norm

RmsNormInput: TypeAlias = Literal["x", "weight"]
_RMS_NORM_INPUTS: tuple[RmsNormInput, ...] = ("x", "weight")


class LayerNormGrads(NamedTuple):
    """Gradients of `layer_norm`; None where not needed, and for a bias not given."""

    dx: Array | None
    """(..., E)."""
    dweight: Array | None
    """(E,)."""
    dbias: Array | None
    """(E,)."""


@context
class LayerNormContext(NamedTuple):
    """What `layer_norm_backward` needs: inputs, and mean and 1/std of every row (2, R).

    1/std has a minus sign where the row is one of those that are computed with more care: see
    `layer_norm`.
    """

    x: Array
    weight: Array
    moments: Array
    has_bias: bool
    eps: float


def layer_norm(x: Array, weight: Array, bias: Array | None = None, *, eps: float = 1e-5) -> Array:
    """Layer normalisation: y = (x − mean(x)) / √(var(x) + eps) · weight + bias.

    Mean and (biased) variance are those of each row along the last axis.

    Parameters
    ----------
    x : ndarray, shape (..., E)
        float32 or float64.
    weight : ndarray, shape (E,)
        The gain.
    bias : ndarray, shape (E,), optional
    eps : float
        Added to the variance, > 0.

    Returns
    -------
    ndarray, shape (..., E)
        Each row with mean 0 and variance 1 before gain and bias.

    Raises
    ------
    TypeError
        If an argument is not float32 or float64, or the dtypes differ.
    ValueError
        If the shapes do not fit or ``eps`` is not positive.

    Notes
    -----
    The variance is the mean of the squared distances from the mean, not E[x²] − E[x]²,
    which cancels where the mean is large. Rows with a mean of more than 4 standard deviations, or
    with numbers whose squares overflow or vanish, are read in units and from an origin of their
    own: equal numbers give exactly 0, and no size of x is too large or too small. Backward by
    hand: ``docs/derivations/layer_norm.md``.

    References
    ----------
    Ba, Kiros and Hinton, "Layer Normalization", arXiv:1607.06450, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> import miniattn.functional as F
    >>> F.layer_norm(np.array([[1.0, 2.0, 3.0]]), np.ones(3)).round(4)
    array([[-1.2247,  0.    ,  1.2247]])
    """
    return layer_norm_forward(x, weight, bias, eps=eps)[0]


def layer_norm_forward(
    x: Array, weight: Array, bias: Array | None = None, *, eps: float = 1e-5
) -> tuple[Array, LayerNormContext]:
    """Return ``layer_norm(x, weight, bias)`` and the context for `layer_norm_backward`.

    The context holds x and weight themselves: before the backward, write to a copy.
    """
    x, weight, bias, eps = _check(x, weight, bias, eps)
    y, moments = _forward(x, weight, bias, eps, centred=True)
    return y, LayerNormContext(x, weight, moments, bias is not None, eps)


def layer_norm_backward(
    dy: Array, ctx: LayerNormContext, *, needs: Sequence[AffineInput] = AFFINE
) -> LayerNormGrads:
    """Return ``(dx, dweight, dbias)``; None where not needed, and for a bias not given.

    ``needs`` names the inputs whose gradients are wanted: all of ``("x", "weight", "bias")``.
    With x̂ = (x − mean) · rstd and g = dy · weight:

    - dx = rstd · (g − mean(g) − x̂ · mean(g · x̂)), means along the row, shape (..., E)
    - dweight = Σ over rows of dy · x̂, shape (E,)
    - dbias = Σ over rows of dy, shape (E,)
    """
    x, weight, moments, has_bias, eps = _checks.context(ctx, LayerNormContext)
    of_x, of_weight, of_bias = _checks.needs(needs, AFFINE)
    dx, dweight, dbias = _backward(dy, x, weight, moments, eps, centred=True)
    return LayerNormGrads(
        dx if of_x else None,
        dweight if of_weight else None,
        dbias if of_bias and has_bias else None,
    )


class RmsNormGrads(NamedTuple):
    """Gradients of `rms_norm`; None where not needed."""

    dx: Array | None
    """(..., E)."""
    dweight: Array | None
    """(E,)."""


@context
class RmsNormContext(NamedTuple):
    """What `rms_norm_backward` needs: inputs, and 0 and 1/rms of every row (2, R).

    1/rms has a minus sign where squares of the row are no numbers of its dtype.
    """

    x: Array
    weight: Array
    moments: Array
    eps: float


def rms_norm(x: Array, weight: Array, *, eps: float = 1e-6) -> Array:
    """Root mean square normalisation: y = x / √(mean(x²) + eps) · weight.

    The mean is that of each row along the last axis.

    Parameters
    ----------
    x, weight
        As in `layer_norm`.
    eps : float
        Added to the mean square, > 0.

    Returns
    -------
    ndarray, shape (..., E)

    Raises
    ------
    TypeError, ValueError
        As `layer_norm`.

    Notes
    -----
    Rows with numbers whose squares overflow or vanish are computed in units of their own. Backward
    by hand: ``docs/derivations/rms_norm.md``.

    References
    ----------
    Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> import miniattn.functional as F
    >>> F.rms_norm(np.array([[3.0, 4.0]]), np.ones(2)).round(4)
    array([[0.8485, 1.1314]])
    """
    return rms_norm_forward(x, weight, eps=eps)[0]


def rms_norm_forward(x: Array, weight: Array, *, eps: float = 1e-6) -> tuple[Array, RmsNormContext]:
    """Return ``rms_norm(x, weight)`` and the context for `rms_norm_backward`.

    The context holds x and weight themselves: before the backward, write to a copy.
    """
    x, weight, _, eps = _check(x, weight, None, eps)
    y, moments = _forward(x, weight, None, eps, centred=False)
    return y, RmsNormContext(x, weight, moments, eps)


def rms_norm_backward(
    dy: Array, ctx: RmsNormContext, *, needs: Sequence[RmsNormInput] = _RMS_NORM_INPUTS
) -> RmsNormGrads:
    """Return ``(dx, dweight)``; None where not needed.

    ``needs`` names the inputs whose gradients are wanted: both of ``("x", "weight")``.
    With x̂ = x · rrms and g = dy · weight:

    - dx = rrms · (g − x̂ · mean(g · x̂)), the mean along the row, shape (..., E)
    - dweight = Σ over rows of dy · x̂, shape (E,)
    """
    x, weight, moments, eps = _checks.context(ctx, RmsNormContext)
    of_x, of_weight = _checks.needs(needs, _RMS_NORM_INPUTS)
    dx, dweight, _ = _backward(dy, x, weight, moments, eps, centred=False)
    return RmsNormGrads(dx if of_x else None, dweight if of_weight else None)


def _forward(
    x: Array, weight: Array, bias: Array | None, eps: float, *, centred: bool
) -> tuple[Array, Array]:
    """Return y, and for every row the mean (0 unless ``centred``) and 1 / deviation, (2, R)."""
    y = empty(x.shape, x.dtype)
    x_rows = rows(x)
    moments = empty((2, x_rows.shape[0]), x.dtype)
    offset = np.zeros(x.shape[-1], x.dtype) if bias is None else kernel_input(bias)
    operands = x_rows, kernel_input(weight), offset, y, moments
    run_rows(norm.forward, x_rows, (eps,), operands, centred)
    return y, moments


def _backward(
    dy: Array, x: Array, weight: Array, moments: Array, eps: float, *, centred: bool
) -> tuple[Array, Array, Array]:
    """Return dx, dweight and dbias."""
    dy = kernel_input(_checks.gradient("dy", dy, x.shape, x.dtype))
    x_rows = rows(x)
    count, n = x_rows.shape
    dx = empty(x.shape, x.dtype)
    share = columns.rows_per_task(count)
    sums = np.empty((-(-count // share), 4, n))
    operands = dy, x_rows, kernel_input(weight), moments, dx, sums
    run_rows(norm.backward, x_rows, (eps,), operands, centred, share=share)
    parts = sums[:, :2]
    dweight, dbias = (parts[0] if len(parts) == 1 else np.add.reduce(parts)).astype(x.dtype)
    return dx, dweight, dbias


def _check(
    x: Array, weight: Array, bias: Array | None, eps: float
) -> tuple[Array, Array, Array | None, float]:
    """Return the arguments of a normalisation, checked."""
    x = _checks.float_array("x", x)
    weight = _checks.float_array("weight", weight)
    bias = None if bias is None else _checks.float_array("bias", bias)
    _checks.same_dtype(x=x, weight=weight, bias=bias)
    if x.ndim == 0 or any(a is not None and a.shape != x.shape[-1:] for a in (weight, bias)):
        _checks.shape("x", x, "..., E")
        _checks.shape("weight", weight, "E", {"E": x.shape[-1]})
        _checks.shape("bias", weight if bias is None else bias, "E", {"E": x.shape[-1]})
    return x, weight, bias, _checks.positive("eps", eps)
