"""Numbers that people read off attention maps. Arrays in, arrays out, each with its paper.

``weights`` is a map (..., T, S) as `functional.attention_weights` gives it: rows are queries, each
sums to 1, or to 0 where a query may attend to nothing. Such an empty row has no entropy and no
distance: it gives NaN, which ``np.nanmean`` passes over.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from miniattn import _checks, _lazy, kernels
from miniattn._typing import Array

__all__ = [
    "Links",
    "distance",
    "duplicate_token_score",
    "entropy",
    "flow",
    "gradient_times_attention",
    "head_similarity",
    "induction_score",
    "previous_token_score",
    "rollout",
    "sink_mass",
    "top_links",
    "weight_gradients",
]

__dir__ = _lazy.listed(__name__, __all__)


# ------------------------------------------------------------------------------------ rows of a map


def entropy(weights: Array) -> Array:
    """Entropy of each row in nats: −Σ_j w_ij log w_ij. 0 is one key, log S is all alike.

    Parameters
    ----------
    weights : (..., T, S) float array

    Returns
    -------
    (..., T) array
        NaN for an empty row.

    Raises
    ------
    TypeError, ValueError
        If ``weights`` is not float32 or float64 with at least two axes.

    References
    ----------
    Ghader and Monz, "What does Attention in Neural Machine Translation Pay Attention to?", 2017,
    section 4.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import analysis
    >>> analysis.entropy(np.array([[1.0, 0.0], [0.5, 0.5]])).round(3)
    array([0.   , 0.693])
    """
    weights = _map("weights", weights)
    logs = np.log(weights, out=np.zeros_like(weights), where=weights > 0)
    return _unless_empty(weights, 0.0 - (weights * logs).sum(axis=-1))


def distance(weights: Array, *, offset: int | None = None) -> Array:
    """Mean distance that each query looks: Σ_j w_ij · abs(i + offset − j).

    Parameters
    ----------
    weights : (..., T, S) float array
    offset : int, optional
        The place of query 0 among the keys; S − T by default, as in `masks.causal`.

    Returns
    -------
    (..., T) array
        NaN for an empty row.

    Raises
    ------
    TypeError, ValueError
        If ``weights`` is not float32 or float64 with at least two axes.

    References
    ----------
    Vig and Belinkov, "Analyzing the Structure of Attention in a Transformer Language Model", 2019,
    section 4.3.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import analysis
    >>> analysis.distance(np.array([[1.0, 0.0], [0.5, 0.5]]))
    array([0. , 0.5])
    """
    weights = _map("weights", weights)
    T, S = weights.shape[-2:]
    offset = S - T if offset is None else _checks.integer("offset", offset)
    steps = np.abs(np.arange(T)[:, None] + offset - np.arange(S)).astype(weights.dtype)
    return _unless_empty(weights, (weights * steps).sum(axis=-1))


def sink_mass(weights: Array, *, sinks: int = 1) -> Array:
    """How much of each row goes to the first keys: Σ_{j < sinks} w_ij.

    Parameters
    ----------
    weights : (..., T, S) float array
    sinks : int >= 1

    Returns
    -------
    (..., T) array
        NaN for an empty row.

    Raises
    ------
    TypeError, ValueError
        If ``weights`` is not float32 or float64 with at least two axes, or ``sinks`` < 1.

    References
    ----------
    Xiao et al., "Efficient Streaming Language Models with Attention Sinks", 2023, section 3.1.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import analysis
    >>> analysis.sink_mass(np.array([[1.0, 0.0], [0.25, 0.75]]))
    array([1.  , 0.25])
    """
    weights = _map("weights", weights)
    sinks = _checks.integer("sinks", sinks, least=1)
    return _unless_empty(weights, weights[..., :sinks].sum(axis=-1))


# ---------------------------------------------------------------------------------- through layers


def rollout(
    weights: Sequence[Array], *, residual: float = 0.5, heads: Literal["mean", "max"] = "mean"
) -> Array:
    """Attention through all layers: R = A_L ⋯ A_1, A_l = residual · I + (1 − residual) · W_l.

    Parameters
    ----------
    weights : sequence of L arrays (..., H, T, T)
        Self-attention maps, from the first layer to the last; one array (L, ..., H, T, T) will do.
    residual : float in [0, 1)
        The share of the residual connection.
    heads : {"mean", "max"}
        How W_l is made of a layer's heads; rows are brought back to a sum of 1.

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
    layers = _layers(weights, residual, heads)
    joint: Array = layers[0]
    for layer in layers[1:]:
        joint = layer @ joint
    return joint


def flow(
    weights: Sequence[Array],
    *,
    residual: float = 0.5,
    heads: Literal["mean", "max"] = "mean",
    queries: ArrayLike | None = None,
) -> Array:
    """Attention flow: the most that can run from an output token down to an input token.

    The layers are a network of pipes: from token i above layer l to token j below it fits A_l[i, j]
    (as in `rollout`). Entry [i, j] is the maximum flow from i at the top to j at the bottom.

    Parameters
    ----------
    weights : sequence of L arrays (H, T, T)
        Self-attention maps, from the first layer to the last.
    residual, heads
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
    Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import analysis
    >>> layer = np.array([[[1.0, 0.0], [0.5, 0.5]]])
    >>> analysis.flow([layer, layer])
    array([[1.  , 0.  ],
           [0.5 , 0.75]])
    """
    layers = _layers(weights, residual, heads)
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
        kernels.flow.max_flow(layers, np.array(sources, np.int64), out)
    return out


