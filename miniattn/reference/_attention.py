"""Attention, its weights and maps, and what merges its parts."""

# mypy: warn-return-any=False

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from miniattn import masks
from miniattn._options import given, spelled_out
from miniattn.reference._arrays import Array, Mask, f64, quiet
from miniattn.reference._softmax import (
    logsumexp,
    logsumexp_row,
    softmax,
    weigh_row,
    weigh_row_backward,
)
from miniattn.scores import Score


class Attention(NamedTuple):
    """What attention computes: out (B,H,T,Dv), weights (B,H,T,S) before dropout, lse (B,H,T)."""

    out: Array
    weights: Array
    lse: Array


class AttentionGrads(NamedTuple):
    """Gradients of attention, each with the shape of its input; None for what was not given."""

    dq: Array
    dk: Array
    dv: Array
    dbias: Array | None


class ScoredAttentionGrads(NamedTuple):
    """The same of attention with a score or a sink."""

    dq: Array
    dk: Array
    dv: Array
    dbias: Array | None
    dsink: Array | None
    dscore: tuple[Array | None, ...] | None


class Options(NamedTuple):
    """What `attention` takes beside q, k and v."""

    mask: Mask = None
    bias: ArrayLike | None = None
    scale: float | None = None
    softcap: float | None = None
    score: Score | None = None
    sink: ArrayLike | None = None
    normalizer: str = "softmax"
    dropout: float = 0.0
    keep: ArrayLike | None = None


@spelled_out(Options)
@quiet
def attention(q: ArrayLike, k: ArrayLike, v: ArrayLike, **options: Any) -> Attention:
    """out = dropout(softmax(score(cap(scale q k^T)) + bias)) v, each query over what it may see.

    q (B,H,T,D), k (B,G,S,D), v (B,G,S,Dv); head h reads key/value head h // (H // G). A sink is one
    more score of each row of its head, without a value. Other normalizers make weights in the
    place of softmax; lse is NaN then.
    ``keep`` (B,H,T,S) says which weights dropout keeps; ``dropout`` is the share it drops.
    """
    told: Options = given("attention", Options, options)
    q, k, v, visible, bias, scale, kept = _prepare(q, k, v, told)
    softcap, sink, normalizer = told.softcap, told.sink, told.normalizer
    weights, out = np.zeros(visible.shape), np.zeros((*q.shape[:-1], v.shape[-1]))
    lse = np.zeros(q.shape[:-1])
    for b, h, i in np.ndindex(q.shape[:-1]):
        g, see = h // (q.shape[1] // k.shape[1]), visible[b, h, i]
        s = scale * (k[b, g, see] @ q[b, h, i])
        if softcap is not None:
            s = softcap * np.tanh(s / softcap)
        s = _scored(told.score, s, b, h, i, np.flatnonzero(see))
        s = s + bias[b, h, i, see]
        if sink is not None:
            s = np.append(s, f64(sink)[h])
        w = weigh_row(s, normalizer)[: see.sum()]
        lse[b, h, i] = logsumexp_row(s) if normalizer == "softmax" else np.nan
        weights[b, h, i, see] = w
        out[b, h, i] = (w * kept[b, h, i, see]) @ v[b, g, see]
    return Attention(out, weights, lse)


