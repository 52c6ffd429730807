"""What attention is given: checked, and laid out as kernels take it."""

import functools
import math
from typing import TypeAlias

import numpy as np

from miniattn import _checks
from miniattn._memory import empty
from miniattn._typing import Array, Shape
from miniattn.functional._attention.context import Normalizer
from miniattn.functional._attention.options import Weighing
from miniattn.kernels.attention.problem import NORMALIZERS
from miniattn.kernels.compile.tables import strided
from miniattn.masks import Mask
from miniattn.masks._array import borrowed
from miniattn.scores import Score
from miniattn.scores._ready import as_softcap

# The fields of `Weighing`, as kernels take them.
Checked: TypeAlias = tuple[
    Mask | None, Array | None, float, float | None, Score | None, Array | None, Normalizer
]


@functools.cache
def _letters(last: str, ndim: int) -> str:
    """Spell the axes of an argument: the last ``ndim`` of (B, then the three of ``last``)."""
    return ", ".join(["B", *last.split(", ")][4 - ndim :])


def queries_and_keys(q: object, k: object) -> tuple[Array, Array]:
    """Check dtypes, axes and sizes of q and k."""
    q, k = _checks.float_array("q", q), _checks.float_array("k", k)
    _checks.same_dtype(q=q, k=k)
    check_keys(q.shape, k.shape)
    return q, k


@functools.lru_cache  # What fits is not looked at again.
def check_keys(q: Shape, k: Shape) -> None:
    """Check the shape of q, and that of k beside it."""
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
def check_values(q: Shape, k: Shape, v: Shape) -> None:
    """Check the shape of v beside those of q and k."""
    sizes = {"S": k[-2]}
    if len(q) > 2:
        sizes["G"] = k[-3]
    if len(q) == 4:
        sizes["B"] = k[0]
    _checks.fits("v", v, _letters("G, S, Dv", len(q)), sizes)


def checked_bias(bias: object, q: Array, k: Array) -> Array | None:
    """Return a bias that broadcasts to the scores of q and k."""
    if bias is None:
        return None
    checked = _checks.float_array("bias", bias)
    _checks.same_dtype(q=q, bias=checked)
    full = ((1, 1, *q.shape)[-4:-1]) + k.shape[-2:-1]
    _checks.broadcastable("bias", checked, "B, H, T, S", full)
    return checked


def checked_scale(scale: object, q: Array) -> float:
    """Return the scale, by default 1 / sqrt(D)."""
    if scale is None:
        return 1.0 / math.sqrt(max(1, q.shape[-1]))
    return _checks.number("scale", scale)


def checked_softcap(softcap: object) -> float | None:
    """Return the softcap, which is positive, or None."""
    return None if softcap is None else _checks.positive("softcap", softcap)


def checked_score(
    score: object, softcap: float | None, q: Array
) -> tuple[Score | None, float | None]:
    """Return a score and a softcap; a score that is a softcap alone is one."""
    if score is None:
        return None, softcap
    if not isinstance(score, Score):
        raise TypeError(
            "score: expected a function of scores with its tables, as scores.alibi(...) or "
            f"f(table) of a @scores.function, got {_checks.shown(score)}"
        )
    for n, table in enumerate(score.tables):
        if isinstance(table, np.ndarray) and table.dtype.kind == "f":
            _checks.same_dtype(**{"q": q, f"score.tables[{n}]": table})
    batch = (1, 1, *q.shape)[-4]
    if score.shift is not None and len(score.shift) not in (1, batch):
        raise ValueError(
            f"score: expected a shift for each of {batch} batch rows, got {len(score.shift)}"
        )
    return as_softcap(score, softcap)


def checked_sink(sink: object, q: Array) -> Array | None:
    """Return the sinks, one for each head of q."""
    if sink is None:
        return None
    checked = _checks.float_array("sink", sink)
    _checks.same_dtype(q=q, sink=checked)
    _checks.shape("sink", checked, "H", {"H": (1, 1, *q.shape)[-3]})
    return checked


def checked_normalizer(normalizer: object, sink: Array | None) -> Normalizer:
    """Return the name of a normalizer, which has to have a place for sinks where there are some."""
    name: Normalizer = _checks.choice("normalizer", normalizer, NORMALIZERS)  # type: ignore[assignment]
    if name == "sigmoid" and sink is not None:
        raise ValueError(
            "sink: expected None under normalizer='sigmoid', whose weights share no sum that a "
            f"sink could take part in, got {_checks.shown(sink)}"
        )
    return name


def checked_weighing(told: Weighing, q: Array, k: Array) -> Checked:
    """Return the options of a call as kernels take them: none of scale and normalizer is missing.

    A score that is a softcap alone has become one.
    """
    bias = checked_bias(told.bias, q, k)
    scale, softcap = checked_scale(told.scale, q), checked_softcap(told.softcap)
    score, softcap = checked_score(told.score, softcap, q)
    sink = checked_sink(told.sink, q)
    normalizer = checked_normalizer(told.normalizer, sink)
    return borrowed(told.mask), bias, scale, softcap, score, sink, normalizer


# --- Operands ------------------------------------------------------------------------------------


def add_bias(arrays: dict[str, Array], bias: Array | None) -> None:
    """Add a bias to the operands, with all four axes."""
    if bias is not None:
        arrays["bias"] = strided(bias.reshape((1,) * (4 - bias.ndim) + bias.shape))


def add_sink(arrays: dict[str, Array], sink: Array | None) -> None:
    """Add the sinks of heads to the operands."""
    if sink is not None:
        arrays["sink"] = strided(sink)


def four_axes(x: Array) -> Array:
    """Return x as (B, H, T, D), its last axis contiguous; a copy only where it isn't."""
    if x.ndim < 4:
        x = x.reshape((1,) * (4 - x.ndim) + x.shape)
    return strided(x, rows=True)


def drop_axes(x: Array, n: int) -> Array:
    """Drop the first ``n`` axes, which are of length 1."""
    return x[(0,) * n] if n else x


def empty_like(x: Array, width: int) -> Array:
    """Return an uninitialised (B, H, T, width) array, laid out in memory like x (B, H, T, D)."""
    B, H, T, _ = x.shape
    if abs(x.strides[1]) < abs(x.strides[2]) and H > 1 and T > 1:
        return empty((B, T, H, width), x.dtype).transpose(0, 2, 1, 3)
    return empty((B, H, T, width), x.dtype)
