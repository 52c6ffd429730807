"""What attention over several ranks is told: checked on each, agreed on by all."""

from __future__ import annotations

from typing import Any, NamedTuple, TypedDict

import numpy as np

from miniattn import _checks, masks
from miniattn._typing import Array, MaskLike
from miniattn.distributed._blocks import BiasFunction, Call
from miniattn.distributed._comm import Comm, agree
from miniattn.distributed._layout import Layout, Stretch, checked_layout, stretch_of
from miniattn.functional._attention.inputs import (
    check_keys,
    check_values,
    checked_scale,
    checked_softcap,
)
from miniattn.functional._attention_calls import Options


class AttentionOptions(TypedDict, total=False):
    """Options of attention over several ranks."""

    mask: MaskLike
    bias: BiasFunction | None
    scale: float | None
    softcap: float | None
    dropout: float
    rng: np.random.Generator | None
    layout: Layout


class Shared(NamedTuple):
    """One rank's operands, and what all have agreed on."""

    q: Array
    k: Array
    v: Array
    """With four axes, contiguous."""
    call: Call
    queries: list[Stretch]
    keys: list[Stretch]
    """Of each rank."""
    missing: int
    """How many leading axes were not given."""


def shared(
    what: str, q: Array, k: Array, v: Array, comm: Comm, options: AttentionOptions
) -> Shared:
    """Check the arguments of a call of ``what``, and that all ranks mean the same."""
    if (normalizer := options.get("normalizer", "softmax")) != "softmax":
        raise ValueError(
            "normalizer: expected 'softmax', whose parts are merged by their log-sum-exps, got "
            f"{normalizer!r}"
        )
    if unknown := options.keys() - AttentionOptions.__annotations__.keys():
        known = list(AttentionOptions.__annotations__)
        raise TypeError(f"{what}: expected options of {known}, got {sorted(unknown)}")
    q, k, v = (_checks.float_array(*x) for x in (("q", q), ("k", k), ("v", v)))
    dtype = _checks.same_dtype(q=q, k=k, v=v)
    check_keys(q.shape, k.shape)
    check_values(q.shape, k.shape, v.shape)
    layout = checked_layout(options.get("layout", "contiguous"))
    scale, softcap = checked_scale(options.get("scale"), q), checked_softcap(options.get("softcap"))
    dropout = _checks.probability("dropout", options.get("dropout", 0.0))
    rng, bias = options.get("rng"), options.get("bias")
    if dropout or rng is not None:
        rng = _checks.generator("rng", rng)
    seed = int(rng.integers(2**63)) if rng is not None and dropout else 0
    mask = masks.as_mask(options.get("mask"))
    if bias is not None and (isinstance(bias, np.ndarray) or not callable(bias)):
        raise TypeError(
            f"bias: expected a function of positions (i, j) or None, got {_checks.shown(bias)}"
        )
    missing = 4 - q.ndim
    q, k, v = (np.ascontiguousarray(x.reshape((1,) * missing + x.shape)) for x in (q, k, v))
    B, H, T, D = q.shape
    settings = {
        "call": what,
        "dtype": str(dtype),
        "B": B,
        "H": H,
        "G": k.shape[1],
        "D": D,
        "Dv": v.shape[3],
        "mask": repr(mask),
        "bias": "none" if bias is None else "a function",
        "scale": scale,
        "softcap": softcap,
        "dropout": dropout,
        "layout": layout,
    }
    everyone = agree(comm, settings, (T, k.shape[2], seed))
    queries = _stretches("q", [lengths[0] for lengths in everyone], layout)
    keys = _stretches("k", [lengths[1] for lengths in everyone], layout)
    sizes = H, sum(s.length for s in queries), sum(s.length for s in keys)
    call = Call(mask, bias, Options(scale, softcap, dropout), everyone[0][2], sizes)
    return Shared(q, k, v, call, queries, keys, missing)


def _stretches(name: str, lengths: list[int], layout: Layout) -> list[Stretch]:
    """Return which tokens each rank holds, if that is what it has."""
    total, n = sum(lengths), len(lengths)
    stretches = [stretch_of(total, rank, n, layout) for rank in range(n)]
    for rank, (own, length) in enumerate(zip(stretches, lengths, strict=True)):
        if own.length != length:
            raise ValueError(
                f"{name}: expected {own.length} of {total} tokens on rank {rank}, {layout}, "
                f"got {length}"
            )
    return stretches


def as_given(x: Any, missing: int, dtype: Any) -> Any:
    """Return an array of four axes with those that the caller gave, in the caller's dtype."""
    with np.errstate(over="ignore"):  # what the result itself has
        return x[(0,) * missing].astype(dtype, copy=False)