@spelled_out(Options)
@quiet
def attention_backward(
    dout: ArrayLike, q: ArrayLike, k: ArrayLike, v: ArrayLike, **options: Any
) -> AttentionGrads | ScoredAttentionGrads:
    """The lines of `attention`, read upwards; keys collect from every query that sees them."""
    weights = attention(q, k, v, **options).weights
    told: Options = given("attention_backward", Options, options)
    q, k, v, visible, bias, scale, kept = _prepare(q, k, v, told)
    softcap, score, sink, normalizer = told.softcap, told.score, told.sink, told.normalizer
    dout = f64(dout)
    dq, dk, dv, dbias = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v), np.zeros_like(weights)
    dsink, dtables = np.zeros(q.shape[1]), _zeros_like_tables(score)
    for b, h, i in np.ndindex(q.shape[:-1]):
        g, see = h // (q.shape[1] // k.shape[1]), visible[b, h, i]
        w, m = weights[b, h, i, see], kept[b, h, i, see]
        # out = (w * m) @ v
        dv[b, g, see] += np.outer(w * m, dout[b, h, i])
        dw = m * (v[b, g, see] @ dout[b, h, i])
        z = scale * (k[b, g, see] @ q[b, h, i])
        before = z if softcap is None else softcap * np.tanh(z / softcap)
        # w = weigh(s)
        if sink is not None:  # one more score, without a value
            s = _scored(score, before, b, h, i, np.flatnonzero(see)) + bias[b, h, i, see]
            w = weigh_row(np.append(s, f64(sink)[h]), normalizer)
            dw = np.append(dw, 0.0)
        ds = weigh_row_backward(dw, w, normalizer)
        if sink is not None:
            ds, dsink[h] = ds[:-1], dsink[h] + ds[-1]
        # s = s + bias
        dbias[b, h, i, see] = ds
        # s = score(s)
        ds = _scored_backward(score, ds, before, (b, h, i), np.flatnonzero(see), dtables)
        # s = softcap * tanh(s / softcap)
        if softcap is not None:
            ds = ds / np.cosh(z / softcap) ** 2
        # s = scale * (k @ q)
        dq[b, h, i] = scale * (ds @ k[b, g, see])
        dk[b, g, see] += scale * np.outer(ds, q[b, h, i])
    of_bias = None if told.bias is None else _sum_to(dbias, np.shape(told.bias))
    if score is None and sink is None:
        return AttentionGrads(dq, dk, dv, of_bias)
    learned = tuple(dtables) if any(x is not None for x in dtables) else None
    return ScoredAttentionGrads(dq, dk, dv, of_bias, None if sink is None else dsink, learned)


def _scored(score: Score | None, s: Array, b: int, h: int, i: int, keys: Any) -> Array:
    """What a function of scores makes of a row: the function itself, called as Python."""
    if score is None:
        return s
    tables, at = _tables(score), i + _shift(score, b)
    f = score.function.forward
    pairs = zip(s, keys, strict=True)
    return np.array([f(x, b, h, at, int(j), *tables) for x, j in pairs], s.dtype)


def _scored_backward(
    score: Score | None,
    ds: Array,
    s: Array,
    place: tuple[int, int, int],
    keys: Any,
    dtables: list[Array | None],
) -> Array:
    """Back through it, adding to the gradients of tables."""
    if score is None:
        return ds
    b, h, i = place
    tables, own = _tables(score), [x for x in dtables if x is not None]
    f, at = score.function.backward_half, i + _shift(score, b)
    assert f is not None  # it was asked for
    triples = zip(ds, s, keys, strict=True)
    return np.array([f(d, x, b, h, at, int(j), *tables, *own) for d, x, j in triples], s.dtype)


def _tables(score: Score) -> list[Any]:
    """The tables of a score, floats in float64."""
    return [f64(x) if _is_float_array(x) else x for x in score.tables]


def _shift(score: Score, b: int) -> int:
    return 0 if score.shift is None else int(score.shift[b % len(score.shift)])


def _zeros_like_tables(score: Score | None) -> list[Array | None]:
    """Zeros for each table that has a gradient."""
    tables = () if score is None else score.tables
    return [np.zeros_like(f64(x)) if _is_float_array(x) else None for x in tables]


def _is_float_array(x: object) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind == "f"


def attention_weights(q: ArrayLike, k: ArrayLike, **options: Any) -> Array:
    """The weights of `attention`, before dropout: (B, H, T, S), rows that sum to 1 or are 0."""
    return attention(q, k, np.zeros((*np.shape(k)[:-1], 1)), **options).weights


