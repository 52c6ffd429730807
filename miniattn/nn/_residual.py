"""The frame around every sublayer of a transformer: normalisation, dropout, residual sum."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import DTypeLike

import miniattn.functional as F
from miniattn import _checks
from miniattn._context import context
from miniattn._typing import Array
from miniattn.nn._dropout import Dropout
from miniattn.nn._module import Module
from miniattn.nn._norm import LayerNorm, RMSNorm

Norm = Literal["layer", "rms"]


@context
class Residual(NamedTuple):
    """The contexts of one framed sublayer."""

    norm: Any
    sublayer: Any
    dropout: F.DropoutContext | None


class ResidualLayer(Module):
    """A layer of framed sublayers f, each y = x + dropout(f(norm(x))) or norm(x + dropout(f(x))).

    The first, pre-norm, leaves a straight path for the gradient and trains without warm-up [2]_;
    the second, post-norm, is the original [1]_.

    References
    ----------
    .. [1] Vaswani et al., "Attention Is All You Need", 2017, sections 3.1 and 5.4.
    .. [2] Xiong et al., "On Layer Normalization in the Transformer Architecture", ICML 2020,
       section 3.
    """

    norm_first: bool
    dropout: Dropout

    _free = (*Module._free, "attn_dropout", "ffn_dropout")
    _worked_out = ("ffn_dim", "num_kv_heads", "head_dim", "norm_eps", "memory_dim", "attn_bias")
    _live = ("norm_first", "causal")

    def _forward(
        self,
        x: Array,
        norm: Module,
        sublayer: Module,
        *inputs: Any,
        rng: np.random.Generator | None,
        onto: Array | None = None,
        **options: Any,
    ) -> tuple[Array, Residual]:
        """Return (y, ctx); ``onto`` is what f is added to, pre-norm, where that is not x.

        Of the options the sublayer, which may be a user's own, gets those that are given.
        """
        options = {name: value for name, value in options.items() if value is not None}
        if self.norm_first:
            h, norm_ctx = norm.forward(x)
            h, sublayer_ctx = sublayer.forward(h, *inputs, rng=rng, **options)
            h, dropout_ctx = self.dropout.drop(h, rng)
            y = F._elementwise.add(x if onto is None else onto, h)
        else:
            h, sublayer_ctx = sublayer.forward(x, *inputs, rng=rng, **options)
            h, dropout_ctx = self.dropout.drop(h, rng)
            y, norm_ctx = norm.forward(F._elementwise.add(x, h))
        return y, Residual(norm_ctx, sublayer_ctx, dropout_ctx)

    def _backward(
        self,
        dy: Array,
        norm: Module,
        sublayer: Module,
        ctx: Residual,
        *,
        onto: Array | None = None,
        **more: Any,
    ) -> tuple[Array, Any]:
        """Return dx, and all that the sublayer returned: other inputs have gradients, too.

        ``onto`` is what else comes back to x, pre-norm, where that is not dy; ``more`` is for the
        sublayer, where it is given.
        """
        more = {name: value for name, value in more.items() if value is not None}
        if self.norm_first:
            # y = x + h; h = dropout(h)
            dh = self.dropout.undrop(dy, ctx.dropout)
            # h = sublayer(h, ...)
            grads = sublayer.backward(dh, ctx.sublayer, **more)
            # h = norm(x)
            dx = norm.backward(_first(grads), ctx.norm)
            return F._elementwise.add(dx, dy if onto is None else onto), grads
        # y = norm(x + h)
        dx = norm.backward(dy, ctx.norm)
        # h = dropout(h)
        dh = self.dropout.undrop(dx, ctx.dropout)
        # h = sublayer(x, ...)
        grads = sublayer.backward(dh, ctx.sublayer, **more)
        return F._elementwise.add(_first(grads), dx), grads


def norm_layer(
    name: Norm, embed_dim: int, *, eps: float | None, bias: bool, dtype: DTypeLike
) -> Module:
    """Return the normalisation that ``name`` stands for; RMSNorm has no bias."""
    given = {} if eps is None else {"eps": _checks.positive("norm_eps", eps)}
    if _checks.choice("norm", name, get_args(Norm)) == "rms":
        return RMSNorm(embed_dim, dtype=dtype, **given)
    return LayerNorm(embed_dim, bias=bias, dtype=dtype, **given)


def _first(grads: Any) -> Array:
    """Return the gradient of the first input, of an array or a NamedTuple."""
    dx: Array = grads[0] if isinstance(grads, tuple) else grads
    return dx
