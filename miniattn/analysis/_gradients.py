"""The gradient of the loss by a map, and what is made of it."""

import numpy as np

from miniattn import _checks
from miniattn._typing import Array
from miniattn.analysis._checked import weight_map


def weight_gradients(dout: Array, v: Array) -> Array:
    """Gradient of the loss by the attention weights: dw = dout vᵀ.

    Parameters
    ----------
    dout : (B, H, T, Dv) float array
        Gradient of the loss by the output of the attention.
    v : (B, G, S, Dv) float array
        Values; G divides H.

    Returns
    -------
    (B, H, T, S) array
        Hidden pairs have a gradient here too: it says what they would change.

    Raises
    ------
    TypeError, ValueError
        If dtypes differ or shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import analysis
    >>> dout, v = np.ones((1, 2, 3, 4)), np.ones((1, 1, 5, 4))
    >>> analysis.weight_gradients(dout, v).shape
    (1, 2, 3, 5)
    """
    dout, v = _checks.float_array("dout", dout), _checks.float_array("v", v)
    _checks.same_dtype(dout=dout, v=v)
    _checks.shape("dout", dout, "B, H, T, Dv")
    _checks.shape("v", v, "B, G, S, Dv", {"B": dout.shape[0], "Dv": dout.shape[3]})
    B, H, T, Dv = dout.shape
    G, S = v.shape[1:3]
    if G == 0 or H % G:
        raise ValueError(f"v: expected G to divide H = {H}, got G = {G}")
    grouped = dout.reshape(B, G, H // G, T, Dv)
    return (grouped @ v[:, :, None].swapaxes(-1, -2)).reshape(B, H, T, S)


def gradient_times_attention(weights: Array, dweights: Array, *, positive: bool = False) -> Array:
    """Return the relevance w · dw: what each weight does to the loss, to first order.

    Parameters
    ----------
    weights, dweights : (..., T, S) float arrays
        A map and the gradient of the loss by it, e.g. of `weight_gradients`.
    positive : bool
        Keep the positive part only, as Chefer et al. do before averaging over heads.

    Returns
    -------
    (..., T, S) array

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes differ.

    References
    ----------
    Chefer, Gur and Wolf, "Generic Attention-model Explainability for Interpreting Bi-Modal and
    Encoder-Decoder Transformers", ICCV 2021, section 3, equation 5.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import analysis
    >>> analysis.gradient_times_attention(np.array([[0.5, 0.5]]), np.array([[2.0, -2.0]]))
    array([[ 1., -1.]])
    """
    weights, dweights = weight_map("weights", weights), weight_map("dweights", dweights)
    _checks.same_dtype(weights=weights, dweights=dweights)
    if weights.shape != dweights.shape:
        raise ValueError(
            f"dweights: expected shape {weights.shape} like weights, got {dweights.shape}"
        )
    relevance = weights * dweights
    return np.maximum(relevance, 0) if _checks.flag("positive", positive) else relevance
