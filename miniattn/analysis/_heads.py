"""What a head is: how alike two are, and the scores by which the known kinds are found."""

import numpy as np
from numpy.typing import ArrayLike

from miniattn import _checks
from miniattn._typing import Array
from miniattn.analysis._checked import shares_of, square_map, weight_map


def head_similarity(weights: Array) -> Array:
    """How alike heads attend: 1 − the mean Jensen-Shannon divergence of their rows, in bits.

    1 is the same map, 0 no key in common in any row. Rows that are empty in either head do not
    count. Rows of any positive sum are compared by their shares, w / Σ w.

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
    weights = weight_map("weights", weights, letters="..., H, T, S")
    H, S = weights.shape[-3], weights.shape[-1]
    rows = np.moveaxis(weights, -3, 0).reshape(H, -1, S).astype(np.float64)
    similarity = np.eye(H)
    for a in range(H):
        for b in range(a):  # a pair at a time: all at once would take H times the memory
            both = (rows[a].sum(axis=-1) > 0) & (rows[b].sum(axis=-1) > 0)
            p, q = shares_of(rows[a, both]), shares_of(rows[b, both])
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
        Between 0 and 1, or the greatest sum of a row; NaN for T = 1, where no token has one before
        it.

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
    weights = square_map("weights", weights)
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
    weights = square_map("weights", weights, letters="..., H, T, T")
    same = _same_token(weights, tokens)
    return _mean_mass(weights, np.tril(same, k=-1))


def induction_score(weights: Array, tokens: ArrayLike) -> Array:
    """Mean weight on what followed the same token before: keys j with tokens[j − 1] = tokens[i].

    j ≤ i. Averaged over the queries whose token has come before. On repeated random tokens this is
    the prefix-matching score, by which induction heads are found.

    Parameters
    ----------
    weights, tokens
        As in `duplicate_token_score`.

    Returns
    -------
    (..., H) array
        NaN where no token comes twice.

    Raises
    ------
    TypeError, ValueError
        As `duplicate_token_score`.

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
    weights = square_map("weights", weights, letters="..., H, T, T")
    earlier = np.tril(_same_token(weights, tokens), k=-1)
    followed = np.zeros_like(earlier)
    followed[..., 1:] = earlier[..., :-1]
    return _mean_mass(weights, followed)


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
