"""PyTorch's ``scaled_dot_product_attention`` by name, arguments and meaning."""

import numpy as np

from miniattn import _checks, masks
from miniattn._typing import Array
from miniattn.functional._attention import attention
from miniattn.masks._array import borrowed


def scaled_dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    attn_mask: Array | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    rng: np.random.Generator | None = None,
) -> Array:
    """``torch.nn.functional.scaled_dot_product_attention`` on arrays, through `attention`.

    Parameters
    ----------
    query : (..., H, T, D) float32 or float64
        Any leading axes, which broadcast against those of key and value.
    key : (..., G, S, D)
    value : (..., G, S, Dv)
    attn_mask : array, optional
        bool (True = may attend) or float (added to the scores); broadcasts to (..., H, T, S).
    dropout_p : float in [0, 1)
        Applied whenever it is positive, as in PyTorch; takes ``rng``.
    is_causal : bool
        Query i sees keys j <= i: aligned at the top left, unlike ``masks.causal()``, which is
        aligned at the end. Together with attn_mask both hold.
    scale : float, optional
        Default 1 / sqrt(D).
    enable_gqa : bool
        Let G divide H. Otherwise G and H must be equal.
    rng : numpy.random.Generator
        Required where ``dropout_p > 0``.

    Returns
    -------
    (..., H, T, Dv) array
        Rows that may attend to nothing are 0.

    Raises
    ------
    TypeError, ValueError
        As in `attention`.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn.functional import scaled_dot_product_attention
    >>> x = np.eye(2)
    >>> scaled_dot_product_attention(x, x, x, is_causal=True).round(2)
    array([[1.  , 0.  ],
           [0.33, 0.67]])
    """
    q = _checks.float_array("query", query)
    k = _checks.float_array("key", key)
    v = _checks.float_array("value", value)
    _checks.same_dtype(query=q, key=k, value=v)
    _checks.shape("query", q, "..., T, D")
    _checks.shape("key", k, "..., S, D", {"D": q.shape[-1]})
    _checks.shape("value", v, "..., S, Dv", {"S": k.shape[-2]})
    dropout_p = _checks.probability("dropout_p", dropout_p)
    ndim = max(q.ndim, k.ndim, v.ndim, 4)
    q, k, v = (x.reshape((1,) * (ndim - x.ndim) + x.shape) for x in (q, k, v))
    H, G = q.shape[-3], k.shape[-3]
    grouped = _checks.flag("enable_gqa", enable_gqa) and H != G
    lead = _lead(q, k, v, up_to=-3 if grouped else -2)
    if grouped:
        q, k, v = (np.broadcast_to(x, lead + x.shape[-3:]) for x in (q, k, v))
    else:
        q, k, v = (np.broadcast_to(x, lead + x.shape[-2:]) for x in (q, k, v))
    full = (*q.shape[:-1], k.shape[-2])

    mask: masks.Mask | Array | None = (
        masks.causal(offset=0) if _checks.flag("is_causal", is_causal) else None
    )
    bias = None
    if attn_mask is not None:
        given = _checks.any_array("attn_mask", attn_mask, "a bool or float array")
        if given.dtype != np.bool_:
            given = _checks.float_array("attn_mask", given)
            _checks.same_dtype(query=q, attn_mask=given)
        _checks.broadcastable("attn_mask", given, "..., H, T, S", full)
        fused = _fuse(np.broadcast_to(given, full) if ndim > 4 else given)
        if given.dtype == np.bool_:
            dense = borrowed(fused)
            mask = dense if mask is None else mask & dense
        else:
            bias = fused
    out: Array = attention(
        _fuse(q),
        _fuse(k),
        _fuse(v),
        mask=mask,
        bias=bias,
        scale=scale,
        dropout=dropout_p,
        rng=rng,
    )
    out = out.reshape(*q.shape[:-1], v.shape[-1])
    result: Array = out[(0,) * (ndim - max(np.ndim(query), np.ndim(key), np.ndim(value)))]
    return result


def _lead(q: Array, k: Array, v: Array, *, up_to: int) -> tuple[int, ...]:
    """Broadcast the leading axes of the three."""
    try:
        return np.broadcast_shapes(*(x.shape[:up_to] for x in (q, k, v)))
    except ValueError:
        raise ValueError(
            "query, key, value: expected leading axes that broadcast, got "
            f"{q.shape}, {k.shape}, {v.shape}"
        ) from None


def _fuse(x: Array) -> Array:
    """Make one axis of all the batch axes: (B, H, T, D)."""
    return x if x.ndim <= 4 else x.reshape(-1, *x.shape[-3:])
