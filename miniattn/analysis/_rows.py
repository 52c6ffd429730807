"""Numbers of one row of a map: what one query does."""

import numpy as np

from miniattn import _checks
from miniattn._typing import Array
from miniattn.analysis._checked import shares_of, unless_empty, weight_map


def row_totals(weights: Array) -> Array:
    """Return what each row sums to: Σ_j w_ij. 1 for softmax, whatever it is for other weights.

    Less than 1 is what a learned sink has left, sigmoid attention may give less or more, and an
    empty row has 0.

    Parameters
    ----------
    weights : (..., T, S) float array

    Returns
    -------
    (..., T) array
        0 for an empty row.

    Raises
    ------
    TypeError, ValueError
        If ``weights`` is of another kind, or has fewer than two axes.

    References
    ----------
    Ramapuram et al., "Theory, Analysis, and Best Practices for Sigmoid Self-Attention", 2024,
    section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import analysis
    >>> analysis.row_totals(np.array([[0.5, 0.25], [1.0, 0.5]]))
    array([0.75, 1.5 ])
    """
    weights = weight_map("weights", weights)
    totals: Array = weights.sum(axis=-1, dtype=np.float64)
    return totals.astype(weights.dtype)


def entropy(weights: Array) -> Array:
    """Entropy of each row in nats: −Σ_j p_ij log p_ij. 0 is one key, log S is all alike.

    p_ij = w_ij / Σ_j w_ij are shares of what the row attends with: rows may have any positive sum,
    of which `row_totals` tells, and entropy does not depend on it.

    Parameters
    ----------
    weights : (..., T, S) float array

    Returns
    -------
    (..., T) array
        From 0 to log S; NaN for an empty row.

    Raises
    ------
    TypeError, ValueError
        As `row_totals`.

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
    weights = weight_map("weights", weights)
    shares = shares_of(weights)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return unless_empty(weights, 0.0 - (shares * logs).sum(axis=-1))


def distance(weights: Array, *, offset: int | None = None) -> Array:
    """Mean distance that each query looks: Σ_j p_ij · abs(i + offset − j).

    p_ij = w_ij / Σ_j w_ij are shares, so that the mean is one for rows of any positive sum.

    Parameters
    ----------
    weights : (..., T, S) float array
    offset : int, optional
        The place of query 0 among the keys; S − T by default, as in `masks.causal`.

    Returns
    -------
    (..., T) array
        In tokens; NaN for an empty row.

    Raises
    ------
    TypeError, ValueError
        As `row_totals`; if ``offset`` is not an int.

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
    weights = weight_map("weights", weights)
    T, S = weights.shape[-2:]
    offset = S - T if offset is None else _checks.integer("offset", offset)
    steps = np.abs(np.arange(T)[:, None] + offset - np.arange(S)).astype(weights.dtype)
    return unless_empty(weights, (shares_of(weights) * steps).sum(axis=-1))


def sink_mass(weights: Array, *, sinks: int = 1) -> Array:
    """How much of each row goes to the first keys: Σ_{j < sinks} w_ij.

    It is no share: of a row that sums to 0.6 at most 0.6 goes there. What a *learned* sink takes
    has no key, and is what `row_totals` lacks to 1.

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
        As `row_totals`; if ``sinks`` < 1.

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
    weights = weight_map("weights", weights)
    sinks = _checks.integer("sinks", sinks, least=1)
    return unless_empty(weights, weights[..., :sinks].sum(axis=-1))
