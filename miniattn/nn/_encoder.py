"""Stacks of encoder layers; under a causal mask they are a decoder-only model."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Unpack

import numpy as np
from numpy.typing import DTypeLike

from miniattn import _checks
from miniattn._context import context
from miniattn._typing import Array, MaskLike
from miniattn.masks._array import borrowed
from miniattn.nn import _init
from miniattn.nn._cache import KVCache, of_layers
from miniattn.nn._encoder_layer import (
    TransformerEncoderGrads,
    TransformerEncoderLayer,
    TransformerEncoderLayerContext,
    TransformerEncoderOptions,
    ValueResidualEncoderGrads,
)
from miniattn.nn._layers import layer_options, new_cache
from miniattn.nn._module import Module
from miniattn.nn._residual import Norm, norm_layer


@context
class TransformerEncoderContext(NamedTuple):
    """What `TransformerEncoder.backward` needs: the contexts of its parts."""

    layers: tuple[TransformerEncoderLayerContext, ...]
    norm: Any


class TransformerEncoder(Module):
    """A stack of encoder layers; pre-norm stacks end with a normalisation of their own.

    Parameters
    ----------
    num_layers : int
    embed_dim, num_heads : int
        Width E and query heads H.
    value_residual : bool
        Mixes the values of the first layer into those of all others [1]_.
    by_layer : sequence of dicts, one a layer, optional
        Options of single layers, which go before those of all: ``[{"window": (7, 0)}, {}]``.
    **options
        Those of `TransformerEncoderLayer`, the same for each layer.

    References
    ----------
    .. [1] Zhou et al., "Value Residual Learning", 2024, section 3.3.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import masks, nn
    >>> gpt_like = nn.TransformerEncoder(2, 16, 4, rng=np.random.default_rng(0))
    >>> y, ctx = gpt_like.forward(np.ones((1, 5, 16), np.float32), mask=masks.causal())
    >>> gpt_like.backward(np.ones_like(y), ctx).shape
    (1, 5, 16)
    """

    _free = (*Module._free, "attn_dropout", "ffn_dropout")
    _worked_out = ("ffn_dim", "num_kv_heads", "head_dim", "norm_eps", "memory_dim", "attn_bias")

    def __init__(
        self,
        num_layers: int,
        embed_dim: int,
        num_heads: int,
        *,
        norm_first: bool = True,
        norm: Norm = "layer",
        norm_eps: float | None = None,
        bias: bool = True,
        value_residual: bool = False,
        by_layer: Sequence[Mapping[str, Any]] | None = None,
        rng: np.random.Generator | None = None,
        dtype: DTypeLike = np.float32,
        **options: Unpack[TransformerEncoderOptions],
    ) -> None:
        _checks.integer("num_layers", num_layers, least=0)
        rng = _init.generator(rng)
        self.value_residual = _checks.flag("value_residual", value_residual)
        self.layers = [
            TransformerEncoderLayer(
                embed_dim,
                num_heads,
                **{
                    **options,
                    "norm_first": norm_first,
                    "norm": norm,
                    "norm_eps": norm_eps,
                    "bias": bias,
                    "value_residual": self.value_residual and i > 0,
                    "rng": rng,
                    "dtype": dtype,
                    **own,
                },
            )
            for i, own in enumerate(layer_options(by_layer, num_layers))
        ]
        self.norm = None
        if _checks.flag("norm_first", norm_first):
            self.norm = norm_layer(norm, embed_dim, eps=norm_eps, bias=bias, dtype=dtype)

    def forward(
        self,
        x: Array,
        *,
        mask: MaskLike | Sequence[MaskLike] = None,
        bias: Array | None = None,
        positions: Array | None = None,
        caches: Sequence[KVCache] | None = None,
        rng: np.random.Generator | None = None,
    ) -> tuple[Array, TransformerEncoderContext]:
        """Return (y, ctx), both x and y (B, T, E); ``caches`` has one KVCache a layer.

        ``mask`` is one for all layers, or a list or tuple with one for each.
        """
        contexts: list[TransformerEncoderLayerContext] = []
        known = of_layers(caches, len(self.layers))
        for layer, cache, own in zip(self.layers, known, self._masks(mask), strict=True):
            first = contexts[0].attn.values if contexts and self.value_residual else None
            x, ctx = layer.forward(
                x,
                mask=own,
                bias=bias,
                positions=positions,
                first_values=first,
                cache=cache,
                rng=rng,
            )
            contexts.append(ctx)
        x, norm = (x, None) if self.norm is None else self.norm.forward(x)
        return x, TransformerEncoderContext(tuple(contexts), norm)

    def backward(self, dy: Array, ctx: TransformerEncoderContext) -> Any:
        """Return dx (B, T, E), or (dx, dbias), `TransformerEncoderGrads`, if a bias was given."""
        ctx = _checks.context(ctx, TransformerEncoderContext)
        # y = norm(x)
        dx = dy if self.norm is None else self.norm.backward(dy, ctx.norm)
        dbias = dvalues = None
        contexts = _checks.contexts(ctx.layers, len(self.layers))
        for i in reversed(range(len(self.layers))):
            # x = layer(x, bias, values of the first layer)
            # Only what there is: a layer of one's own need not know of values.
            given: dict[str, Any] = {} if i or dvalues is None else {"dvalues": dvalues}
            grads = self.layers[i].backward(dx, contexts[i], **given)
            if isinstance(grads, ValueResidualEncoderGrads):
                dvalues = _sum(dvalues, grads.dfirst_values)
            if isinstance(grads, tuple):
                dx, dbias = grads[0], _sum(dbias, grads[1])
            else:
                dx = grads
        return dx if dbias is None else TransformerEncoderGrads(dx, dbias)

    def _masks(self, mask: object) -> list[MaskLike]:
        """Return the mask of each layer; an array that all share is looked at once."""
        count = len(self.layers)
        if not isinstance(mask, list | tuple):
            return [borrowed(mask)] * count
        if len(mask) != count:
            raise ValueError(
                f"mask: expected one, or one for each of {count} layers, got {len(mask)}"
            )
        return [borrowed(each) for each in mask]

    def new_caches(self, batch_size: int, capacity: int, *, forget: bool = False) -> list[KVCache]:
        """Return an empty cache for each layer.

        With ``forget`` those of layers with a window hold only what it has (`KVCache`).
        """
        return [
            new_cache("attn", layer.attn, batch_size, capacity, forget=forget)
            for layer in self.layers
        ]


def _sum(total: Array | None, more: Array | None) -> Array | None:
    """Return the sum of two gradients, each of which there may be none of."""
    if total is None or more is None:
        return more if total is None else total
    return total + more
