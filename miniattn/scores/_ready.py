"""Functions of scores that come with the package."""

import math

import numpy as np
from numpy.typing import DTypeLike

from miniattn import _checks
from miniattn._typing import Array
from miniattn.scores._function import Score, by_distance, function


@by_distance
def _alibi(h, d, slopes):  # type: ignore[no-untyped-def]
    return -slopes[h] * np.float32(abs(d))


@_alibi.backward
def _(dbias, h, d, slopes, dslopes):  # type: ignore[no-untyped-def]
    dslopes[h] -= dbias * abs(d)


def alibi(slopes: int | Array, dtype: DTypeLike = np.float32) -> Score:
    """ALiBi: s − slope_h · abs(i − j), without an array of size T x S.

    Parameters
    ----------
    slopes : int or float array (H,)
        The number of heads, for the slopes of the paper: 2^(−8/H), 2^(−16/H), and so on. Or slopes
        of your own; they have a gradient, so they can be learned.
    dtype : float32 or float64
        Of the paper's slopes, where a number of heads is given: that of the queries.

    Raises
    ------
    TypeError, ValueError
        If slopes are neither a number of heads nor a float array (H,).

    References
    ----------
    Press, Smith, Lewis. "Train Short, Test Long: Attention with Linear Biases Enables Input Length
    Extrapolation" (2022), section 3.

    Examples
    --------
    >>> from miniattn import scores
    >>> scores.alibi(4, np.float64).tables[0]
    array([0.25      , 0.0625    , 0.015625  , 0.00390625])
    """
    if isinstance(slopes, np.ndarray):
        _checks.shape("slopes", _checks.float_array("slopes", slopes), "H")
        return _alibi(slopes)
    heads = _checks.integer("slopes", slopes, least=1)
    return _alibi(alibi_slopes(heads).astype(_checks.float_dtype("dtype", dtype)))


def alibi_slopes(num_heads: int) -> Array:
    """Return the slopes of ALiBi, one for each head, float64 (H,).

    For H a power of two they are 2^(−8/H), 2^(−16/H), ..., 2^(−8). Otherwise the slopes of the
    next lower power of two come first, then every second one of the next higher.

    References
    ----------
    Press, Smith & Lewis, "Train Short, Test Long: Attention with Linear Biases Enables Input
    Length Extrapolation", ICLR 2022, section 3 and the authors' published code.

    Examples
    --------
    >>> from miniattn import nn
    >>> nn.alibi_slopes(4)
    array([0.25      , 0.0625    , 0.015625  , 0.00390625])
    """
    _checks.integer("num_heads", num_heads, least=1)
    lower = 1 << (num_heads.bit_length() - 1)
    first = 2.0 ** (-8.0 / lower * np.arange(1, lower + 1))
    between = 2.0 ** (-4.0 / lower * np.arange(1, 2 * lower + 1, 2))
    return np.concatenate([first, between[: num_heads - lower]])


@by_distance
def _t5_bias(h, d, table, buckets, most):  # type: ignore[no-untyped-def]
    return table[buckets[min(max(d, -most), most) + most], h]


@_t5_bias.backward
def _(dbias, h, d, table, buckets, most, dtable):  # type: ignore[no-untyped-def]
    dtable[buckets[min(max(d, -most), most) + most], h] += dbias


def t5_bias(table: Array, *, bidirectional: bool = True, max_distance: int = 128) -> Score:
    """T5's relative positions: s + table[bucket(j − i), h], learned.

    Parameters
    ----------
    table : float array (buckets, H)
        It has a gradient. 32 buckets are usual.
    bidirectional : bool
        Whether keys behind the query have buckets of their own; else they share the nearest one.
    max_distance : int
        From there on all keys are in the last bucket. Half of the buckets (of one direction) are
        for one distance each, the others for ranges that grow up to here.

    Raises
    ------
    TypeError, ValueError
        If the table is no float array of two axes, or has too few buckets.

    References
    ----------
    Raffel et al. "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
    Transformer" (2020), section 2.1.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import scores
    >>> score = scores.t5_bias(np.zeros((32, 4)))
    >>> score.tables[1][128 - 3 : 128 + 4]  # buckets of j - i from -3 to 3
    array([ 3,  2,  1,  0, 17, 18, 19])
    """
    table = _checks.float_array("table", table)
    _checks.shape("table", table, "buckets, H")
    most = _checks.integer("max_distance", max_distance, least=2)
    both = _checks.flag("bidirectional", bidirectional)
    if len(table) < (4 if both else 2):
        raise ValueError(f"table: expected at least {4 if both else 2} buckets, got {len(table)}")
    distances = np.arange(-most, most + 1)
    return _t5_bias(table, _buckets(distances, len(table), most, both), most)


