"""Scaled dot-product attention: forward, backward, its weights and its map."""

import functools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias, TypedDict, Unpack, overload

import numpy as np

from miniattn import _checks, masks
from miniattn._context import context
from miniattn._memory import empty, zeros
from miniattn._typing import Array, MaskLike, Shape
from miniattn.functional._attention_calls import Options, unit_of
from miniattn.functional._doubles import run, run_in_doubles
from miniattn.kernels.attention.units import FEW_QUERIES
from miniattn.kernels.compile.tables import strided

Input: TypeAlias = Literal["q", "k", "v", "bias"]
_INPUTS: tuple[Input, ...] = ("q", "k", "v", "bias")


@context
class AttentionContext(NamedTuple):
    """What `attention_backward` needs of a call of `attention_forward`."""

    q: Array
    k: Array
    v: Array
    out: Array
    lse: Array
    """(B, H, T): log-sum-exp of each row of scores; -inf where a row sees nothing."""
    stats: Array
    """(2, B, H, T): of each row the maximum of its scores, as the kernels have them, and log2 of
    the sum of exponentials relative to it. lse is their sum, rounded. They are float64 where
    float32 could not hold what came in between: then backward is done in float64, too.
    """
    mask: masks.Mask | None
    bias: Array | None
    scale: float
    softcap: float | None
    dropout: float
    seed: int
    """Names the dropout pattern together with (b, h, i, j)."""


class AttentionGrads(NamedTuple):
    """Gradients of `attention_forward`; None where not needed, and for a bias not given."""

    dq: Array | None
    """(B, H, T, D)."""
    dk: Array | None
    """(B, G, S, D)."""
    dv: Array | None
    """(B, G, S, Dv)."""
    dbias: Array | None
    """Of bias's own shape."""


class _Options(TypedDict, total=False):
    """Options of `attention`, for its overloads."""

    mask: MaskLike
    bias: Array | None
    scale: float | None
    softcap: float | None
    dropout: float
    rng: np.random.Generator | None


@overload
def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    return_weights: Literal[False] = False,
    **options: Unpack[_Options],
) -> Array: ...


@overload
def attention(
    q: Array, k: Array, v: Array, *, return_weights: Literal[True], **options: Unpack[_Options]
) -> tuple[Array, Array]: ...


@overload
def attention(
    q: Array, k: Array, v: Array, *, return_weights: bool, **options: Unpack[_Options]
) -> Array | tuple[Array, Array]: ...