# -------------------------------------------------------------------------------------------- heads


def head_similarity(weights: Array) -> Array:
    """How alike heads attend: 1 − the mean Jensen-Shannon divergence of their rows, in bits.

    1 is the same map, 0 no key in common in any row. Rows that are empty in either head do not
    count.

    Parameters
    ----------
    weights : (..., H, T, S) float array
        Leading axes are averaged over. For all heads of a model, join the layers along H.

    Returns
    -------
    (H, H) float64 array

    Raises
    ------
    TypeError, ValueError
        If ``weights`` is not float32 or float64 with at least three axes.

    References
    ----------
    Clark et al., "What Does BERT Look At? An Analysis of BERT's Attention", 2019, section 6.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import analysis
    >>> same, other = np.eye(3), np.roll(np.eye(3), 1, axis=1)
    >>> analysis.head_similarity(np.stack([same, same, other]))
    array([[1., 1., 0.],
           [1., 1., 0.],
           [0., 0., 1.]])
    """
    weights = _map("weights", weights, letters="..., H, T, S")
    H, S = weights.shape[-3], weights.shape[-1]
    rows = np.moveaxis(weights, -3, 0).reshape(H, -1, S).astype(np.float64)
    similarity = np.eye(H)
    for a in range(H):
        for b in range(a):  # a pair at a time: all at once would take H times the memory
            both = (rows[a].sum(axis=-1) > 0) & (rows[b].sum(axis=-1) > 0)
            p, q = rows[a, both], rows[b, both]
            middle = (p + q) / 2
            bits = (_bits(p, middle) + _bits(q, middle)) / 2
            similarity[a, b] = similarity[b, a] = 1 - bits.mean() if bits.size else np.nan
    return similarity


def previous_token_score(weights: Array) -> Array:
    """Return the mean weight on the token before: the mean over i ≥ 1 of w[i, i − 1].

    Parameters
    ----------
    weights : (..., T, T) float array

    Returns
    -------
    (...) array
        Between 0 and 1; NaN for T = 1, where no token has one before it.

    Raises
    ------
    TypeError, ValueError
        If ``weights`` is not a float array (..., T, T).

    References
    ----------
    Voita et al., "Analyzing Multi-Head Self-Attention", ACL 2019, section 5.2 (positional heads).

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import analysis
    >>> analysis.previous_token_score(np.eye(4, k=-1))
    np.float64(1.0)
    """
    weights = _square("weights", weights)
    T = weights.shape[-1]
    return _mean_mass(weights, np.eye(T, k=-1, dtype=bool))


def duplicate_token_score(weights: Array, tokens: ArrayLike) -> Array:
    """Return the mean weight on earlier places of the same token, over queries that have any.

    Parameters
    ----------
    weights : (..., H, T, T) float array
    tokens : (T,) or (..., T) array
        Ids or strings; leading axes as those of ``weights`` before H.

    Returns
    -------
    (..., H) array
        NaN where no token comes twice.

    Raises
    ------
    TypeError, ValueError
        If ``weights`` is not a float array (..., H, T, T), or ``tokens`` does not fit it.

    References
    ----------
    Wang et al., "Interpretability in the Wild: a Circuit for Indirect Object Identification in
    GPT-2 small", 2022, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import analysis
    >>> weights = np.full((1, 3, 3), 1 / 3)
    >>> analysis.duplicate_token_score(weights, ["a", "b", "a"]).round(3)
    array([0.333])
    """
    weights = _square("weights", weights, letters="..., H, T, T")
    same = _same_token(weights, tokens)
    return _mean_mass(weights, np.tril(same, k=-1))


def induction_score(weights: Array, tokens: ArrayLike) -> Array:
    """Mean weight on what followed the same token before: keys j with tokens[j − 1] = tokens[i].

    j ≤ i. Averaged over the queries whose token has come before. On repeated random tokens this is
    the prefix-matching score, by which induction heads are found.

    Parameters
    ----------
    weights : (..., H, T, T) float array
    tokens : (T,) or (..., T) array
        Ids or strings; leading axes as those of ``weights`` before H.

    Returns
    -------
    (..., H) array
        NaN where no token comes twice.

    Raises
    ------
    TypeError, ValueError
        If ``weights`` is not a float array (..., H, T, T), or ``tokens`` does not fit it.

    References
    ----------
    Olsson et al., "In-context Learning and Induction Heads", 2022, section "Model Analysis Table",
    prefix matching.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import analysis
    >>> weights = np.zeros((1, 4, 4))
    >>> weights[0, 2, 1] = weights[0, 3, 2] = 1.0   # the second "a" looks at the first "b"
    >>> analysis.induction_score(weights, ["a", "b", "a", "b"])
    array([1.])
    """
    weights = _square("weights", weights, letters="..., H, T, T")
    earlier = np.tril(_same_token(weights, tokens), k=-1)
    followed = np.zeros_like(earlier)
    followed[..., 1:] = earlier[..., :-1]
    return _mean_mass(weights, followed)


