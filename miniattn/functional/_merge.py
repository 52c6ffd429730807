"""Attention over disjoint sets of keys, combined exactly."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from miniattn import _checks
from miniattn._context import context
from miniattn._typing import Array
from miniattn.functional._attention import AttentionContext, check_lse, maxima_and_sums


@context
class MergeAttentionContext(NamedTuple):
    """What `merge_attention_backward` needs of a call of `merge_attention_forward`."""

    outs: tuple[Array, ...]
    out: Array
    lse: Array
    """(..., T): log-sum-exp over all the keys, so that merging can go on."""
    weights: Array
    """(N, ..., T) float64: the share of each part in out."""


class MergeAttentionGrads(NamedTuple):
    """Gradients of `merge_attention_forward`: N parts one behind the other."""

    douts: Array
    """(N, ..., T, Dv)."""
    dlses: Array
    """(N, ..., T): what `attention_backward` takes as ``dlse``."""


def merge_attention(
    outs: Sequence[Array], lses: Sequence[Array | AttentionContext]
) -> tuple[Array, Array]:
    r"""Combine attention over disjoint sets of keys: ``out = sum_n w_n out_n``.

    With ``lse = log(sum_n exp(lse_n))`` and ``w_n = exp(lse_n - lse)`` this is exactly attention
    over all the keys.

    Parameters
    ----------
    outs : sequence of (..., T, Dv) arrays
        Outputs of `attention_forward` for the same queries, one for each set of keys.
    lses : sequence of (..., T) arrays or of contexts
        Their ``ctx.lse``, or the contexts themselves, which know more.

    Returns
    -------
    out : (..., T, Dv) array
    lse : (..., T) array
        So that merging can go on. Where no set had a visible key, out is 0 and lse -inf.

    Raises
    ------
    TypeError, ValueError
        If the sequences are empty or of different length, or dtypes or shapes differ; if a context
        is of another normalizer than softmax, whose parts don't make up a whole.

    Notes
    -----
    An lse is one number, rounded: in float32 the weights are exact to 1e-7 times its size, and
    beside scores of 1e8 nothing is left of the sum. A context keeps the maximum and the sum apart,
    so parts that are merged from their contexts, all at once, are merged exactly whatever the size
    of their scores. Derivation: docs/derivations/merge_attention.md.

    References
    ----------
    Milakov, Gimelshein. "Online normalizer calculation for softmax" (2018), section 3.1.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import functional as F
    >>> q, k, v = np.random.default_rng(0).normal(size=(3, 6, 4))
    >>> one, a = F.attention_forward(q, k[:2], v[:2])
    >>> two, b = F.attention_forward(q, k[2:], v[2:])
    >>> out, lse = F.merge_attention([one, two], [a, b])
    >>> np.allclose(out, F.attention(q, k, v))
    True
    """
    out, ctx = merge_attention_forward(outs, lses)
    return out, ctx.lse


def merge_attention_forward(
    outs: Sequence[Array], lses: Sequence[Array | AttentionContext]
) -> tuple[Array, MergeAttentionContext]:
    """Return `merge_attention`'s out, and a context with lse and what its backward needs.

    Parameters
    ----------
    outs, lses
        As in `merge_attention`.

    Returns
    -------
    out : (..., T, Dv) array
    ctx : MergeAttentionContext
        ``ctx.lse`` (..., T). The context holds outs and out themselves: before the backward, write
        to copies.
    """
    outs, lses = _checks.sequence("outs", outs, "arrays"), _checks.sequence("lses", lses, "arrays")
    if len(outs) == 0 or len(outs) != len(lses):
        raise ValueError(
            f"outs, lses: expected as many of each, at least one, got {len(outs)} and {len(lses)}"
        )
    for n, lse in enumerate(lses):
        if isinstance(lse, AttentionContext):
            check_lse(f"lses[{n}]", lse)
    numbers = [lse.lse if isinstance(lse, AttentionContext) else lse for lse in lses]
    checked_outs = [_checks.float_array(f"outs[{n}]", out) for n, out in enumerate(outs)]
    checked_lses = [_checks.float_array(f"lses[{n}]", lse) for n, lse in enumerate(numbers)]
    shape, dtype = checked_outs[0].shape, checked_outs[0].dtype
    for n, (out, lse) in enumerate(zip(checked_outs, checked_lses, strict=True)):
        _checks.same_dtype(**{"outs[0]": checked_outs[0], f"outs[{n}]": out, f"lses[{n}]": lse})
        if out.shape != shape or out.ndim < 1:
            raise ValueError(f"outs[{n}]: expected the shape of outs[0] {shape}, got {out.shape}")
        if lse.shape != shape[:-1]:
            raise ValueError(f"lses[{n}]: expected shape {shape[:-1]}, got {lse.shape}")
    factors, merged_lse = _factors(lses, shape[:-1])
    merged = np.zeros(shape, dtype)
    for factor, out in zip(factors.astype(dtype), checked_outs, strict=True):
        merged += factor[..., None] * out
    with np.errstate(over="ignore"):
        merged_lse = merged_lse.astype(dtype)
    return merged, MergeAttentionContext(tuple(checked_outs), merged, merged_lse, factors)


def merge_attention_backward(
    dout: Array, ctx: MergeAttentionContext, *, dlse: Array | None = None
) -> MergeAttentionGrads:
    """Return the gradients of `merge_attention_forward`.

    With w_n the shares: ``douts_n = w_n dout`` and
    ``dlses_n = w_n (dout · (out_n - out) + dlse)``.

    Parameters
    ----------
    dout : (..., T, Dv) array
        The gradient with respect to out.
    ctx : MergeAttentionContext
        From `merge_attention_forward`.
    dlse : (..., T) array, optional
        The gradient with respect to ``ctx.lse``, where that was used.

    Returns
    -------
    MergeAttentionGrads
        ``(douts, dlses)``. A part without a share gets 0. Each part's go on to
        ``attention_backward(douts[n], ctx_n, dlse=dlses[n])``.

    Raises
    ------
    TypeError, ValueError
        If dout has not the dtype and the shape of out, or dlse those of lse.
    """
    outs, out, lse, weights = _checks.context(ctx, MergeAttentionContext)
    dout = _checks.gradient("dout", dout, out.shape, out.dtype)
    dlses = np.zeros(weights.shape)
    if dlse is not None:
        dlses += _checks.gradient("dlse", dlse, lse.shape, lse.dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        for n, part in enumerate(outs):
            dlses[n] += (dout * (part.astype(np.float64) - out)).sum(axis=-1)
        douts = weights.astype(out.dtype)[..., None] * dout
        dlses = np.where(weights == 0, 0, weights * dlses).astype(out.dtype)
    return MergeAttentionGrads(np.where(weights[..., None] == 0, 0, douts), dlses)


def _factors(lses: Sequence[Array | AttentionContext], shape: tuple[int, ...]) -> tuple[Array, Any]:
    """Return ``exp(lse_n - lse)`` for each part, and lse, in float64."""
    tops, log_sums = np.zeros((2, len(lses), *shape))
    for n, lse in enumerate(lses):
        known = maxima_and_sums(lse) if isinstance(lse, AttentionContext) else (lse, 0.0)
        tops[n], log_sums[n] = known
    peak = np.fmax.reduce(tops)
    base = np.where(np.isfinite(peak), peak, 0)  # all -inf: no set had a visible key
    factors = np.exp((tops - base) + log_sums)
    total = factors.sum(axis=0)
    with np.errstate(divide="ignore"):
        lse = base + np.log(total)
    return factors / np.where(total == 0, 1, total), lse