def _buckets(distances: Array, count: int, most: int, both: bool) -> Array:
    """Return the bucket of each j − i, as T5's code has it."""
    count, start = (count // 2, (distances > 0) * (count // 2)) if both else (count, 0)
    behind = np.abs(distances) if both else np.maximum(-distances, 0)
    exact = count // 2
    with np.errstate(divide="ignore"):
        grown = np.log(behind / exact) / math.log(max(most, exact + 1) / exact)
    far = exact + np.where(behind < exact, 0, grown * (count - exact)).astype(np.int64)
    found: Array = start + np.where(behind < exact, behind, np.minimum(far, count - 1))
    return found


@by_distance
def _relative(h, d, table, behind):  # type: ignore[no-untyped-def]
    return table[h, min(max(d + behind, 0), table.shape[1] - 1)]


@_relative.backward
def _(dbias, h, d, table, behind, dtable):  # type: ignore[no-untyped-def]
    dtable[h, min(max(d + behind, 0), table.shape[1] - 1)] += dbias


def relative(table: Array, behind: int) -> Score:
    """Relative positions: s + table[h, j − i + behind], learned.

    Parameters
    ----------
    table : float array (H, behind + 1 + ahead)
        An entry for each distance; it has a gradient. Keys farther away than that share the first
        entry, or the last.
    behind : int
        How many keys before the query have an entry of their own.

    Raises
    ------
    TypeError, ValueError
        If the table is no float array of two axes, or has no entry for the query's own place.

    References
    ----------
    Shaw, Uszkoreit, Vaswani. "Self-Attention with Relative Position Representations" (2018),
    section 3.2, where distances are clipped.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import functional as F, scores
    >>> zero, table = np.zeros((1, 3, 2)), np.log([[1.0, 2.0, 4.0]])
    >>> F.attention_weights(zero, zero, score=scores.relative(table, 1))[0].round(2)
    array([[0.2 , 0.4 , 0.4 ],
           [0.14, 0.29, 0.57],
           [0.25, 0.25, 0.5 ]])
    """
    table = _checks.float_array("table", table)
    _checks.shape("table", table, "H, distances")
    behind = _checks.integer("behind", behind, least=0)
    if table.shape[1] <= behind:
        raise ValueError(
            f"table: expected more than behind = {behind} distances, got {table.shape[1]}"
        )
    return _relative(table, behind)


@by_distance
def _decay(h, d, rates):  # type: ignore[no-untyped-def]
    return rates[h] * np.float32(max(-d, 0))


@_decay.backward
def _(dbias, h, d, rates, drates):  # type: ignore[no-untyped-def]
    drates[h] += dbias * max(-d, 0)


def decay(rates: Array) -> Score:
    """Distance decay: s + log(γ_h) · (i − j), so that weights fall by γ_h with each step back.

    Parameters
    ----------
    rates : float array (H,)
        log γ, below 0 for weights that fall. They have a gradient.

    Raises
    ------
    TypeError, ValueError
        If rates are no float array (H,).

    References
    ----------
    Sun et al. "Retentive Network" (2023), section 2.1; Lin et al. "Forgetting Transformer" (2025),
    section 3, with one rate for each token in place of one for each head.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import functional as F, masks, scores
    >>> zero = np.zeros((1, 3, 2))
    >>> score = scores.decay(np.log([0.5]))
    >>> F.attention_weights(zero, zero, mask=masks.causal(), score=score)[0].round(2)
    array([[1.  , 0.  , 0.  ],
           [0.33, 0.67, 0.  ],
           [0.14, 0.29, 0.57]])
    """
    _checks.shape("rates", _checks.float_array("rates", rates), "H")
    return _decay(rates)


@function
def _alibi_at(s, b, h, i, j, slopes, queries, keys):  # type: ignore[no-untyped-def]
    q, k = queries[b % queries.shape[0], i], keys[b % keys.shape[0], j]
    return s - slopes[h] * np.float32(abs(q - k))


@_alibi_at.backward
def _(ds, s, b, h, i, j, slopes, queries, keys, dslopes):  # type: ignore[no-untyped-def]  # noqa: PLR0913
    q, k = queries[b % queries.shape[0], i], keys[b % keys.shape[0], j]
    dslopes[h] -= ds * np.float32(abs(q - k))
    return ds


def alibi_at(slopes: Array, queries: Array, keys: Array) -> Score:
    """Return ALiBi for queries and keys that are at places of their own: (T,) or (B, T) ints."""
    return _alibi_at(slopes, np.atleast_2d(queries), np.atleast_2d(keys))


@function
def _softcap(s, b, h, i, j, cap):  # type: ignore[no-untyped-def]
    return cap * math.tanh(s / cap)


@_softcap.backward
def _(ds, s, b, h, i, j, cap):  # type: ignore[no-untyped-def]
    t = math.tanh(s / cap)
    return ds * (1 - t * t)


def softcap(cap: float) -> Score:
    """Soft cap: c · tanh(s / c), which keeps scores between −c and c.

    Attention has it as the option ``softcap=``, in vector registers: where a call has no other,
    this is it, and costs the same.

    Parameters
    ----------
    cap : float > 0

    Raises
    ------
    TypeError, ValueError
        If the cap is no number above 0.

    References
    ----------
    Gemma Team. "Gemma 2" (2024), section 2.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import functional as F, scores
    >>> x = np.arange(6.0).reshape(3, 2)
    >>> np.allclose(
    ...     F.attention_weights(x, x, score=scores.softcap(5.0)),
    ...     F.attention_weights(x, x, softcap=5.0),
    ... )
    True
    """
    return _softcap(_checks.positive("cap", cap))


def as_softcap(score: Score | None, cap: float | None) -> tuple[Score | None, float | None]:
    """Return a score and a softcap that mean the same, the former None if the latter is all."""
    if score is not None and score.function is _softcap and cap is None:
        return None, float(score.tables[0])
    return score, cap


READY = (_alibi, _alibi_at, _decay, _relative, _softcap, _t5_bias)
"""What files of models may name."""
