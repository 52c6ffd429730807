"""What attention works with: bounds for each batch row, and a tile map for all that is none."""

from typing import NamedTuple

import numpy as np

from miniattn._typing import Array, MaskLike
from miniattn.masks._arguments import UNBOUNDED as UNBOUNDED  # its public home
from miniattn.masks._arguments import offsets
from miniattn.masks._array import borrowed
from miniattn.masks._bounds import Band, Padding
from miniattn.masks._mask import Mask

TILE = 64


class Lowered(NamedTuple):
    """A mask as the attention kernels take it: key j is visible to query i iff all rules hold.

    Every array is C-contiguous, native and writeable. The tile map is shared with other calls: it
    is not to be written to.
    """

    lo: Array
    """(B,) int64: visible only if j - i >= lo[b] or j < sinks[b]."""
    hi: Array
    """(B,) int64: visible only if j - i <= hi[b]."""
    sinks: Array
    """(B,) int64: the first keys, which the lower bound does not hide."""
    lengths: Array
    """(B,) int64: visible only if j < lengths[b]; S where there is no padding."""
    tiles: Array
    """(1 or B, 1 or H, T / 64, S / 64) int64, rounded up, or (0, 0, 0, 0) for none: for each tile
    0 if it is hidden, 0xFFFF if it is full, else ``index << 16 | groups``; see `words`."""
    words: Array
    """(n, 64) uint64: bit i of ``words[index - 1, j]`` says whether query i of such a tile sees key
    j of it. ``groups`` are the 16 x 16 pairs of it in which anything is to be computed."""


NO_TILES = np.empty((0, 0, 0, 0), np.int64)
NO_WORDS = np.empty((0, TILE), np.uint64)


def lower(mask: MaskLike, B: int, H: int, T: int, S: int) -> Lowered:
    """Return the form of a mask (anything `as_mask` takes) that attention works with.

    Raises
    ------
    TypeError, ValueError
        If ``mask`` is not a mask, or does not fit the sizes.

    Notes
    -----
    Tile maps are kept, up to 256 MiB of them, and found again for an equal mask and equal sizes.

    Examples
    --------
    >>> from miniattn import masks
    >>> form = masks.lower(masks.causal() & masks.padding([2, 4]), B=2, H=1, T=3, S=4)
    >>> form.hi, form.lengths, form.tiles.size
    (array([1, 1]), array([2, 4]), 0)
    >>> form = masks.lower(masks.dilated(64) & masks.causal(), B=1, H=1, T=128, S=128)
    >>> form.tiles[0, 0] & 0xFFFF  # which 16 x 16 pairs of a tile are looked at, as bits
    array([[33825, 33825],
           [33825, 33825]])
    """
    checked = borrowed(mask)
    if checked is None:
        return _open(B, S)
    checked._fit(B, H, T, S)
    return checked._lower(B, H, T, S)


def with_tiles(
    mask: Mask, rest: tuple[Mask, ...], form: Lowered, B: int, H: int, T: int, S: int
) -> Lowered:
    """Return bounds together with the tile map of the rules of a mask that are none."""
    if not rest or not B * H * T * S:
        return form
    from miniattn.masks._tile_map import tile_map  # without it, masks are only described

    tiles, words = tile_map(mask, rest, form, B, H, T, S)
    return form._replace(tiles=tiles, words=words)


def split(mask: Mask, B: int, T: int, S: int) -> tuple[Lowered, tuple[Mask, ...]]:
    """Return the bounds of a mask that fits, and the rules that are none."""
    form, rest = _open(B, S), []
    for rule in mask.rules:
        bounds = _bounds(rule, B, T, S)
        joined = None if bounds is None else _intersect(form, bounds)
        if joined is None:
            rest.append(rule)
        else:
            form = joined
    return form, tuple(rest)


def rows_of_form(form: Lowered, b: int, h: int, queries: Array, S: int) -> Array:
    """Return the rows (n, S) of some queries (n,) of one batch row and head."""
    i, j = queries[:, None], np.arange(S)
    visible: Array = (j - i >= form.lo[b]) | (j < form.sinks[b])
    visible &= (j - i <= form.hi[b]) & (j < form.lengths[b])
    if form.tiles.size:
        tiles = form.tiles[min(b, len(form.tiles) - 1), min(h, form.tiles.shape[1] - 1)]
        visible &= _bits(tiles, form.words, i, j)
    return visible


def _bits(tiles: Array, words: Array, i: Array, j: Array) -> Array:
    """Read pairs off a tile map."""
    entries = tiles[i // TILE, j // TILE]
    index = entries >> 16
    if not len(words):
        return np.asarray(entries != 0)
    bits = words[np.maximum(index - 1, 0), j % TILE] >> (i % TILE).astype(np.uint64) & np.uint64(1)
    return np.asarray(np.where(index > 0, bits != 0, entries != 0))


# ------------------------------------------------------------------------------------------ bounds


def _open(B: int, S: int) -> Lowered:
    """Return the form that hides nothing."""
    lo, hi, sinks, lengths = np.empty((4, B), np.int64)  # one allocation, contiguous rows
    lo[:], hi[:], sinks[:], lengths[:] = -UNBOUNDED, UNBOUNDED, 0, S
    return Lowered(lo, hi, sinks, lengths, NO_TILES, NO_WORDS)


def _bounds(rule: Mask, B: int, T: int, S: int) -> Lowered | None:
    """Return a rule as bounds, None if it is none."""
    form = _open(B, S)
    if isinstance(rule, Padding):
        form.lengths[:] = rule.lengths
        return form
    if not isinstance(rule, Band):
        return None
    offset = offsets(rule.offset, T, S)
    if rule.left is not None:
        form.lo[:] = offset - rule.left
        form.sinks[:] = rule.sinks
    if rule.right is not None:
        form.hi[:] = offset + rule.right
    return form


def _intersect(a: Lowered, b: Lowered) -> Lowered | None:
    """Intersect bounds; None where that is no such form."""
    lower_bounds = _intersect_lower_bounds(a, b)
    if lower_bounds is None:
        return None
    lo, sinks = lower_bounds
    return a._replace(
        lo=lo,
        hi=np.minimum(a.hi, b.hi),
        sinks=sinks,
        lengths=np.minimum(a.lengths, b.lengths),
    )


def _intersect_lower_bounds(a: Lowered, b: Lowered) -> tuple[Array, Array] | None:
    """Intersect "j - i >= lo or j < sinks" of both."""
    # A higher bound with no more sinks is the stricter rule, and the intersection. An open bound
    # has no sinks. Only a higher bound with more sinks is no such rule.
    if not (a.sinks.any() or b.sinks.any()):
        return np.maximum(a.lo, b.lo), a.sinks
    a_stricter = (a.lo >= b.lo) & ((a.sinks <= b.sinks) | (b.lo == -UNBOUNDED))
    b_stricter = (b.lo >= a.lo) & ((b.sinks <= a.sinks) | (a.lo == -UNBOUNDED))
    if not (a_stricter | b_stricter).all():
        return None
    return np.where(b_stricter, b.lo, a.lo), np.where(b_stricter, b.sinks, a.sinks)
