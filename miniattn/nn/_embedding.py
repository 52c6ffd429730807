"""A table of learned vectors, looked up by token id."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

import miniattn.functional as F
from miniattn import _checks
from miniattn._typing import Array
from miniattn.nn import _init
from miniattn.nn._module import Module
from miniattn.nn._parameter import Parameter


class Embedding(Module):
    """A table of vectors: y = scale · weight[ids].

    Parameters
    ----------
    vocab_size, embed_dim : int
        Rows V and width E of the table.
    std : float
        The table starts as N(0, std²); 0.02 is GPT's and BERT's choice [1]_.
    scale : float
        What the rows are multiplied by. The original transformer has √E, with a table of
        standard deviation 1/√E that it shares with the output layer [2]_.
    rng : numpy.random.Generator, optional
        Draws the table; None is a fresh unseeded one.
    dtype : float32 or float64

    Attributes
    ----------
    weight : Parameter, shape (V, E)

    References
    ----------
    .. [1] Radford et al., "Improving Language Understanding by Generative Pre-Training", 2018,
       section 4.1.
    .. [2] Vaswani et al., "Attention Is All You Need", 2017, section 3.4.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> table = nn.Embedding(10, 4, rng=np.random.default_rng(0))
    >>> y, ctx = table.forward(np.array([[1, 2, 1]]))
    >>> table.backward(np.ones_like(y), ctx)
    >>> table.weight.grad[:, 0]
    array([0., 2., 1., 0., 0., 0., 0., 0., 0., 0.], dtype=float32)
    """

    _free = (*Module._free, "std")
    _live = ("scale",)

    def __init__(
        self,
        vocab_size: int,
        embed_dim: int,
        *,
        std: float = 0.02,
        scale: float = 1.0,
        rng: np.random.Generator | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        shape = (
            _checks.integer("vocab_size", vocab_size, least=1),
            _checks.integer("embed_dim", embed_dim, least=1),
        )
        std, self.scale = _checks.positive("std", std), _checks.positive("scale", scale)
        self.weight = Parameter(_init.normal(_init.generator(rng), shape, std, dtype))

    def forward(
        self, ids: Array, *, rng: np.random.Generator | None = None
    ) -> tuple[Array, F.EmbeddingContext]:
        """Return (y, ctx): ids (...) to y (..., E)."""
        y, ctx = F.embedding_forward(ids, self.weight.data)
        if self.scale != 1.0:
            y *= self.scale
        return y, ctx

    def backward(self, dy: Array, ctx: F.EmbeddingContext) -> None:
        """Add to the table's gradient; ids have none."""
        ctx = _checks.context(ctx, F.EmbeddingContext)
        dy = _checks.gradient("dy", dy, (*ctx.ids.shape, ctx.shape[1]), ctx.dtype)
        if not self.weight.trainable:
            return
        # y = scale · weight[ids]
        dy = dy if self.scale == 1.0 else dy * self.scale
        self.weight.accumulate(F.embedding_backward(dy, ctx))

    def describe(self) -> str:
        """Return e.g. ``"65 x 128"``."""
        return "{} x {}".format(*self.weight.shape)
