"""The weights of attention, whole or pooled."""

from collections.abc import Sequence

from miniattn import _checks
from miniattn._memory import zeros
from miniattn._typing import Array, MaskLike
from miniattn.functional._attention.inputs import (
    add_bias,
    checked_bias,
    checked_scale,
    checked_softcap,
    drop_axes,
    four_axes,
    queries_and_keys,
)
from miniattn.functional._attention_calls import Options
from miniattn.functional._doubles import run
from miniattn.masks._array import borrowed


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
    q, k = queries_and_keys(q, k)
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
    q, k = queries_and_keys(q, k)
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
    bias = checked_bias(bias, q, k)
    scale, softcap = checked_scale(scale, q), checked_softcap(softcap)
    checked_mask = borrowed(mask)
    four_q, four_k = four_axes(q), four_axes(k)
    pooled = zeros((*four_q.shape[:2], *bins), q.dtype)
    arrays = {"q": four_q, "k": four_k, "out": pooled}
    add_bias(arrays, bias)
    run("map", arrays, ["out"], Options(scale, softcap, bins=bins), checked_mask)
    return drop_axes(pooled, 4 - q.ndim)
