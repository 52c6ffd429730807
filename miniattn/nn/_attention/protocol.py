"""What a transformer layer asks of its attention, so that it may be a module of one's own."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from miniattn._typing import Array
from miniattn.nn._cache import KVCache


@runtime_checkable
class SelfAttention(Protocol):
    """What may stand in the place of ``layer.attn`` (a decoder's ``self_attn``).

    A module of a user's own with ``forward`` and ``backward``. Of the options of
    `MultiHeadAttention.forward` a layer hands on those that it was given and no others, so that
    ``forward`` needs only those that are used with it:

    - ``rng`` always: None, or a generator where there is to be dropout;
    - ``mask``, a `masks.Mask` or a bool array that broadcasts to (B, H, T, S), in models: GPT's
      causal mask, padding of classifiers;
    - ``cache`` in ``generate``: what `new_cache` returned, to which the tokens' keys and values are
      to be appended. There is no causal mask then: each token sees what the cache holds, and of the
      new ones what `KVCache.mask` says;
    - ``bias`` and ``positions`` where the stack is called with them. ``backward`` then returns a
      NamedTuple with ``dbias``.

    ``generate`` asks for `new_cache` too; without one, ``use_cache=False`` writes the same tokens.

    Examples
    --------
    >>> import numpy as np
    >>> import miniattn.functional as F
    >>> from miniattn import models, nn, trace
    >>> class OneHead(nn.Module):
    ...     def __init__(self, size):
    ...         self.out = nn.Linear(size, size)
    ...     def forward(self, x, *, mask=None, cache=None, rng=None):
    ...         q = k = v = x[:, None]
    ...         if cache is not None:
    ...             mask = cache.mask(x.shape[1]) & mask
    ...             k, v = cache.append(k, v)
    ...         out, attention = F.attention_forward(q, k, v, mask=mask)
    ...         y, projection = self.out.forward(out[:, 0])
    ...         return y, (attention, projection)
    ...     def backward(self, dy, ctx):
    ...         attention, projection = ctx
    ...         # y = out(attention(x, x, x))
    ...         dout = self.out.backward(dy, projection)[:, None]
    ...         dq, dk, dv, _ = F.attention_backward(dout, attention)
    ...         return (dq + dk + dv)[:, 0]
    ...     def new_cache(self, batch_size, capacity):
    ...         return nn.KVCache(batch_size, 1, capacity, self.out.weight.shape[1])
    >>> model = models.GPT(9, 8, embed_dim=8, num_heads=2, rng=np.random.default_rng(0))
    >>> model.blocks.layers[0].attn = OneHead(8)
    >>> isinstance(model.blocks.layers[0].attn, nn.SelfAttention)
    True
    >>> len(model.generate([1, 2], 3))
    5
    >>> y, t = trace.run(model, np.array([[1, 2, 3]]))
    >>> t["blocks.layers.0.attn.weights"].shape
    (1, 1, 3, 3)
    """

    def forward(self, x: Array, /, *, rng: Any = None) -> tuple[Array, Any]:
        """Return (y, ctx), both x and y (B, T, E)."""
        ...

    def backward(self, dy: Array, ctx: Any, /) -> Any:
        """Return dx, or a NamedTuple whose first field is dx."""
        ...

    def new_cache(self, batch_size: int, capacity: int, /) -> KVCache:
        """Return an empty cache for ``generate``."""
        ...


@runtime_checkable
class CrossAttention(Protocol):
    """What may stand in the place of a decoder layer's ``cross_attn``.

    As `SelfAttention`, with ``mask`` of the memory's padding; ``backward`` returns dx and dmemory.
    ``EncoderDecoder.generate`` asks for `remember`; its ``use_cache=False`` does without.
    """

    def forward(self, x: Array, memory: Any, /, *, rng: Any = None) -> tuple[Array, Any]:
        """Return (y, ctx): x (B, T, E), memory (B, S, memory_dim) or what `remember` returned."""
        ...

    def backward(self, dy: Array, ctx: Any, /) -> tuple[Any, ...]:
        """Return (dx, dmemory, ...)."""
        ...

    def remember(self, memory: Array, /) -> KVCache:
        """Return keys and values of a memory, to be given in its place many times."""
        ...