def attention_map(
    q: ArrayLike, k: ArrayLike, *, bins: tuple[int, int] = (256, 256), **options: Any
) -> Array:
    """The weights in bins: summed over the keys of a column, averaged over the queries of a row."""
    weights = attention_weights(q, k, **options)
    rows, columns = (_bins(n, most) for n, most in zip(weights.shape[-2:], bins, strict=True))
    pooled = np.zeros((*weights.shape[:-2], len(rows), len(columns)))
    for (r, here), (c, there) in itertools.product(enumerate(rows), enumerate(columns)):
        pooled[..., r, c] = weights[..., here, there].sum(-1).mean(-1)
    return pooled


def _bins(n: int, most: int) -> list[slice]:
    """Cut range(n) into at most ``most`` parts that are as even as can be."""
    count = min(n, most)
    return [slice(i * n // count, (i + 1) * n // count) for i in range(count)]


class Merged(NamedTuple):
    """What merging gives: out (..., T, Dv) and lse (..., T) over all keys."""

    out: Array
    lse: Array


@quiet
def merge_attention(outs: Sequence[ArrayLike], lses: Sequence[ArrayLike]) -> Merged:
    """out = sum(softmax(lse) out) over parts that saw disjoint keys, and the joint lse."""
    lse = logsumexp(np.stack(lses), axis=0)
    shares = softmax(np.stack(lses), axis=0)[..., None]
    parts = np.stack([f64(out) for out in outs])
    return Merged((shares * parts).sum(0), lse)


@quiet
def merge_attention_backward(
    dout: ArrayLike,
    outs: Sequence[ArrayLike],
    lses: Sequence[ArrayLike],
    *,
    dlse: ArrayLike | None = None,
) -> tuple[Array, Array]:
    """douts_n = w_n dout and dlses_n = w_n (dout (out_n - out) + dlse), w = softmax(lses)."""
    dout, shares = f64(dout), softmax(np.stack(lses), axis=0)
    parts = np.stack([f64(out) for out in outs])
    off = parts - (shares[..., None] * parts).sum(0)
    joint = f64(0.0 if dlse is None else dlse)
    return shares[..., None] * dout, shares * ((dout * off).sum(-1) + joint)


def scaled_dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    attn_mask: ArrayLike | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
) -> Array:
    """PyTorch's function for (B, H, T, D) arrays: a bool mask selects, a float mask is added."""
    mask = None if attn_mask is None else np.asarray(attn_mask)
    t, s = np.shape(query)[-2], np.shape(key)[-2]
    visible = np.tri(t, s, dtype=bool) if is_causal else np.ones((t, s), bool)
    bias = None
    if mask is not None and mask.dtype == bool:
        visible = visible & mask
    elif mask is not None:
        bias = mask
    return attention(query, key, value, mask=visible, bias=bias, scale=scale).out


def _prepare(
    q: ArrayLike, k: ArrayLike, v: ArrayLike, told: Options
) -> tuple[Array, Array, Array, NDArray[np.bool_], Array, float, Array]:
    """Arrays in float64, and mask, bias and dropout factors spread out to (B, H, T, S)."""
    q, k, v = f64(q), f64(k), f64(v)
    full = (*q.shape[:-1], k.shape[-2])
    rule = masks.as_mask(told.mask)
    visible = np.ones(full, bool) if rule is None else rule.by_definition(*full)
    added = np.broadcast_to(f64(0.0 if told.bias is None else told.bias), full)
    kept = np.broadcast_to(
        f64(1.0 if told.keep is None else told.keep) / (1.0 - told.dropout), full
    )
    scale = 1.0 / math.sqrt(max(1, q.shape[-1])) if told.scale is None else told.scale
    return q, k, v, visible, added, scale, kept


def _sum_to(x: Array, shape: tuple[int, ...]) -> Array:
    """Sum ``x`` over the axes along which an array of ``shape`` was broadcast."""
    x = x.sum(tuple(range(x.ndim - len(shape))))
    return x.sum(tuple(a for a, n in enumerate(shape) if n == 1), keepdims=True).reshape(shape)
