"""The keys and values of tokens already seen, kept for decoding one token at a time."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

from miniattn import _checks
from miniattn._typing import Array


class KVCache:
    """Keys and values of one attention layer, with room for ``capacity`` tokens a row.

    Rows of a batch may hold different numbers of tokens. A query appended at position p of its
    row may attend to positions 0 to p, so that decoding with a cache equals one causal forward.

    Parameters
    ----------
    batch_size, num_kv_heads, capacity, head_dim : int
        B, G, the largest S, and D.
    dtype : float32 or float64

    Attributes
    ----------
    lengths : int64 array, shape (B,)
        How many tokens each row holds.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> attn = nn.MultiHeadAttention(8, 2)
    >>> x = np.random.default_rng(0).standard_normal((1, 5, 8), dtype=np.float32)
    >>> cache = nn.KVCache(1, 2, 16, 4)
    >>> first, last = attn(x[:, :4], cache=cache), attn(x[:, 4:], cache=cache)
    >>> from miniattn import masks
    >>> bool(np.allclose(last, attn(x, mask=masks.causal())[:, 4:], atol=1e-6))
    True
    """

    def __init__(
        self,
        batch_size: int,
        num_kv_heads: int,
        capacity: int,
        head_dim: int,
        *,
        dtype: DTypeLike = np.float32,
    ) -> None:
        shape = (
            _checks.integer("batch_size", batch_size, least=0),
            _checks.integer("num_kv_heads", num_kv_heads, least=1),
            _checks.integer("capacity", capacity, least=0),
            _checks.integer("head_dim", head_dim, least=1),
        )
        dtype = _checks.float_dtype("dtype", dtype)
        self.keys: Array = np.zeros(shape, dtype)
        self.values: Array = np.zeros(shape, dtype)
        self.lengths: Array = np.zeros(batch_size, np.int64)

    @property
    def capacity(self) -> int:
        """The largest number of tokens in a row."""
        return int(self.keys.shape[2])

    def positions(self, count: int) -> Array:
        """Return the positions that the next ``count`` tokens of each row will have, (B, count)."""
        return self.lengths[:, None] + np.arange(_checks.integer("count", count, least=0))

    def held(self) -> tuple[Array, Array]:
        """Return views of all keys and values, (B, G, S, D), S the largest of ``lengths``."""
        end = int(self.lengths.max(initial=0))
        return self.keys[:, :, :end], self.values[:, :, :end]

    def append(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Add keys and values (B, G, T, D); return views of all that is held, (B, G, S, D)."""
        batch, heads, _, width = self.keys.shape
        k, v = _checks.float_array("k", k), _checks.float_array("v", v)
        _checks.like("k", k, self.keys.dtype, "the cache")
        _checks.like("v", v, self.keys.dtype, "the cache")
        _checks.shape("k", k, "B, G, T, D", {"B": batch, "G": heads, "D": width})
        _checks.shape("v", v, "B, G, T, D", {"B": batch, "G": heads, "T": k.shape[2], "D": width})
        length = k.shape[2]
        end = int(self.lengths.max(initial=0)) + length
        if end > self.capacity:
            raise ValueError(f"k: expected at most {self.capacity} tokens in a row, got {end}")
        if len(set(self.lengths.tolist())) == 1:
            self.keys[:, :, end - length : end] = k
            self.values[:, :, end - length : end] = v
        else:
            row, at = np.arange(batch)[:, None], self.positions(length)
            self.keys[row, :, at] = k.swapaxes(1, 2)
            self.values[row, :, at] = v.swapaxes(1, 2)
        self.lengths += length
        return self.keys[:, :, :end], self.values[:, :, :end]

    def truncate(self, lengths: Sequence[int] | Array) -> None:
        """Keep the first ``lengths[b]`` tokens of each row, e.g. to forget appended padding."""
        lengths = _checks.int_array("lengths", lengths)
        _checks.shape("lengths", lengths, "B", {"B": self.lengths.size})
        if (lengths < 0).any() or (lengths > self.lengths).any():
            raise ValueError(
                f"lengths: expected numbers in [0, {self.lengths.tolist()}], got {lengths.tolist()}"
            )
        self.lengths[:] = lengths

    def select(self, rows: Sequence[int] | Array) -> None:
        """Go on with these rows (n,): one may be there several times, another not at all."""
        rows = _checks.int_array("rows", rows)
        _checks.shape("rows", rows, "n")
        if rows.size and not 0 <= rows.min() <= rows.max() < self.lengths.size:
            raise ValueError(
                f"rows: expected ints in [0, B) with B = {self.lengths.size}, got {rows.tolist()}"
            )
        if np.array_equal(rows, np.arange(self.lengths.size)):
            return
        if rows.size != self.lengths.size:
            self.keys, self.values = self.keys[rows], self.values[rows]
        else:  # where they are, so that what was noted of their place stays true
            for held in self.held():
                held[...] = held[rows]
        self.lengths = self.lengths[rows]

    def __repr__(self) -> str:
        batch, heads, capacity, width = self.keys.shape
        return (
            f"KVCache(batch_size={batch}, num_kv_heads={heads}, capacity={capacity}, "
            f"head_dim={width}, lengths={self.lengths.tolist()})"
        )


def of_layers(
    caches: object, count: int, name: str = "caches"
) -> tuple[KVCache, ...] | tuple[None, ...]:
    """Return the cache of each of ``count`` layers, or None for each where there are none."""
    if caches is None or (isinstance(caches, list | tuple) and not caches):
        return (None,) * count
    given = tuple(_checks.sequence(name, caches, "KVCaches, one a layer"))
    for i, cache in enumerate(given):
        _checks.instance(f"{name}[{i}]", cache, KVCache)
    if len(given) != count:
        raise ValueError(f"{name}: expected one a layer, {count} in all, got {len(given)}")
    return given