# ---------------------------------------------------------------------------------------- gradients


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
    weights, dweights = _map("weights", weights), _map("dweights", dweights)
    _checks.same_dtype(weights=weights, dweights=dweights)
    if weights.shape != dweights.shape:
        raise ValueError(
            f"dweights: expected shape {weights.shape} like weights, got {dweights.shape}"
        )
    relevance = weights * dweights
    return np.maximum(relevance, 0) if _checks.flag("positive", positive) else relevance


# -------------------------------------------------------------------------------------------- links


class Links(NamedTuple):
    """The strongest entries of a map, from strong to weak."""

    indices: Array
    """(n, ndim) int64: where, one column an axis; the last two are query and key."""
    weights: Array
    """(n,): how strong."""


def top_links(weights: Array, count: int) -> Links:
    """Return the ``count`` largest weights of a map and where they are.

    Parameters
    ----------
    weights : (..., T, S) float array
    count : int >= 0
        More than there are weights above 0 gives all of these.

    Returns
    -------
    Links
        Equal weights come in the order of their indices.

    Raises
    ------
    TypeError, ValueError
        If ``weights`` is not float32 or float64 with at least two axes, or ``count`` < 0.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import analysis
    >>> indices, strength = analysis.top_links(np.array([[1.0, 0.0], [0.25, 0.75]]), 2)
    >>> indices, strength
    (array([[0, 0],
           [1, 1]]), array([1.  , 0.75]))
    """
    weights = _map("weights", weights)
    count = _checks.integer("count", count, least=0)
    flat = weights.reshape(-1)
    places = np.flatnonzero(flat > 0)
    places = places[np.argsort(-flat[places], kind="stable")[:count]]
    return Links(np.stack(np.unravel_index(places, weights.shape), axis=1), flat[places])


# ------------------------------------------------------------------------------------ small helpers


def _map(name: str, weights: object, letters: str = "..., T, S") -> Array:
    array = _checks.float_array(name, weights)
    _checks.shape(name, array, letters)
    return array


def _square(name: str, weights: object, letters: str = "..., T, T") -> Array:
    array = _map(name, weights, letters)
    if array.shape[-1] != array.shape[-2]:
        raise ValueError(f"{name}: expected shape ({letters}), got {array.shape}")
    return array


def _unless_empty(weights: Array, values: Array) -> Array:
    return np.where(weights.sum(axis=-1) > 0, values, np.nan).astype(weights.dtype)


def _layers(weights: Sequence[Array], residual: float, heads: str) -> Array:
    """Return A (L, ..., T, T): heads joined, the residual added, rows summing to 1."""
    residual = _checks.probability("residual", residual)
    join: Any = {"mean": np.mean, "max": np.max}[_checks.choice("heads", heads, ("mean", "max"))]
    if len(_checks.sequence("weights", weights, "maps")) == 0:
        raise ValueError("weights: expected the maps of at least one layer, got none")
    maps = [_square("weights", w, "..., H, T, T") for w in weights]
    for w in maps:
        if w.shape != maps[0].shape:
            raise ValueError(
                f"weights: expected one shape in all layers, got {maps[0].shape} and {w.shape}"
            )
    joined = np.stack([join(w.astype(np.float64), axis=-3) for w in maps])
    mixed = residual * np.eye(joined.shape[-1]) + (1 - residual) * joined
    total = mixed.sum(axis=-1, keepdims=True)
    shares: Array = np.divide(mixed, total, out=np.zeros_like(mixed), where=total > 0)
    return shares


def _bits(p: Array, q: Array) -> Array:
    """Return the Kullback-Leibler divergence of the rows of p from those of q, in bits."""
    ratio = np.divide(p, q, out=np.ones_like(p), where=p > 0)
    bits: Array = (p * np.log2(ratio)).sum(axis=-1)
    return bits


def _same_token(weights: Array, tokens: ArrayLike) -> Array:
    """Return (..., 1, T, T): whether key j has the token of query i."""
    words = _checks.any_array("tokens", tokens, "an array of tokens")
    T, before = weights.shape[-1], weights.shape[:-3]
    if words.shape not in ((T,), (*before, T)):
        raise ValueError(
            f"tokens: expected shape {(*before, T)} or {(T,)} for weights {weights.shape}, "
            f"got {words.shape}"
        )
    same: Array = words[..., :, None] == words[..., None, :]
    return same[..., None, :, :]


def _mean_mass(weights: Array, where: Array) -> Array:
    """Return the mass on the marked keys, averaged over the queries that have any."""
    mass = np.where(where, weights, 0).sum(axis=-1)
    counted = np.broadcast_to(where.any(axis=-1), mass.shape)
    number = counted.sum(axis=-1)
    total = np.where(counted, mass, 0).sum(axis=-1)
    mean: Array = np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)
    return mean[()].astype(weights.dtype)