def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    mask: MaskLike = None,
    bias: Array | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    rng: np.random.Generator | None = None,
    return_weights: bool = False,
) -> Array | tuple[Array, Array]:
    r"""Attention: ``out = dropout(softmax(cap(scale * q @ k^T) + bias + mask)) @ v``.

    Parameters
    ----------
    q : (B, H, T, D) float32 or float64
        Queries. Leading axes may be missing in q, k and v alike: (H, T, D) or (T, D).
    k : (B, G, S, D)
        Keys, of the same dtype. G divides H: query head h uses key/value head h // (H // G).
    v : (B, G, S, Dv)
        Values.
    mask : Mask, bool array or None
        What each query may attend to (True = may attend): ``masks.causal()``,
        ``masks.padding(lengths)``, ..., or a bool array that broadcasts to (B, H, T, S).
    bias : float array, optional
        Added to the scores; broadcasts to (B, H, T, S). A -inf gives that key weight 0.
    scale : float, optional
        Default 1 / sqrt(D).
    softcap : float > 0, optional
        c in ``c * tanh(scores / c)``, applied before bias and mask.
    dropout : float in [0, 1)
        The probability that a weight is set to 0; the others are divided by ``1 - dropout``.
    rng : numpy.random.Generator
        Required where ``dropout > 0``.
    return_weights : bool
        Return ``(out, weights)``: weights (B, H, T, S) before dropout. It takes T x S memory, and
        ``out`` has the same bits with and without.

    Returns
    -------
    (B, H, T, Dv) array, or a pair of arrays

    Raises
    ------
    TypeError
        If an array is not float32 or float64, or the dtypes differ; for a mask of another kind.
    ValueError
        If shapes don't fit or a number is out of its range.

    Notes
    -----
    A query that may attend to nothing gets exactly 0. What a hidden key or value holds, NaN
    included, cannot reach the queries that it is hidden from. A row whose scores contain +inf
    is NaN. The result has the same bits for any number of threads; docs/bits.md says what
    may change them.

    Finite numbers of every size give what float64 says, rounded. A float32 call with scores beyond
    1,024, or with numbers that float32 cannot hold on the way, is therefore done once more in
    float64. A bias of -1e9 for all keys of a query makes it one; a mask doesn't. Derivation and
    kernel: docs/derivations/attention.md, docs/kernel.md.

    References
    ----------
    Vaswani et al. "Attention Is All You Need" (2017), section 3.2.1.
    Ainslie et al. "GQA" (2023), section 2.2 (grouped heads).

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import masks
    >>> from miniattn.functional import attention
    >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> attention(x, x, x, mask=masks.causal()).round(2)
    array([[1.  , 0.  ],
           [0.33, 0.67],
           [0.75, 0.75]])
    """
    return_weights = _checks.flag("return_weights", return_weights)
    out, ctx = attention_forward(
        q, k, v, mask=mask, bias=bias, scale=scale, softcap=softcap, dropout=dropout, rng=rng
    )
    if not return_weights:
        return out
    weights = attention_weights(
        ctx.q, ctx.k, mask=ctx.mask, bias=ctx.bias, scale=ctx.scale, softcap=ctx.softcap
    )
    return out, weights


def attention_forward(
    q: Array,
    k: Array,
    v: Array,
    *,
    mask: MaskLike = None,
    bias: Array | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    rng: np.random.Generator | None = None,
) -> tuple[Array, AttentionContext]:
    """Compute `attention` and keep what its backward needs: O(T) beside inputs and output.

    Parameters
    ----------
    q, k, v, mask, bias, scale, softcap, dropout, rng
        As in `attention`.

    Returns
    -------
    out : (B, H, T, Dv) array
        Laid out in memory like q: heads interleaved where q's are.
    ctx : AttentionContext
        ``ctx.lse`` (B, H, T) is the log-sum-exp of each row of scores, -inf for an empty row.
        `merge_attention` combines attention over disjoint sets of keys.
        The context holds q, k, v, bias and out themselves: before the backward, write to a copy.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn.functional import attention_forward
    >>> zero = np.zeros((2, 4))
    >>> out, ctx = attention_forward(zero, zero, np.eye(2))
    >>> out, ctx.lse.round(4)
    (array([[0.5, 0.5],
           [0.5, 0.5]]), array([0.6931, 0.6931]))
    """
    q, k, v = (_checks.float_array(*x) for x in (("q", q), ("k", k), ("v", v)))
    _checks.same_dtype(q=q, k=k, v=v)
    _check_keys(q.shape, k.shape)
    _check_values(q.shape, k.shape, v.shape)
    bias = _bias(bias, q, k)
    scale, softcap = _scale(scale, q), _softcap(softcap)
    dropout = _checks.probability("dropout", dropout)
    if dropout or rng is not None:
        rng = _checks.generator("rng", rng)
    seed = int(rng.integers(2**63)) if rng is not None and dropout else 0
    mask = masks.as_mask(mask)

    four_q, four_k, four_v = _four_axes(q), _four_axes(k), _four_axes(v)
    out = _empty_like(four_q, v.shape[-1])
    lse, stats = np.empty(out.shape[:3], q.dtype), np.empty((2, *out.shape[:3]), q.dtype)
    arrays = {"q": four_q, "k": four_k, "v": four_v, "out": out, "lse": lse, "stats": stats}
    _add_bias(arrays, bias)
    options = Options(scale, softcap, dropout)
    used = run("forward", arrays, ["out", "lse", "stats"], options, mask, seed)
    ctx = AttentionContext(
        q,
        k,
        v,
        _drop_axes(out, 4 - q.ndim),
        _drop_axes(lse, 4 - q.ndim),
        used["stats"],
        mask,
        bias,
        scale,
        softcap,
        dropout,
        seed,
    )
    return ctx.out, ctx


