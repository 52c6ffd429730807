"""The attention of every layer, found in the context of a call that nobody traced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import miniattn.functional as F
from miniattn.nn import MultiHeadAttention, MultiHeadAttentionContext
from miniattn.trace._recorder import rule_of
from miniattn.trace._trace import Trace


def attention_contexts(ctx: Any) -> dict[str, MultiHeadAttentionContext]:
    """Return the context of every attention layer below ``ctx``, by path.

    The context that ``forward`` returns is a tree whose branches are named as the model's parts.

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
    found = _find(ctx, "")
    return {path: node for path, node in found if isinstance(node, MultiHeadAttentionContext)}


def attention_weights(
    ctx: Any,
    *,
    tokens: Sequence[str] | None = None,
    key_tokens: Sequence[str] | None = None,
) -> Trace:
    """Return the exact attention map of every attention below ``ctx``.

    The maps are those of that very call, before dropout. Contexts of
    `miniattn.functional.attention_forward` inside of a context of a user's own are found as well.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn, trace
    >>> x = np.ones((1, 3, 8), np.float32)
    >>> y, ctx = nn.TransformerEncoder(2, 8, 2).forward(x)
    >>> trace.attention_weights(ctx, tokens=["a", "b", "c"])
    Trace
      layers.0-1.attn.weights  float32 (1, 2, 3, 3)
    """
    maps, rules = {}, {}
    for path, node in _find(ctx, ""):
        if isinstance(node, MultiHeadAttentionContext):
            maps[path] = MultiHeadAttention.weights(node)
            inside: Any = node.attention  # several, where a layer attends more than once
        else:
            maps[path], inside = F._explicit.weights(node), node
        first = next((c for _, c in _find(inside, "") if isinstance(c, F.AttentionContext)), None)
        rule = None if first is None else rule_of(first)
        if rule is not None:
            rules[path] = rule
    return Trace(maps, tokens, key_tokens, rules)


def _find(
    node: Any, path: str
) -> Iterator[tuple[str, MultiHeadAttentionContext | F.AttentionContext]]:
    if isinstance(node, MultiHeadAttentionContext | F.AttentionContext):
        yield path, node
    elif isinstance(node, tuple):
        names: Sequence[Any] = getattr(node, "_fields", range(len(node)))
        for name, child in zip(names, node, strict=True):
            yield from _find(child, f"{path}.{name}" if path else str(name))
