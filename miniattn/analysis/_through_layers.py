"""How attention runs through all layers of a model, from its top to its tokens."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from miniattn import _checks, kernels
from miniattn._typing import Array
from miniattn.analysis._checked import square_map


def rollout(
    weights: Sequence[Array],
    *,
    residual: float = 0.5,
    heads: Literal["mean", "max"] = "mean",
    normalize: bool = True,
) -> Array:
    """Attention through all layers: R = A_L ⋯ A_1, A_l = residual · I + (1 − residual) · W_l.

    Parameters
    ----------
    weights : sequence of L arrays (..., H, T, T)
        Self-attention maps, from the first layer to the last; one array (L, ..., H, T, T) will do.
    residual : float in [0, 1)
        The share of the residual connection.
    heads : {"mean", "max"}
        How W_l is made of a layer's heads.
    normalize : bool
        Whether the rows of A_l are brought back to a sum of 1, as in the paper. Where weights have
        other sums, as those of a sink or a sigmoid, False keeps them: what a sink has taken is
        then lost on the way.

    Returns
    -------
    (..., T, T) float64 array
        Row i: how much of each input token reaches output token i.

    Raises
    ------
    TypeError, ValueError
        If the maps are not float arrays of one shape (..., H, T, T).

    References
    ----------
    Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import analysis
    >>> layer = np.array([[[1.0, 0.0], [0.5, 0.5]]])      # one head
    >>> analysis.rollout([layer, layer])
    array([[1.    , 0.    ],
           [0.4375, 0.5625]])
    """
    layers = _layers(weights, residual, heads, normalize)
    joint: Array = layers[0]
    for layer in layers[1:]:
        joint = layer @ joint
    return joint


def flow(
    weights: Sequence[Array],
    *,
    residual: float = 0.5,
    heads: Literal["mean", "max"] = "mean",
    normalize: bool = True,
    queries: ArrayLike | None = None,
) -> Array:
    """Attention flow: the most that can run from an output token down to an input token.

    The layers are a network of pipes: from token i above layer l to token j below it fits A_l[i, j]
    (as in `rollout`). Entry [i, j] is the maximum flow from i at the top to j at the bottom.

    Parameters
    ----------
    weights : sequence of L arrays (H, T, T)
        Self-attention maps, from the first layer to the last.
    residual, heads, normalize
        As in `rollout`.
    queries : ints (n,), optional
        The output tokens to compute; all by default. Each takes T maximum flows.

    Returns
    -------
    (n, T) float64 array

    Raises
    ------
    TypeError, ValueError
        If the maps are not float arrays of one shape (H, T, T), or a query is not in [0, T).

    References
    ----------
    Abnar and Zuidema, as above; Ford and Fulkerson, "Maximal Flow through a Network", 1956.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import analysis
    >>> layer = np.array([[[1.0, 0.0], [0.5, 0.5]]])
    >>> analysis.flow([layer, layer])
    array([[1.  , 0.  ],
           [0.5 , 0.75]])
    """
    layers = _layers(weights, residual, heads, normalize)
    if layers.ndim != 3:
        raise ValueError(
            f"weights: expected arrays (H, T, T), got layers of shape {np.shape(weights[0])}"
        )
    T = layers.shape[-1]
    sources = np.arange(T) if queries is None else _checks.int_array("queries", queries)
    if sources.ndim != 1 or (sources.size and not 0 <= sources.min() <= sources.max() < T):
        raise ValueError(f"queries: expected ints (n,) in [0, {T}), got {sources}")
    out = np.empty((len(sources), T))
    if out.size:
        kernels.flow.max_flows(layers, np.array(sources, np.int64), out)
    return out


def _layers(weights: Sequence[Array], residual: float, heads: str, normalize: bool) -> Array:
    """Return A (L, ..., T, T): heads joined, the residual added, rows summing to 1 if asked to."""
    residual = _checks.probability("residual", residual)
    join: Any = {"mean": np.mean, "max": np.max}[_checks.choice("heads", heads, ("mean", "max"))]
    if len(_checks.sequence("weights", weights, "maps")) == 0:
        raise ValueError("weights: expected the maps of at least one layer, got none")
    maps = [square_map("weights", w, "..., H, T, T") for w in weights]
    for w in maps:
        if w.shape != maps[0].shape:
            raise ValueError(
                f"weights: expected one shape in all layers, got {maps[0].shape} and {w.shape}"
            )
    joined = np.stack([join(w.astype(np.float64), axis=-3) for w in maps])
    mixed: Array = residual * np.eye(joined.shape[-1]) + (1 - residual) * joined
    if not _checks.flag("normalize", normalize):
        return mixed
    total = mixed.sum(axis=-1, keepdims=True)
    shares: Array = np.divide(mixed, total, out=np.zeros_like(mixed), where=total > 0)
    return shares
