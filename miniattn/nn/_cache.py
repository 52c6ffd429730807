"""The keys and values of tokens already seen, kept for decoding one token at a time."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

from miniattn import _checks, masks
from miniattn._typing import Array


class KVCache:
    """Keys and values of one attention layer, with room for ``capacity`` tokens a row.

    Rows of a batch may hold different numbers of tokens. A query appended at position p of its
    row may attend to positions 0 to p, so that decoding with a cache equals one causal forward.
    Within the ``prefix`` of its row all tokens see each other: then it equals one forward under
    ``masks.prefix(cache.prefix)``.

    Parameters
    ----------
    batch_size, num_kv_heads, capacity, head_dim : int
        B, G, the largest S, and D.
    window : int, optional
        How many tokens before its own a query sees. Given, older ones are forgotten when their
        room is needed: however long a row gets, about twice the window is held.
    sinks : int
        The first so many tokens are kept all the same.
    dtype : float32 or float64

    Attributes
    ----------
    lengths : int64 array, shape (B,)
        How many tokens each row has had.
    forgotten : int64 array, shape (B,)
        How many of them are no longer held: those after the sinks.
    prefix : int64 array, shape (B,)
        How many tokens at the beginning of each row see each other, and are to be appended by one
        call; 0, to be written to before the first.

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
        window: int | None = None,
        sinks: int = 0,
        dtype: DTypeLike = np.float32,
    ) -> None:
        if window is not None:
            window = _checks.integer("window", window, least=0)
        self.window, self.sinks = window, _checks.integer("sinks", sinks, least=0)
        if sinks and window is None:
            raise ValueError(f"sinks: expected 0 without a window, got {sinks}")
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
        self.forgotten: Array = np.zeros(batch_size, np.int64)
        self._room = self.keys.shape[2]  # of a window; a long prompt takes more for one call
        self.prefix: Array = np.zeros(batch_size, np.int64)

    @property
    def capacity(self) -> int:
        """The largest number of tokens of a row that are held."""
        return int(self.keys.shape[2])

    @property
    def held_lengths(self) -> Array:
        """How many tokens of each row are held, (B,)."""
        held: Array = self.lengths - self.forgotten
        return held

    def key_positions(self) -> Array:
        """Return where the keys that are held are in their row: (S,), or (B, S) if some are not."""
        count = int(self.held_lengths.max(initial=0))
        return self._beyond(self.forgotten, count) if self.forgotten.any() else np.arange(count)

    def _beyond(self, skipped: Array, count: int) -> Array:
        """Return the first ``count`` places of each row without those skipped after the sinks."""
        at = np.arange(count)
        places: Array = at + np.where(at < self.sinks, 0, skipped[:, None])
        return places

    def positions(self, count: int) -> Array:
        """Return the positions that the next ``count`` tokens of each row will have, (B, count)."""
        return self.lengths[:, None] + np.arange(_checks.integer("count", count, least=0))

    def mask(self, count: int) -> masks.Mask:
        """Return what the next ``count`` tokens of each row see: a causal mask, or a prefix's.

        Examples
        --------
        >>> from miniattn import nn
        >>> cache = nn.KVCache(1, 2, 16, 4)
        >>> cache.mask(5)
        causal(offset=[0])
        >>> cache.prefix[:] = 3
        >>> cache.mask(5)
        prefix([3], offset=[0])
        """
        start, prefix = self.lengths.copy(), self.prefix
        begun = start < prefix
        if not begun.any():
            return masks.causal(start)
        cut = begun & ((start > 0) | (count < prefix))
        if cut.any():
            row = int(cut.argmax())
            raise ValueError(
                f"cache: expected the prefix of {prefix[row]} tokens of row {row} in one call, "
                f"got {count} after {start[row]}"
            )
        return masks.prefix(prefix, start)

    def held(self) -> tuple[Array, Array]:
        """Return views of all keys and values that are held, (B, G, S, D), S the most of a row."""
        end = int(self.held_lengths.max(initial=0))
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
        self.make_room(length)
        held = self.held_lengths
        end = int(held.max(initial=0)) + length
        if end > self.capacity:
            raise ValueError(f"k: expected at most {self.capacity} tokens in a row, got {end}")
        if len(set(held.tolist())) == 1:
            self.keys[:, :, end - length : end] = k
            self.values[:, :, end - length : end] = v
        else:
            row, at = np.arange(batch)[:, None], held[:, None] + np.arange(length)
            self.keys[row, :, at] = k.swapaxes(1, 2)
            self.values[row, :, at] = v.swapaxes(1, 2)
        self.lengths += length
        return self.keys[:, :, :end], self.values[:, :, :end]

    def make_room(self, count: int) -> None:
        """Forget what no later query sees, if ``count`` tokens more have no room otherwise."""
        if self.window is None:
            return
        held = self.held_lengths
        if int(held.max(initial=0)) + count <= self.capacity == self._room:
            return
        forget = np.maximum(held - self.sinks - self.window, 0)
        end = int((held - forget).max(initial=0))
        at = np.minimum(self._beyond(forget, end), self.capacity - 1)[:, None, :, None]
        # A window has room soon enough; what a prompt takes beyond that goes with it.
        self._room = max(self._room, min(end + count, self.sinks + 2 * self.window + 1))
        shape = list(self.keys.shape)
        shape[2] = max(self._room, end + count)
        for name in ("keys", "values"):
            old: Array = getattr(self, name)
            kept = np.take_along_axis(old, at, axis=2) if end else old[:, :, :0]
            new = old if shape == list(old.shape) else np.zeros(shape, old.dtype)
            new[:, :, :end] = kept
            setattr(self, name, new)
        self.forgotten += forget

    def truncate(self, lengths: Sequence[int] | Array) -> None:
        """Keep the first ``lengths[b]`` tokens of each row, e.g. to forget appended padding."""
        lengths = _checks.int_array("lengths", lengths)
        _checks.shape("lengths", lengths, "B", {"B": self.lengths.size})
        least = self.forgotten + np.where(self.forgotten > 0, self.sinks + (self.window or 0), 0)
        if (lengths < least).any() or (lengths > self.lengths).any():
            raise ValueError(
                f"lengths: expected numbers in [{least.tolist() if least.any() else 0}, "
                f"{self.lengths.tolist()}], got {lengths.tolist()}"
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
        self.lengths, self.forgotten = self.lengths[rows], self.forgotten[rows]
        self.prefix = self.prefix[rows]

    def __repr__(self) -> str:
        batch, heads, capacity, width = self.keys.shape
        window = "" if self.window is None else f"window={self.window}, "
        return (
            f"KVCache(batch_size={batch}, num_kv_heads={heads}, capacity={capacity}, "
            f"head_dim={width}, {window}lengths={self.lengths.tolist()})"
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
