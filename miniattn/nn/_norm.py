"""Normalisation: LayerNorm and RMSNorm over the last axis, BatchNorm over all the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike

import miniattn.functional as F
from miniattn import _checks
from miniattn._typing import AffineInput, Array
from miniattn.nn._module import Module, inferring
from miniattn.nn._parameter import Parameter, Statistics

_NOT_KEPT: Any = None
"""The context of an inference call, which has no backward."""


class LayerNorm(Module):
    """Layer normalisation: y = (x − mean) / √(variance + eps) · weight + bias, over the last axis.

    Parameters
    ----------
    embed_dim : int
        Size E of the last axis.
    eps : float
        Added to the variance.
    bias : bool
        Whether to add a bias.
    dtype : float32 or float64

    Attributes
    ----------
    weight : Parameter, shape (E,)
        Starts at 1.
    bias : Parameter, shape (E,), or None
        Starts at 0.

    References
    ----------
    Ba, Kiros & Hinton, "Layer Normalization", 2016, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> nn.LayerNorm(4)(np.array([[1, 2, 3, 4]], np.float32)).round(2)
    array([[-1.34, -0.45,  0.45,  1.34]], dtype=float32)
    """

    _live = ("eps",)

    def __init__(
        self,
        embed_dim: int,
        *,
        eps: float = 1e-5,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
    ) -> None:
        size = _checks.integer("embed_dim", embed_dim, least=1)
        self.eps = _checks.positive("eps", eps)
        dtype = _checks.float_dtype("dtype", dtype)
        self.weight = Parameter(np.ones(size, dtype))
        self.bias = Parameter(np.zeros(size, dtype)) if _checks.flag("bias", bias) else None

    def forward(
        self, x: Array, *, rng: np.random.Generator | None = None
    ) -> tuple[Array, F.LayerNormContext]:
        """Return (y, ctx), both x and y (..., E)."""
        x = _checks.layer_input("x", x, self.weight.size, self.weight.dtype)
        bias = None if self.bias is None else self.bias.data
        return F.layer_norm_forward(x, self.weight.data, bias, eps=self.eps)

    def backward(self, dy: Array, ctx: F.LayerNormContext) -> Array:
        """Return dx (..., E)."""
        # y = (x − mean) / √(variance + eps) · weight + bias
        needs: list[AffineInput] = ["x"]
        if self.weight.trainable:
            needs.append("weight")
        if self.bias is not None and self.bias.trainable:
            needs.append("bias")
        dx, dweight, dbias = F.layer_norm_backward(dy, ctx, needs=needs)
        self.weight.accumulate(dweight)
        if self.bias is not None:
            self.bias.accumulate(dbias)
        assert dx is not None  # it was asked for
        return dx

    def describe(self) -> str:
        """Return e.g. ``"64"``."""
        return f"{self.weight.size}" + ("" if self.bias is not None else ", no bias")


class BatchNorm(Module):
    """Batch normalisation: y = (x − mean) / √(variance + eps) · weight + bias, by features.

    ``layer.forward(x)`` takes mean and variance of the batch, over all vectors but padding;
    an inference call, ``layer(x)`` or ``model(x)`` of a model that it is in, the running ones.

    Parameters
    ----------
    embed_dim, eps, bias, dtype
        As in `LayerNorm`.
    momentum : float
        How far one batch moves the running statistics: running ← (1 − m) · running + m · batch.

    Attributes
    ----------
    weight, bias
        As in `LayerNorm`.
    mean, variance : Statistics, shape (E,)
        The running ones, part of the state; start at 0 and 1.

    Notes
    -----
    A forward leaves no trace in the module. The running statistics move in ``backward``, which is
    where a module is written to anyway: once for each backward, of a layer whose weight is
    trainable. That of the batch is its unbiased variance, R / (R − 1) times the one that x is
    divided by.

    References
    ----------
    Ioffe & Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
    Covariate Shift", ICML 2015, section 3 and algorithm 2; for sequences,
    Zerveas et al., "A Transformer-based Framework for Multivariate Time Series Representation
    Learning", KDD 2021, section 3.1.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> norm = nn.BatchNorm(1, momentum=0.5)
    >>> x = np.array([[[1], [3], [99]]], np.float32)
    >>> y, ctx = norm.forward(x, lengths=[2])
    >>> y[0, :, 0].round(2)
    array([-1.,  1.,  0.], dtype=float32)
    >>> dx = norm.backward(np.ones_like(y), ctx)
    >>> norm.mean.data, norm.variance.data
    (array([1.], dtype=float32), array([1.5], dtype=float32))
    """

    _live = ("eps", "momentum")

    def __init__(
        self,
        embed_dim: int,
        *,
        eps: float = 1e-5,
        momentum: float = 0.1,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
    ) -> None:
        size = _checks.integer("embed_dim", embed_dim, least=1)
        self.eps = _checks.positive("eps", eps)
        self.momentum = _checks.share("momentum", momentum)
        dtype = _checks.float_dtype("dtype", dtype)
        self.weight = Parameter(np.ones(size, dtype))
        self.bias = Parameter(np.zeros(size, dtype)) if _checks.flag("bias", bias) else None
        self.mean, self.variance = (
            Statistics(np.zeros(size, dtype)),
            Statistics(np.ones(size, dtype)),
        )

    def forward(
        self,
        x: Array,
        *,
        lengths: Sequence[int] | Array | None = None,
        rng: np.random.Generator | None = None,
    ) -> tuple[Array, F.BatchNormContext]:
        """Return (y, ctx), both x and y (..., E).

        With ``lengths`` (B,), x is (B, T, E), and what lies beyond is padding: it is in no mean,
        and 0 in y.
        """
        x = _checks.layer_input("x", x, self.weight.size, self.weight.dtype)
        mask = None if lengths is None else _real_steps(x, lengths)
        bias = None if self.bias is None else self.bias.data
        if inferring():
            return self._by_running(x, mask), _NOT_KEPT
        return F.batch_norm_forward(x, self.weight.data, bias, mask=mask, eps=self.eps)

    def backward(self, dy: Array, ctx: F.BatchNormContext) -> Array:
        """Return dx (..., E), and move the running statistics."""
        # y = (x − mean) / √(variance + eps) · weight + bias
        dx, dweight, dbias = F.batch_norm_backward(dy, ctx)
        self.weight.accumulate(dweight)
        if self.bias is not None:
            self.bias.accumulate(dbias)
        if self.weight.trainable:
            self._move(ctx)
        assert dx is not None  # it was asked for
        return dx

    def describe(self) -> str:
        """Return e.g. ``"64"``."""
        return f"{self.weight.size}" + ("" if self.bias is not None else ", no bias")

    def _by_running(self, x: Array, mask: Array | None) -> Array:
        scale = self.weight.data / np.sqrt(self.variance.data.astype(np.float64) + self.eps)
        y = (x - self.mean.data) * scale
        y = y if self.bias is None else y + self.bias.data
        y = y if mask is None else np.where(mask[..., None], y, 0)
        return y.astype(x.dtype)

    def _move(self, ctx: F.BatchNormContext) -> None:
        count = ctx.normalised.shape[1]
        if not count:
            return
        mean, variance = ctx.moments()
        pairs = ((self.mean, mean), (self.variance, variance * count / max(count - 1, 1)))
        for running, batch in pairs:
            running.data[...] = (1 - self.momentum) * running.data + self.momentum * batch


def _real_steps(x: Array, lengths: Sequence[int] | Array) -> Array:
    """Return which steps of x (B, T, E) are real, (B, T) bool."""
    _checks.shape("x", x, "B, T, E")
    count = _checks.int_array("lengths", lengths)
    _checks.shape("lengths", count, "B", {"B": len(x)})
    if count.min(initial=0) < 0 or count.max(initial=0) > x.shape[1]:
        raise ValueError(f"lengths: expected numbers in [0, T = {x.shape[1]}], got {lengths}")
    return np.asarray(np.arange(x.shape[1]) < count[:, None])


class RMSNorm(Module):
    """Root-mean-square normalisation: y = x / √(mean(x²) + eps) · weight, over the last axis.

    Parameters
    ----------
    embed_dim : int
        Size E of the last axis.
    eps : float
        Added to the mean square.
    dtype : float32 or float64

    Attributes
    ----------
    weight : Parameter, shape (E,)
        Starts at 1.

    References
    ----------
    Zhang & Sennrich, "Root Mean Square Layer Normalization", 2019, section 4.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> nn.RMSNorm(2)(np.array([[3, 4]], np.float32)).round(2)
    array([[0.85, 1.13]], dtype=float32)
    """

    _live = ("eps",)

    def __init__(self, embed_dim: int, *, eps: float = 1e-6, dtype: DTypeLike = np.float32) -> None:
        self.eps = _checks.positive("eps", eps)
        size = _checks.integer("embed_dim", embed_dim, least=1)
        self.weight = Parameter(np.ones(size, _checks.float_dtype("dtype", dtype)))

    def forward(
        self, x: Array, *, rng: np.random.Generator | None = None
    ) -> tuple[Array, F.RmsNormContext]:
        """Return (y, ctx), both x and y (..., E)."""
        x = _checks.layer_input("x", x, self.weight.size, self.weight.dtype)
        return F.rms_norm_forward(x, self.weight.data, eps=self.eps)

    def backward(self, dy: Array, ctx: F.RmsNormContext) -> Array:
        """Return dx (..., E)."""
        # y = x / √(mean(x²) + eps) · weight
        needs: tuple[Literal["x", "weight"], ...] = ("x",)
        if self.weight.trainable:
            needs = ("x", "weight")
        dx, dweight = F.rms_norm_backward(dy, ctx, needs=needs)
        self.weight.accumulate(dweight)
        assert dx is not None  # it was asked for
        return dx

    def describe(self) -> str:
        """Return e.g. ``"64"``."""
        return f"{self.weight.size}"
