"""What happened inside a model: the attention of every layer, found in the context of one call.

The context that ``forward`` returns is a tree whose branches are named as the model's parts, so
nothing has to be hooked or recorded: looking is enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from miniattn import _checks, _lazy
from miniattn._typing import Array
from miniattn.masks import Mask, as_mask
from miniattn.nn import Module, MultiHeadAttention, MultiHeadAttentionContext

if TYPE_CHECKING:
    from miniattn.functional import AttentionContext

__all__ = ["Trace", "attention_contexts", "attention_weights", "run"]

__dir__ = _lazy.listed(__name__, __all__)


@dataclass(frozen=True)
class Trace:
    """The attention maps of one call.

    Attributes
    ----------
    weights : dict of str to array (B, H, T, S)
        By the path of the attention layer, in the order of the model: ``"layers.0.attn"``.
    tokens, key_tokens : sequences of str, optional
        Labels of the queries (T) and, where they differ, of the keys (S).
    masks : dict of str to masks.Mask
        What each layer was kept from attending to, padding included; without an entry, nothing.
        Figures draw it as hidden, and not as weights of zero.
    """

    weights: dict[str, Array]
    tokens: Sequence[str] | None = None
    key_tokens: Sequence[str] | None = None
    masks: dict[str, Mask] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The paths of the attention layers."""
        return list(self.weights)

    def __getitem__(self, name: str) -> Array:
        """Return the map (B, H, T, S) of the layer at path ``name``."""
        return self.weights[name]

    def __repr__(self) -> str:
        maps = ", ".join(f"{name} {weights.shape}" for name, weights in self.weights.items())
        return f"Trace({maps})"


def attention_contexts(ctx: Any) -> dict[str, MultiHeadAttentionContext]:
    """Return the context of every attention layer below ``ctx``, by path.

    Parameters
    ----------
    ctx : NamedTuple
        What the ``forward`` of any module or model returned beside its result.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn, trace
    >>> model = nn.TransformerEncoder(2, 8, 2)
    >>> y, ctx = model.forward(np.ones((1, 3, 8), np.float32))
    >>> list(trace.attention_contexts(ctx))
    ['layers.0.attn', 'layers.1.attn']
    """
    return dict(_find(ctx, ""))


def attention_weights(
    ctx: Any,
    *,
    tokens: Sequence[str] | None = None,
    key_tokens: Sequence[str] | None = None,
) -> Trace:
    """Return the exact attention map of every attention layer below ``ctx``.

    The maps are those of that very call, before dropout.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn, trace
    >>> model = nn.TransformerEncoder(2, 8, 2)
    >>> y, ctx = model.forward(np.ones((1, 3, 8), np.float32))
    >>> trace.attention_weights(ctx, tokens=["a", "b", "c"])
    Trace(layers.0.attn (1, 2, 3, 3), layers.1.attn (1, 2, 3, 3))
    """
    found = attention_contexts(ctx)
    maps = {path: MultiHeadAttention.weights(layer) for path, layer in found.items()}
    rules = {path: _rule(layer.attention) for path, layer in found.items()}
    kept = {path: rule for path, rule in rules.items() if rule is not None}
    return Trace(maps, tokens, key_tokens, kept)


def run(
    model: Module,
    *inputs: Any,
    tokens: Sequence[str] | None = None,
    key_tokens: Sequence[str] | None = None,
    **options: Any,
) -> tuple[Any, Trace]:
    """Return (y, trace): the result of ``model(*inputs, **options)`` and its attention maps.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import masks, nn, trace
    >>> model = nn.TransformerEncoder(1, 8, 2)
    >>> y, maps = trace.run(model, np.ones((1, 3, 8), np.float32), mask=masks.causal())
    >>> maps["layers.0.attn"][0, 0].round(2)
    array([[1.  , 0.  , 0.  ],
           [0.5 , 0.5 , 0.  ],
           [0.33, 0.33, 0.33]], dtype=float32)
    """
    y, ctx = _checks.instance("model", model, Module).forward(*inputs, **options)
    return y, attention_weights(ctx, tokens=tokens, key_tokens=key_tokens)


def _rule(attention: AttentionContext) -> Mask | None:
    """Return what hid keys in a call: the mask, and a bias of -inf."""
    mask, bias = attention.mask, attention.bias
    if bias is None or not np.isneginf(bias).any():
        return mask
    seen = as_mask(~np.isneginf(bias))
    return seen if mask is None else mask & seen


def _find(node: Any, path: str) -> Iterator[tuple[str, MultiHeadAttentionContext]]:
    if isinstance(node, MultiHeadAttentionContext):
        yield path, node
    elif isinstance(node, tuple):
        names: Sequence[Any] = getattr(node, "_fields", range(len(node)))
        for name, child in zip(names, node, strict=True):
            yield from _find(child, f"{path}.{name}" if path else str(name))
