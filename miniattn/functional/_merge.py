"""Attention over disjoint sets of keys, combined exactly."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from miniattn import _checks

Array: TypeAlias = NDArray[Any]


def merge_attention(outs: Sequence[Array], lses: Sequence[Array]) -> tuple[Array, Array]:
    r"""Combine attention over disjoint sets of keys: ``out = sum_n w_n out_n``.

    With ``lse = log(sum_n exp(lse_n))`` and ``w_n = exp(lse_n - lse)`` this is exactly attention
    over all the keys.

    Parameters
    ----------
    outs : sequence of (..., T, Dv) arrays
        Outputs of `attention_forward` for the same queries, one for each set of keys.
    lses : sequence of (..., T) arrays
        Their ``ctx.lse``.

    Returns
    -------
    out : (..., T, Dv) array
    lse : (..., T) array
        So that merging can go on. Where no set had a visible key, out is 0 and lse -inf.

    Raises
    ------
    TypeError, ValueError
        If the sequences are empty or of different length, or dtypes or shapes differ.

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
    >>> out, lse = F.merge_attention([one, two], [a.lse, b.lse])
    >>> np.allclose(out, F.attention(q, k, v))
    True
    """
    outs, lses = _checks.sequence("outs", outs, "arrays"), _checks.sequence("lses", lses, "arrays")
    if len(outs) == 0 or len(outs) != len(lses):
        raise ValueError(
            f"outs, lses: expected as many of each, at least one, got {len(outs)} and {len(lses)}"
        )
    checked_outs = [_checks.float_array(f"outs[{n}]", out) for n, out in enumerate(outs)]
    checked_lses = [_checks.float_array(f"lses[{n}]", lse) for n, lse in enumerate(lses)]
    shape = checked_outs[0].shape
    for n, (out, lse) in enumerate(zip(checked_outs, checked_lses, strict=True)):
        _checks.same_dtype(**{"outs[0]": checked_outs[0], f"outs[{n}]": out, f"lses[{n}]": lse})
        if out.shape != shape or out.ndim < 1:
            raise ValueError(f"outs[{n}]: expected the shape of outs[0] {shape}, got {out.shape}")
        if lse.shape != shape[:-1]:
            raise ValueError(f"lses[{n}]: expected shape {shape[:-1]}, got {lse.shape}")
    stacked = np.stack(checked_lses)
    peak = np.fmax.reduce(stacked)
    base = np.where(np.isfinite(peak), peak, 0)  # all -inf: no set had a visible key
    factors = np.exp(stacked - base)
    total = factors.sum(axis=0)
    with np.errstate(divide="ignore"):
        lse = base + np.log(total)
    factors /= np.where(total == 0, 1, total)
    merged = np.zeros(shape, checked_outs[0].dtype)
    for factor, out in zip(factors, checked_outs, strict=True):
        merged += factor[..., None] * out
    return merged, lse
