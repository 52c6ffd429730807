"""From the steps of a sequence to one vector: pooling that has parameters, or a fixed length."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

import miniattn.functional as F
from miniattn import _checks, nn
from miniattn._context import context
from miniattn._typing import Array


@context
class AttentionPoolingContext(NamedTuple):
    """What `AttentionPooling.backward` needs."""

    x: Array
    weights: F.SoftmaxContext


class AttentionPooling(nn.Module):
    """y = Σ over t of w_t · x_t with w = softmax over real steps of x · query (B, T).

    The query (E,) is learned and starts at 0, where this is the mean. Bahdanau et al., "Neural
    machine translation by jointly learning to align and translate", 2015, with one fixed query.
    """

    def __init__(self, embed_dim: int, *, dtype: DTypeLike) -> None:
        self.query = nn.Parameter(np.zeros(embed_dim, dtype))

    def forward(self, x: Array, real: Array, *, rng: Any = None) -> tuple[Array, Any]:
        """Return (y, ctx) of steps x (B, T, E), of which those count that are ``real`` (B, T)."""
        scores = x @ self.query.data
        w, weights = F.softmax_forward(scores, mask=real)
        y = np.matmul(w[:, None, :], x)[:, 0]
        return y, AttentionPoolingContext(x, weights)

    def backward(self, dy: Array, ctx: AttentionPoolingContext) -> Array:
        """Return dx; add to the query's gradient."""
        ctx = _checks.context(ctx, AttentionPoolingContext)
        x, w = ctx.x, ctx.weights.y
        # y = Σ w x
        dw = np.matmul(x, dy[:, :, None])[:, :, 0]
        dx = w[:, :, None] * dy[:, None, :]
        # w = softmax(scores)
        dscores = F.softmax_backward(dw, ctx.weights)
        # scores = x @ query
        if self.query.trainable:
            self.query.accumulate(np.einsum("bt,bte->e", dscores, x))
        dx += dscores[:, :, None] * self.query.data
        return dx


class Flatten(nn.Module):
    """All steps one after the other, (B, max_length · E), 0 beyond the end of each sequence.

    Every place has weights of its own in what follows: Zerveas et al., "A transformer-based
    framework for multivariate time series representation learning", 2021, section 3.1.
    """

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length

    def forward(self, x: Array, real: Array, *, rng: Any = None) -> tuple[Array, Array]:
        """Return (y, ctx) of steps x (B, T, E), of which those count that are ``real`` (B, T)."""
        batch, steps, width = x.shape
        if steps > self.max_length:
            raise ValueError(
                f"inputs: expected at most max_length = {self.max_length} steps for "
                f'pooling="flatten", got {steps}'
            )
        y = np.zeros((batch, self.max_length, width), x.dtype)
        np.copyto(y[:, :steps], x, where=real[:, :, None])
        return y.reshape(batch, -1), real

    def backward(self, dy: Array, ctx: Array) -> Array:
        """Return dx."""
        batch, steps = ctx.shape
        dx = dy.reshape(batch, self.max_length, -1)[:, :steps]
        return np.where(ctx[:, :, None], dx, 0)
