"""The weights of attention, whole or pooled."""

from collections.abc import Sequence
from typing import Unpack

from miniattn import _checks
from miniattn._memory import zeros
from miniattn._options import given, spelled_out
from miniattn._typing import Array
from miniattn.functional._attention.context import AttentionContext
from miniattn.functional._attention.inputs import (
    add_bias,
    add_sink,
    checked_weighing,
    drop_axes,
    four_axes,
    queries_and_keys,
)
from miniattn.functional._attention.options import (
    Weighing,
    WeighingOptions,
    of_context,
)
from miniattn.functional._attention_calls import Besides, Options
from miniattn.functional._doubles import run
from miniattn.kernels.attention.problem import NORMALIZERS


@spelled_out(Weighing)
def attention_weights(q: Array, k: Array, **weighing: Unpack[WeighingOptions]) -> Array:
    """Return the weights of `attention`: ``softmax(score(cap(scale * q @ k^T)) + bias + mask)``.

    Or of another ``normalizer`` than softmax.

    Parameters
    ----------
    q, k, mask, bias, scale, softcap, score, sink, normalizer
        As in `attention`.

    Returns
    -------
    (B, H, T, S) array
        Each row sums to 1, less the share of a sink, or is 0 where the query sees nothing; under
        sigmoid it sums to anything. Weights are those before dropout.

    Raises
    ------
    TypeError, ValueError
        As `attention`.

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
    q, k = queries_and_keys(q, k)
    return _pooled(q, k, given("attention_weights", Weighing, weighing), (q.shape[-2], k.shape[-2]))


def weights_of(ctx: AttentionContext) -> Array:
    """Return the weights of the call that made a context, before dropout."""
    return _pooled(ctx.q, ctx.k, of_context(ctx), (ctx.q.shape[-2], ctx.k.shape[-2]))


@spelled_out(Weighing)
def attention_map(
    q: Array,
    k: Array,
    *,
    bins: Sequence[int] = (256, 256),
    **weighing: Unpack[WeighingOptions],
) -> Array:
    """Return the weights pooled to at most ``bins`` (rows, columns), without the whole matrix.

    Entry (r, c) is the mean over the queries of row bin r of the sum over the keys of column bin
    c of the weights: the share of attention that these queries pay to these keys.

    Parameters
    ----------
    q, k, mask, bias, scale, softcap, score, sink, normalizer
        As in `attention`.
    bins : (int, int)
        Numbers of bins, at least 1; what exceeds T or S is cut to it. Bin r holds the queries
        ``r * T // rows <= i < (r + 1) * T // rows``, and so for the keys.

    Returns
    -------
    (B, H, rows, columns) array
        Each row sums to 1, less the share of its queries that see nothing; under sigmoid to
        anything.

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
    q, k = queries_and_keys(q, k)
    if not isinstance(bins, Sequence) or len(bins) != 2:
        raise TypeError(f"bins: expected (rows, columns), got {bins!r}")
    rows, columns = (_checks.integer("bins", n, least=1) for n in bins)
    bins = min(rows, q.shape[-2]), min(columns, k.shape[-2])
    return _pooled(q, k, given("attention_map", Weighing, weighing), bins)


def _pooled(q: Array, k: Array, told: Weighing, bins: tuple[int, int]) -> Array:
    mask, bias, scale, softcap, score, sink, normalizer = checked_weighing(told, q, k)
    four_q, four_k = four_axes(q), four_axes(k)
    pooled = zeros((*four_q.shape[:2], *bins), q.dtype)
    arrays = {"q": four_q, "k": four_k, "out": pooled}
    add_bias(arrays, bias)
    add_sink(arrays, sink)
    options = Options(scale, softcap, bins=bins, normalizer=NORMALIZERS.index(normalizer))
    run("map", arrays, ["out"], options, Besides(mask, score=score))
    return drop_axes(pooled, 4 - q.ndim)
