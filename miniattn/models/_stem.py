"""What reads a long sequence of features: two convolutions, the second at every other step."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import DTypeLike

import miniattn.functional as F
from miniattn import _checks, nn
from miniattn._context import context
from miniattn._typing import Array
from miniattn.models import _parts

WIDTH = 3  # steps that a place of a convolution reads: its own, one before, one after


@context
class ConvolutionContext(NamedTuple):
    """What `Convolution.backward` needs."""

    linear: F.LinearContext
    steps: int


class Convolution(nn.Module):
    """y_t = W [x_{st-1}, x_{st}, x_{st+1}] + b: (B, S, in) to (B, S / s rounded up, out).

    Beyond its ends x is 0.

    Parameters
    ----------
    in_dim, out_dim : int
    stride : int
        s.
    rng : numpy.random.Generator
    dtype : float32 or float64
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        stride: int,
        rng: np.random.Generator,
        dtype: DTypeLike,
    ) -> None:
        self.stride = stride
        self.linear = nn.Linear(WIDTH * in_dim, out_dim, rng=rng, dtype=dtype)

    def forward(
        self, x: Array, *, rng: np.random.Generator | None = None
    ) -> tuple[Array, ConvolutionContext]:
        """Return (y, ctx)."""
        steps = x.shape[1]
        padded = np.pad(x, ((0, 0), (1, 1), (0, 0)))
        windows = sliding_window_view(padded, WIDTH, axis=1)[:, :: self.stride]
        read = windows.swapaxes(2, 3).reshape(*windows.shape[:2], -1)
        y, linear = self.linear.forward(read)
        return y, ConvolutionContext(linear, steps)

    def backward(self, dy: Array, ctx: ConvolutionContext) -> Array:
        """Return dx (B, S, in)."""
        ctx = _checks.context(ctx, ConvolutionContext)
        # y = linear(windows of x)
        dread = self.linear.backward(dy, ctx.linear)
        batch, places, _ = dread.shape
        dread = dread.reshape(batch, places, WIDTH, -1)
        dx = np.zeros((batch, ctx.steps + 2, dread.shape[-1]), dread.dtype)
        for i in range(WIDTH):
            dx[:, i : i + self.stride * (places - 1) + 1 : self.stride] += dread[:, :, i]
        return dx[:, 1:-1]


@context
class StemContext(NamedTuple):
    """What `Stem.backward` needs: the contexts of its parts."""

    lengths: Array
    first: ConvolutionContext
    first_activation: Any
    second: ConvolutionContext
    second_activation: Any


class Stem(nn.Module):
    """gelu(second(gelu(first(x)))): features (B, S, M) to vectors (B, S / 2 rounded up, E).

    Parameters
    ----------
    input_dim, embed_dim : int
        M and E.
    rng : numpy.random.Generator
    dtype : float32 or float64

    References
    ----------
    Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022,
    section 2.2.
    """

    def __init__(
        self, input_dim: int, embed_dim: int, *, rng: np.random.Generator, dtype: DTypeLike
    ) -> None:
        self.first = Convolution(input_dim, embed_dim, stride=1, rng=rng, dtype=dtype)
        self.second = Convolution(embed_dim, embed_dim, stride=2, rng=rng, dtype=dtype)
        self.activation = nn.GELU()

    def forward(
        self, x: Array, lengths: Array, *, rng: np.random.Generator | None = None
    ) -> tuple[Array, StemContext]:
        """Return (y, ctx); steps from ``lengths[b]`` on are padding, and 0 in x."""
        h, first = self.first.forward(x)
        h, first_activation = self.activation.forward(h)
        h = _parts.without_padding(h, lengths)  # as if there were nothing
        h, second = self.second.forward(h)
        y, second_activation = self.activation.forward(h)
        return y, StemContext(lengths, first, first_activation, second, second_activation)

    def backward(self, dy: Array, ctx: StemContext) -> Array:
        """Return dx (B, S, M)."""
        ctx = _checks.context(ctx, StemContext)
        # y = activation(second(h))
        dh = self.activation.backward(dy, ctx.second_activation)
        dh = self.second.backward(dh, ctx.second)
        # h = without padding
        dh = _parts.without_padding(dh, ctx.lengths)
        # h = activation(first(x))
        dh = self.activation.backward(dh, ctx.first_activation)
        return _parts.without_padding(self.first.backward(dh, ctx.first), ctx.lengths)


def halved(lengths: Array) -> Array:
    """Return how many vectors `Stem` makes of so many steps."""
    return (lengths + 1) // 2
