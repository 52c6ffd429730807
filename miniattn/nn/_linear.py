"""The linear layer: y = x · weightᵀ + bias."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

import miniattn.functional as F
from miniattn import _checks
from miniattn._typing import Array
from miniattn.nn import _init
from miniattn.nn._module import Module
from miniattn.nn._parameter import Parameter


class Linear(Module):
    """A linear map of the last axis: y = x · weightᵀ + bias.

    Parameters
    ----------
    in_features, out_features : int
        Sizes of the last axis of x and of y.
    bias : bool
        Whether to add a bias.
    rng : numpy.random.Generator, optional
        Draws the weight; None is a fresh unseeded one.
    dtype : float32 or float64

    Attributes
    ----------
    weight : Parameter, shape (out_features, in_features)
        Starts as U(−a, a) with a = √(6 / (in + out)) [1]_.
    bias : Parameter, shape (out_features,), or None
        Starts at 0.

    References
    ----------
    .. [1] Glorot & Bengio, "Understanding the difficulty of training deep feedforward neural
       networks", AISTATS 2010, equation 16.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> layer = nn.Linear(3, 2, rng=np.random.default_rng(0))
    >>> y, ctx = layer.forward(np.ones((5, 3), np.float32))
    >>> dx = layer.backward(np.ones_like(y), ctx)
    >>> y.shape, dx.shape, layer.weight.grad.shape
    ((5, 2), (5, 3), (2, 3))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        rng: np.random.Generator | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        shape = (
            _checks.integer("out_features", out_features, least=1),
            _checks.integer("in_features", in_features, least=1),
        )
        self.weight = Parameter(_init.glorot_uniform(_init.generator(rng), shape, dtype))
        self.bias = Parameter(np.zeros(shape[0], dtype)) if _checks.flag("bias", bias) else None

    def forward(
        self, x: Array, *, rng: np.random.Generator | None = None
    ) -> tuple[Array, F.LinearContext]:
        """Return (y, ctx): x (..., in_features) to y (..., out_features)."""
        ((y, ctx),) = _forward([self], x)
        return y, ctx

    def backward(self, dy: Array, ctx: F.LinearContext) -> Array:
        """Return dx (..., in_features)."""
        # y = x · weightᵀ + bias
        return _backward([self], [dy], [ctx])

    def describe(self) -> str:
        """Return e.g. ``"3 -> 2"``."""
        out_features, in_features = self.weight.shape
        return f"{in_features} -> {out_features}" + ("" if self.bias is not None else ", no bias")


def forward_together(
    layers: Sequence[Module], x: Array, *, rng: np.random.Generator | None = None
) -> list[tuple[Array, Any]]:
    """Return (y, ctx) of each of several layers of one x, at once where all are plain `Linear`."""
    linear = _plain(layers)
    if len(linear) == len(layers):
        return list(_forward(linear, x))
    return [layer.forward(x, rng=rng) for layer in layers]


def backward_together(layers: Sequence[Module], dys: Sequence[Array], ctxs: Sequence[Any]) -> Array:
    """Return dx for layers of one x: the sum of what comes back through each."""
    linear = _plain(layers)
    if len(linear) == len(layers):
        return _backward(linear, dys, ctxs)
    calls = zip(layers, dys, ctxs, strict=True)
    dxs: list[Array] = [layer.backward(dy, ctx) for layer, dy, ctx in calls]
    for dx in dxs[1:]:
        dxs[0] += dx
    return dxs[0]


def _plain(layers: Sequence[Module]) -> list[Linear]:
    """Return those that may be computed together, to the same bits.

    Not those whose pair was replaced in the object itself, as a trace does that looks at it.
    """
    return [
        layer
        for layer in layers
        if type(layer) is Linear and not vars(layer).keys() & {"forward", "backward"}
    ]


def _forward(layers: Sequence[Linear], x: Array) -> list[tuple[Array, F.LinearContext]]:
    for layer in layers:
        x = _checks.layer_input("x", x, layer.weight.shape[1], layer.weight.dtype)
    weights = [layer.weight.data for layer in layers]
    biases = [None if layer.bias is None else layer.bias.data for layer in layers]
    return F._linear.linears_forward(x, weights, biases)


def _backward(
    layers: Sequence[Linear], dys: Sequence[Array], ctxs: Sequence[F.LinearContext]
) -> Array:
    trained = [
        (layer.weight.trainable, layer.bias is not None and layer.bias.trainable)
        for layer in layers
    ]
    dx, grads = F._linear.linears_backward(dys, ctxs, True, trained)
    for layer, (dweight, dbias) in zip(layers, grads, strict=True):
        layer.weight.accumulate(dweight)
        if layer.bias is not None:
            layer.bias.accumulate(dbias)
    assert dx is not None  # it was asked for
    return dx
