"""The feed-forward half of a transformer layer: FeedForward, and those that are gated."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

import miniattn.functional as F
from miniattn import _checks
from miniattn._context import context
from miniattn._tracing import point, point_backward
from miniattn._typing import Array
from miniattn.nn import _init
from miniattn.nn._activation import Activation, activation_layer
from miniattn.nn._dropout import Dropout
from miniattn.nn._linear import Linear, backward_together, forward_together
from miniattn.nn._module import Module


@context
class FeedForwardContext(NamedTuple):
    """What `FeedForward.backward` needs: the contexts of its parts."""

    up: F.LinearContext
    activation: Any
    dropout: F.DropoutContext | None
    down: F.LinearContext


class FeedForward(Module):
    """Two linear maps with an activation between: y = down(dropout(activation(up(x)))).

    Parameters
    ----------
    embed_dim : int
        Width E of x and y.
    ffn_dim : int, optional
        Width F in between; 4 E by default, as in the paper.
    activation : {"gelu", "gelu_tanh", "relu", "silu", "sigmoid", "tanh"}
        The paper has relu; GPT and BERT have gelu.
    dropout : float
        Probability of dropping a hidden unit, where ``rng`` is given to ``forward``.
    bias : bool
        Whether the two maps add a bias.
    rng : numpy.random.Generator, optional
        Draws the weights (`Linear`); None is a fresh unseeded one.
    dtype : float32 or float64

    References
    ----------
    Vaswani et al., "Attention Is All You Need", 2017, section 3.3.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> ffn = nn.FeedForward(8)
    >>> y, ctx = ffn.forward(np.ones((2, 5, 8), np.float32))
    >>> ffn.backward(np.ones_like(y), ctx).shape
    (2, 5, 8)
    """

    _worked_out = ("ffn_dim",)

    def __init__(
        self,
        embed_dim: int,
        ffn_dim: int | None = None,
        *,
        activation: Activation = "gelu",
        dropout: float = 0.0,
        bias: bool = True,
        rng: np.random.Generator | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        rng = _init.generator(rng)
        _checks.sizes(embed_dim=embed_dim)
        ffn_dim = 4 * embed_dim if ffn_dim is None else ffn_dim
        _checks.sizes(ffn_dim=ffn_dim)
        self.up = Linear(embed_dim, ffn_dim, bias=bias, rng=rng, dtype=dtype)
        self.activation = activation_layer(activation)
        self.dropout = Dropout(_checks.probability("dropout", dropout))
        self.down = Linear(ffn_dim, embed_dim, bias=bias, rng=rng, dtype=dtype)

    def forward(
        self, x: Array, *, rng: np.random.Generator | None = None
    ) -> tuple[Array, FeedForwardContext]:
        """Return (y, ctx), both x and y (..., E)."""
        h, up = self.up.forward(x, rng=rng)
        h, activation = self.activation.forward(h, rng=rng)
        h, dropout = self.dropout.drop(point("hidden", h), rng)
        y, down = self.down.forward(h, rng=rng)
        return y, FeedForwardContext(up, activation, dropout, down)

    def backward(self, dy: Array, ctx: FeedForwardContext) -> Array:
        """Return dx (..., E)."""
        ctx = _checks.context(ctx, FeedForwardContext)
        # y = down(h)
        dh = self.down.backward(dy, ctx.down)
        # h = dropout(h)
        dh = point_backward("hidden", self.dropout.undrop(dh, ctx.dropout))
        # h = activation(h)
        dh = self.activation.backward(dh, ctx.activation)
        # h = up(x)
        return self.up.backward(dh, ctx.up)


@context
class GatedContext(NamedTuple):
    """What `GatedFeedForward.backward` needs: the contexts of its parts, and the two factors."""

    gate: F.LinearContext
    activation: Any
    up: F.LinearContext
    open: Array
    value: Array
    dropout: F.DropoutContext | None
    down: F.LinearContext


class GatedFeedForward(Module):
    """A gated feed-forward: y = down(activation(gate(x)) · up(x)).

    Parameters
    ----------
    embed_dim : int
        Width E of x and y.
    ffn_dim : int, optional
        Width F of the gate; 8 E / 3 rounded up by default, which gives the three maps as many
        weights as the two of a `FeedForward` of width 4 E.
    activation : {"gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "sigmoid", "tanh"}
        Of the gate: the paper's GEGLU has gelu, ReGLU relu, GLU sigmoid; `SwiGLU` is the one with
        silu.
    dropout : float
        Probability of dropping a hidden unit, where ``rng`` is given to ``forward``.
    bias : bool
        Whether the maps add a bias; the papers have none.
    rng : numpy.random.Generator, optional
        Draws the weights (`Linear`); None is a fresh unseeded one.
    dtype : float32 or float64

    References
    ----------
    Shazeer, "GLU Variants Improve Transformer", 2020, section 2.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> nn.GatedFeedForward(6, activation="gelu")
    GatedFeedForward()                288 parameters
      gate: Linear(6 -> 16, no bias)   96
      activation: GELU()
      up: Linear(6 -> 16, no bias)     96
      dropout: Dropout(p=0)
      down: Linear(16 -> 6, no bias)   96
    """

    _worked_out = ("ffn_dim",)

    def __init__(
        self,
        embed_dim: int,
        ffn_dim: int | None = None,
        *,
        activation: Activation,
        dropout: float = 0.0,
        bias: bool = False,
        rng: np.random.Generator | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        rng = _init.generator(rng)
        _checks.sizes(embed_dim=embed_dim)
        ffn_dim = -(-8 * embed_dim // 3) if ffn_dim is None else ffn_dim
        _checks.sizes(ffn_dim=ffn_dim)
        self.gate = Linear(embed_dim, ffn_dim, bias=bias, rng=rng, dtype=dtype)
        self.activation = activation_layer(activation)
        self.up = Linear(embed_dim, ffn_dim, bias=bias, rng=rng, dtype=dtype)
        self.dropout = Dropout(_checks.probability("dropout", dropout))
        self.down = Linear(ffn_dim, embed_dim, bias=bias, rng=rng, dtype=dtype)

    def forward(
        self, x: Array, *, rng: np.random.Generator | None = None
    ) -> tuple[Array, GatedContext]:
        """Return (y, ctx), both x and y (..., E)."""
        (g, gate), (v, up) = forward_together((self.gate, self.up), x, rng=rng)
        g, activation = self.activation.forward(g, rng=rng)
        h, dropout = self.dropout.drop(point("hidden", F._elementwise.multiply(g, v)), rng)
        y, down = self.down.forward(h, rng=rng)
        return y, GatedContext(gate, activation, up, g, v, dropout, down)

    def backward(self, dy: Array, ctx: GatedContext) -> Array:
        """Return dx (..., E)."""
        ctx = _checks.context(ctx, GatedContext)
        # y = down(h)
        dh = self.down.backward(dy, ctx.down)
        # h = dropout(g · v)
        dh = point_backward("hidden", self.dropout.undrop(dh, ctx.dropout))
        dg, dv = dh * ctx.value, dh * ctx.open
        # g = activation(g)
        dg = self.activation.backward(dg, ctx.activation)
        # g, v = gate(x), up(x)
        return backward_together((self.gate, self.up), (dg, dv), (ctx.gate, ctx.up))


class SwiGLU(GatedFeedForward):
    """A gated feed-forward: y = down(silu(gate(x)) · up(x)).

    Parameters
    ----------
    embed_dim : int
        Width E of x and y.
    ffn_dim : int, optional
        Width F of the gate; 8 E / 3 rounded up by default.
    dropout, bias, rng, dtype
        As in `GatedFeedForward`.

    References
    ----------
    Shazeer, "GLU Variants Improve Transformer", 2020, section 2;
    Touvron et al., "LLaMA", 2023, section 2.2.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> nn.SwiGLU(6)
    SwiGLU()                          288 parameters
      gate: Linear(6 -> 16, no bias)   96
      activation: SiLU()
      up: Linear(6 -> 16, no bias)     96
      dropout: Dropout(p=0)
      down: Linear(16 -> 6, no bias)   96
    """

    def __init__(
        self,
        embed_dim: int,
        ffn_dim: int | None = None,
        *,
        dropout: float = 0.0,
        bias: bool = False,
        rng: np.random.Generator | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(
            embed_dim,
            ffn_dim,
            activation="silu",
            dropout=dropout,
            bias=bias,
            rng=rng,
            dtype=dtype,
        )
