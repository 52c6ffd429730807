"""Layers one after the other."""

from typing import Any, NamedTuple

import numpy as np

from miniattn import _checks
from miniattn._context import context
from miniattn._typing import Array
from miniattn.nn._module import Module


@context
class SequentialContext(NamedTuple):
    """The contexts of the layers, in their order."""

    layers: tuple[Any, ...]


class Sequential(Module):
    """Layers applied one after the other; the gradient goes through them backwards.

    Parameters
    ----------
    *layers : Module
        Each takes one array and returns one.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> y, ctx = net.forward(np.ones((3, 4), np.float32))
    >>> net.backward(np.ones_like(y), ctx).shape
    (3, 4)
    """

    def __init__(self, *layers: Module) -> None:
        if not layers:
            raise ValueError("layers: expected at least one, got none")
        for i, layer in enumerate(layers):
            if not isinstance(layer, Module):
                raise TypeError(f"layers[{i}]: expected a Module, got {layer!r}")
        self.layers = layers

    def forward(
        self, x: Array, *, rng: np.random.Generator | None = None
    ) -> tuple[Array, SequentialContext]:
        """Return (y, ctx)."""
        contexts = []
        for layer in self.layers:
            x, ctx = layer.forward(x, rng=rng)
            contexts.append(ctx)
        return x, SequentialContext(tuple(contexts))

    def backward(self, dy: Array, ctx: SequentialContext) -> Array:
        """Return dx."""
        ctx = _checks.context(ctx, SequentialContext)
        contexts = _checks.contexts(ctx.layers, len(self.layers))
        for layer, layer_ctx in zip(reversed(self.layers), reversed(contexts), strict=True):
            # x = layer(x)
            dy = layer.backward(dy, layer_ctx)
        return dy
