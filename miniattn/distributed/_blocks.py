"""Attention of some queries over some of the keys, and how its results become those over all keys.

A block knows the place of its queries and keys in the whole, so that masks, bias and dropout are
what they would be there. With m the maximum of a row's scores and l the sum of exponentials
relative to it, two blocks a and b of the same queries are merged by::

    m = max(m_a, m_b)        w_a = l_a exp(m_a - m)        w_b = l_b exp(m_b - m)
    l = w_a + w_b            out = (w_a out_a + w_b out_b) / l

Backward needs no more than out, m and l over all keys: with them in the place of a block's own, the
gradients of a block are its share of the whole.

References
----------
Milakov, Gimelshein. "Online normalizer calculation for softmax" (2018), section 3.1.
Liu, Zaharia, Abbeel. "Ring Attention with Blockwise Transformers for Near-Infinite Context" (2023),
section 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from miniattn import _checks, masks
from miniattn._memory import empty
from miniattn._typing import Array
from miniattn.distributed._layout import Stretch
from miniattn.distributed._mask import Part, hides_all
from miniattn.functional._attention_calls import Besides, Options, execute, measure_of
from miniattn.kernels.attention.operands import Place

BIAS_ENTRIES = 2**22  # of a bias are made at a time
LEAST_ROWS = 64  # of a bias: a tile
KEYS_AT_A_TIME = 2**13  # in backward


class BiasFunction(Protocol):
    """A bias by positions: no rank holds T x S of anything.

    ``bias(i, j)`` returns the bias of the queries at positions i (T,) and the keys at j (S,), an
    array that broadcasts to (B, H, T, S). If it is learned, it has a method ``backward(dbias, i,
    j)``, which is given the gradient of each such array, of its own shape.
    """

    def __call__(self, i: Array, j: Array) -> Array:
        """Return the bias of some queries and keys."""


class Call(NamedTuple):
    """What is the same for all blocks of a call."""

    mask: masks.Mask | None
    bias: Any
    options: Options
    seed: int
    sizes: tuple[int, int, int]
    """H, T and S of the whole."""

    @property
    def measure(self) -> float:
        """What the kernels' maxima are to be multiplied by, to be those of scores."""
        return measure_of(self.options.scale, self.options.softcap, self.bias is not None)


class Rows(NamedTuple):
    """What is known of each query: its output, the maximum of its scores, and their sum."""

    out: Array
    """(B, H, T, Dv)."""
    stats: Array
    """(2, B, H, T): maximum and log2 of the sum relative to it, as kernels have them."""


