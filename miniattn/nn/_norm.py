"""Normalisation over the last axis: LayerNorm and RMSNorm."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import DTypeLike

import miniattn.functional as F
from miniattn import _checks
from miniattn._typing import AffineInput, Array
from miniattn.nn._module import Module, Parameter


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