def attention_backward(
    dout: Array,
    ctx: AttentionContext,
    *,
    dlse: Array | None = None,
    needs: Sequence[Input] = _INPUTS,
) -> AttentionGrads:
    """Return the gradients of `attention_forward`.

    With P the weights and delta_i = sum_e dout_ie out_ie::

        dv = P^T dout    dS = P * (dout v^T - delta)    dq = scale dS k    dk = scale dS^T q

    and dbias the sum of dS over what was broadcast (dS before the softcap's slope; dropout keeps
    in P^T dout and dout v^T what it kept in the forward direction). Where lse was used, too, dS
    gets ``P * dlse`` on top.

    Parameters
    ----------
    dout : (B, H, T, Dv) array
        The gradient with respect to out.
    ctx : AttentionContext
        From `attention_forward`, whose inputs and output must not have changed since.
    dlse : (B, H, T) array, optional
        The gradient with respect to ``ctx.lse``, as from `merge_attention_backward`.
    needs : names of inputs
        Those whose gradients are wanted: all of ``("q", "k", "v", "bias")``. That of a bias costs
        two products more; the others come from one pass, and to leave some of them out saves
        nothing but their memory.

    Returns
    -------
    AttentionGrads
        ``(dq, dk, dv, dbias)``, each of its input's shape; None for what is not needed, and for a
        bias that was not given.

    Raises
    ------
    TypeError, ValueError
        If dout has not the dtype and the shape of out, or dlse those of lse, or ``needs`` are not
        names of inputs.

    Notes
    -----
    Weights are recomputed tile by tile from ``ctx.stats``: nothing of size T x S exists. The
    gradients of rows that see nothing are 0. Derivation: docs/derivations/attention.md.

    References
    ----------
    Dao et al. "FlashAttention" (2022), appendix B.2.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn.functional import attention_backward, attention_forward
    >>> x = np.eye(2)
    >>> out, ctx = attention_forward(x, x, x)
    >>> attention_backward(np.ones((2, 2)), ctx).dv.round(4)
    array([[1., 1.],
           [1., 1.]])
    """
    ctx = _checks.context(ctx, AttentionContext)
    of_q, of_k, of_v, of_bias = _checks.needs(needs, _INPUTS)
    dout = _checks.gradient("dout", dout, ctx.out.shape, ctx.out.dtype)
    q, k, v = (_four_axes(x) for x in (ctx.q, ctx.k, ctx.v))
    arrays = {
        "q": q,
        "k": k,
        "v": v,
        "out": _four_axes(ctx.out),
        "lse": ctx.lse.reshape(q.shape[:-1]),
        "stats": ctx.stats,
        "dout": _four_axes(dout),
    }
    dq, dk, dv = (_empty_like(x, x.shape[-1]) for x in (q, k, v))
    arrays |= {"dq": dq, "dk": dk, "dv": dv}
    _add_bias(arrays, ctx.bias)
    if dlse is not None:
        dlse = _checks.gradient("dlse", dlse, ctx.lse.shape, ctx.lse.dtype)
        arrays["dlse"] = strided(dlse.reshape(q.shape[:-1]))
    dbias, written = None, ["dq", "dk", "dv"]
    if ctx.bias is not None and of_bias:
        dbias = zeros(ctx.bias.shape, q.dtype)
        arrays["dbias"] = dbias.reshape((1,) * (4 - dbias.ndim) + dbias.shape)
        written.append("dbias")
        if q.shape[2] <= FEW_QUERIES:  # on the way they are made anew
            arrays |= {name: arrays[name].copy() for name in ("out", "lse", "stats")}
    options = Options(ctx.scale, ctx.softcap, ctx.dropout)
    way = run if ctx.stats.dtype == q.dtype else run_in_doubles
    way("backward", arrays, written, options, ctx.mask, ctx.seed)
    missing = 4 - ctx.q.ndim
    return AttentionGrads(
        _drop_axes(dq, missing) if of_q else None,
        _drop_axes(dk, missing) if of_k else None,
        _drop_axes(dv, missing) if of_v else None,
        dbias,
    )