class Block(NamedTuple):
    """Queries, keys and heads by their places in the whole."""

    queries: Stretch
    keys: Stretch
    heads: slice

    def pieces(self, call: Call) -> Iterator[tuple[slice, Block]]:
        """Yield rows of it, few enough that their bias fits: all of them where there is none."""
        n = self.queries.length
        entries = (self.heads.stop - self.heads.start) * self.keys.length
        step = n if call.bias is None else max(LEAST_ROWS, BIAS_ENTRIES // max(1, entries))
        for at in range(0, n, max(1, step)):
            part = slice(at, min(n, at + step))
            start = self.queries.start + at * self.queries.step
            queries = Stretch(start, self.queries.step, part.stop - part.start)
            yield part, self._replace(queries=queries)

    def of_keys(self, count: int) -> Iterator[tuple[slice, Block]]:
        """Yield ``count`` of its keys at a time."""
        for at in range(0, self.keys.length, count):
            part = slice(at, min(self.keys.length, at + count))
            start = self.keys.start + at * self.keys.step
            keys = Stretch(start, self.keys.step, part.stop - part.start)
            yield part, self._replace(keys=keys)

    def place(self) -> Place:
        """Return what dropout is drawn by."""
        q, k = self.queries, self.keys
        return Place(self.heads.start, q.start, q.step, k.start, k.step)


def forward(q: Array, k: Array, v: Array, call: Call, block: Block) -> tuple[Rows, bool] | None:
    """Return attention over one block, and whether its numbers were fit for their dtype.

    None where no query sees a key. q (B, H, T, D), k (B, G, S, D), v (B, G, S, Dv), contiguous.
    """
    mask = part_of(call, block)
    if hides_all(mask, q.shape, k.shape):
        return None
    rows = Rows(empty((*q.shape[:3], v.shape[-1]), q.dtype), np.empty((2, *q.shape[:3]), q.dtype))
    fit = True
    for part, piece in block.pieces(call):
        arrays = {"q": _cut(q, part), "k": k, "v": v, "out": _cut(rows.out, part)}
        stats = np.empty((2, *arrays["q"].shape[:3]), q.dtype)
        arrays |= {"stats": stats, "lse": _number_a_row(arrays["q"])}
        if call.bias is not None:
            arrays["bias"] = _bias(call, piece, q.dtype)
        mask = part_of(call, piece)
        fit &= execute("forward", arrays, call.options, Besides(mask, call.seed), piece.place())
        rows.stats[..., part] = stats
    return rows, fit


def forward_or_nothing(q: Array, k: Array, v: Array, call: Call, block: Block) -> tuple[Rows, bool]:
    """Return the same where one block is all there is."""
    found = forward(q, k, v, call, block)
    return (no_rows(q, v.shape[3]), True) if found is None else found


def backward(
    dout: Array, q: Array, k: Array, v: Array, rows: Rows, call: Call, block: Block
) -> tuple[tuple[Array, Array, Array], bool] | None:
    """Return (dq, dk, dv) of one block, and whether its numbers were fit; None where all is 0.

    ``rows`` are those over all keys. Of many keys some are done at a time: the kernels hold up to
    four sums of their gradients.
    """
    if k.shape[2] <= KEYS_AT_A_TIME:
        return _backward(dout, q, k, v, rows, call, block)
    dq, dk, dv = (np.zeros(x.shape, x.dtype) for x in (q, k, v))
    fit = True
    for part, piece in block.of_keys(KEYS_AT_A_TIME):
        found = _backward(dout, q, k[:, :, part], v[:, :, part], rows, call, piece)
        if found is not None:
            dq += found[0][0]
            dk[:, :, part], dv[:, :, part] = found[0][1:]
            fit &= found[1]
    return (dq, dk, dv), fit


def _backward(
    dout: Array, q: Array, k: Array, v: Array, rows: Rows, call: Call, block: Block
) -> tuple[tuple[Array, Array, Array], bool] | None:
    if hides_all(part_of(call, block), q.shape, k.shape):
        return None
    dq, dk, dv = (empty(x.shape, x.dtype) for x in (q, k, v))
    more_k, more_v = dk, dv  # of the first piece; those of others are added
    learned, fit = getattr(call.bias, "backward", None), True
    for part, piece in block.pieces(call):
        if part.start:
            more_k, more_v = empty(k.shape, k.dtype), empty(v.shape, v.dtype)
        arrays = {"q": _cut(q, part), "k": k, "v": v, "out": _cut(rows.out, part)}
        arrays["stats"] = np.ascontiguousarray(rows.stats[..., part], q.dtype)
        arrays |= {"lse": _number_a_row(arrays["q"]), "dout": _cut(dout, part)}
        arrays |= {"dq": _cut(dq, part), "dk": more_k, "dv": more_v}
        if call.bias is not None:
            arrays["bias"] = _bias(call, piece, q.dtype)
        unit = None
        if learned is not None:
            arrays["dbias"] = np.zeros(arrays["bias"].shape, q.dtype)
            unit = (
                "vector"  # reads the maxima that are given; the one for few queries makes its own
            )
        mask = part_of(call, piece)
        fit &= execute(
            "backward", arrays, call.options, Besides(mask, call.seed), piece.place(), unit
        )
        if learned is not None:
            learned(_of_all_heads(arrays["dbias"], call, piece), *_positions(piece))
        if part.start:
            dk += more_k
            dv += more_v
    return (dq, dk, dv), fit


def merge(rows: Rows | None, other: Rows, measure: float) -> Rows:
    """Return what is known of each query from both; ``rows`` is written to, its stats in float64.

    ``measure`` is what maxima are to be multiplied by, to be those of scores.
    """
    if rows is None:
        return Rows(other.out, other.stats.astype(np.float64))
    (top_a, log_a), (top_b, log_b) = rows.stats, other.stats.astype(np.float64)
    top = np.fmax(top_a, top_b)
    base = np.where(np.isneginf(top), 0.0, top)
    factor = measure * math.log2(math.e)
    with np.errstate(invalid="ignore"):  # NaN in a visible place is the row's own
        a = np.exp2((top_a - base) * factor + log_a)
        b = np.exp2((top_b - base) * factor + log_b)
        total = a + b
        share = 1 / np.where(total == 0, 1.0, total)
        for out, part in ((rows.out, a * share), (other.out, b * share)):
            out *= part.astype(out.dtype)[..., None]
    rows.out[...] += other.out
    rows.stats[0] = top
    rows.stats[1] = np.log2(np.where(total == 0, 1.0, total))
    return rows


def no_rows(q: Array, width: int) -> Rows:
    """Return what is known of queries that see nothing."""
    stats = np.zeros((2, *q.shape[:3]))
    stats[0] = -np.inf
    return Rows(np.zeros((*q.shape[:3], width), q.dtype), stats)


def part_of(call: Call, block: Block) -> Part | None:
    """Return what the mask says of a block."""
    if call.mask is None:
        return None
    return Part(call.mask, call.sizes, block.queries, block.keys, block.heads)


def lse_of(rows: Rows, measure: float) -> Array:
    """Return the log-sum-exp of each row of scores."""
    top, log_sum = rows.stats
    with np.errstate(over="ignore"):
        lse: Array = (top * measure + log_sum * math.log(2)).astype(rows.out.dtype)
    return lse


def _number_a_row(q: Array) -> Array:
    return empty(q.shape[:3], q.dtype)


def _positions(block: Block) -> tuple[Array, Array]:
    return block.queries.positions, block.keys.positions


def _bias(call: Call, block: Block, dtype: Any) -> Array:
    """Return the bias of a block, of four axes and of the block's heads."""
    bias = np.asarray(call.bias(*_positions(block)), dtype)
    full = (1, call.sizes[0], block.queries.length, block.keys.length)
    _checks.broadcastable("bias(i, j)", bias[:1] if bias.ndim == 4 else bias, "B, H, T, S", full)
    bias = bias.reshape((1,) * (4 - bias.ndim) + bias.shape)
    if bias.shape[1] > 1:
        bias = bias[:, block.heads]
    return np.ascontiguousarray(bias)


def _of_all_heads(dbias: Array, call: Call, block: Block) -> Array:
    """Return the gradient of what the bias function returned, 0 for heads of other ranks."""
    like = np.asarray(call.bias(*_positions(block)))
    if like.ndim < 3 or like.shape[-3] == 1:
        return dbias.reshape(like.shape)
    whole = np.zeros(like.shape, dbias.dtype)
    whole[..., block.heads, :, :] = dbias.reshape(*like.shape[:-3], *dbias.shape[1:])
    return whole


def _cut(x: Array, rows: slice) -> Array:
    return x[:, :, rows]