def attention_weights(
    q: Array,
    k: Array,
    *,
    mask: MaskLike = None,
    bias: Array | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Array:
    """Return the weights of `attention`: ``softmax(cap(scale * q @ k^T) + bias + mask)``.

    Parameters
    ----------
    q, k, mask, bias, scale, softcap
        As in `attention`.

    Returns
    -------
    (B, H, T, S) array
        Each row sums to 1, or is 0 where the query sees nothing. Weights are those before dropout.

    Raises
    ------
    TypeError
        If an array is not float32 or float64, or the dtypes differ; for a mask of another kind.
    ValueError
        If shapes don't fit or a number is out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import masks
    >>> from miniattn.functional import attention_weights
    >>> attention_weights(np.zeros((3, 2)), np.zeros((3, 2)), mask=masks.causal()).round(2)
    array([[1.  , 0.  , 0.  ],
           [0.5 , 0.5 , 0.  ],
           [0.33, 0.33, 0.33]])
    """
    q, k = _queries_and_keys(q, k)
    bins = (q.shape[-2], k.shape[-2])
    return _pooled(q, k, mask, bias, scale, softcap, bins)


def attention_map(
    q: Array,
    k: Array,
    *,
    mask: MaskLike = None,
    bias: Array | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    bins: Sequence[int] = (256, 256),
) -> Array:
    """Return the weights pooled to at most ``bins`` (rows, columns), without the whole matrix.

    Entry (r, c) is the mean over the queries of row bin r of the sum over the keys of column bin
    c of the weights: the share of attention that these queries pay to these keys.

    Parameters
    ----------
    q, k, mask, bias, scale, softcap
        As in `attention`.
    bins : (int, int)
        Numbers of bins, at least 1; what exceeds T or S is cut to it. Bin r holds the queries
        ``r * T // rows <= i < (r + 1) * T // rows``, and so for the keys.

    Returns
    -------
    (B, H, rows, columns) array
        Each row sums to 1, less the share of its queries that see nothing.

    Raises
    ------
    TypeError
        If an array is not float32 or float64, or the dtypes differ; for a mask of another kind; if
        ``bins`` are not two ints.
    ValueError
        If shapes don't fit or a number is out of its range.

    Notes
    -----
    With rows >= T and columns >= S it is `attention_weights`. A map of 65,536 x 65,536 takes the
    time of one forward pass and the memory of its bins.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import masks
    >>> from miniattn.functional import attention_map
    >>> x = np.zeros((1000, 8))
    >>> attention_map(x, x, mask=masks.causal(), bins=(2, 2)).round(2)
    array([[1.  , 0.  ],
           [0.69, 0.31]])
    """
    q, k = _queries_and_keys(q, k)
    if not isinstance(bins, Sequence) or len(bins) != 2:
        raise TypeError(f"bins: expected (rows, columns), got {bins!r}")
    rows, columns = (_checks.integer("bins", n, least=1) for n in bins)
    return _pooled(
        q, k, mask, bias, scale, softcap, (min(rows, q.shape[-2]), min(columns, k.shape[-2]))
    )


def _pooled(
    q: Array,
    k: Array,
    mask: MaskLike,
    bias: Array | None,
    scale: float | None,
    softcap: float | None,
    bins: tuple[int, int],
) -> Array:
    bias = _bias(bias, q, k)
    scale, softcap = _scale(scale, q), _softcap(softcap)
    checked_mask = masks.as_mask(mask)
    four_q, four_k = _four_axes(q), _four_axes(k)
    pooled = zeros((*four_q.shape[:2], *bins), q.dtype)
    arrays = {"q": four_q, "k": four_k, "out": pooled}
    _add_bias(arrays, bias)
    run("map", arrays, ["out"], Options(scale, softcap, bins=bins), checked_mask)
    return _drop_axes(pooled, 4 - q.ndim)


def maxima_and_sums(ctx: AttentionContext) -> tuple[Array, Array]:
    """Return the maximum of each row of scores, -inf where it sees nothing, and log of its sum.

    In float64, each of the shape of ``ctx.lse``: exactly what the kernels know.
    """
    top, log_sum = ctx.stats.astype(np.float64).reshape(2, *ctx.lse.shape)
    unit = unit_of(ctx.scale, ctx.softcap, ctx.bias is not None)
    return top * unit, log_sum * math.log(2)


# --- Checks --------------------------------------------------------------------------------------


@functools.cache
def _letters(last: str, ndim: int) -> str:
    """Spell the axes of an argument: the last ``ndim`` of (B, then the three of ``last``)."""
    return ", ".join(["B", *last.split(", ")][4 - ndim :])


def _queries_and_keys(q: object, k: object) -> tuple[Array, Array]:
    """Check dtypes, axes and sizes of q and k."""
    q, k = _checks.float_array("q", q), _checks.float_array("k", k)
    _checks.same_dtype(q=q, k=k)
    _check_keys(q.shape, k.shape)
    return q, k


@functools.lru_cache  # What fits is not looked at again.
def _check_keys(q: Shape, k: Shape) -> None:
    if not 2 <= len(q) <= 4:
        raise ValueError(f"q: expected shape (B, H, T, D), (H, T, D) or (T, D), got {q}")
    sizes = {"D": q[-1]}
    if len(q) == 4:
        sizes["B"] = q[0]
    _checks.fits("k", k, _letters("G, S, D", len(q)), sizes)
    if len(q) > 2:
        H, G = q[-3], k[-3]
        if H != G and (G == 0 or H % G):
            raise ValueError(f"k: expected G key/value heads that divide H = {H}, got G = {G}")


@functools.lru_cache
def _check_values(q: Shape, k: Shape, v: Shape) -> None:
    sizes = {"S": k[-2]}
    if len(q) > 2:
        sizes["G"] = k[-3]
    if len(q) == 4:
        sizes["B"] = k[0]
    _checks.fits("v", v, _letters("G, S, Dv", len(q)), sizes)


def _bias(bias: object, q: Array, k: Array) -> Array | None:
    if bias is None:
        return None
    checked = _checks.float_array("bias", bias)
    _checks.same_dtype(q=q, bias=checked)
    full = ((1, 1, *q.shape)[-4:-1]) + k.shape[-2:-1]
    _checks.broadcastable("bias", checked, "B, H, T, S", full)
    return checked


def _scale(scale: object, q: Array) -> float:
    if scale is None:
        return 1.0 / math.sqrt(max(1, q.shape[-1]))
    return _checks.number("scale", scale)


def _softcap(softcap: object) -> float | None:
    return None if softcap is None else _checks.positive("softcap", softcap)


# --- Operands ------------------------------------------------------------------------------------


def _add_bias(arrays: dict[str, Array], bias: Array | None) -> None:
    """Add a bias to the operands, with all four axes."""
    if bias is not None:
        arrays["bias"] = strided(bias.reshape((1,) * (4 - bias.ndim) + bias.shape))


def _four_axes(x: Array) -> Array:
    """Return x as (B, H, T, D), its last axis contiguous; a copy only where it isn't."""
    if x.ndim < 4:
        x = x.reshape((1,) * (4 - x.ndim) + x.shape)
    return strided(x, rows=True)


def _drop_axes(x: Array, n: int) -> Array:
    """Drop the first ``n`` axes, which are of length 1."""
    return x[(0,) * n] if n else x


def _empty_like(x: Array, width: int) -> Array:
    """Return an uninitialised (B, H, T, width) array, laid out in memory like x (B, H, T, D)."""
    B, H, T, _ = x.shape
    if abs(x.strides[1]) < abs(x.strides[2]) and H > 1 and T > 1:
        return empty((B, T, H, width), x.dtype).transpose(0, 2, 1, 3)
    return empty((B, H, T, width), x.dtype)
