"""Numbers of one row of a map: what one query does."""

import numpy as np

from miniattn import _checks
from miniattn._typing import Array
from miniattn.analysis._checked import unless_empty, weight_map


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
    weights = weight_map("weights", weights)
    logs = np.log(weights, out=np.zeros_like(weights), where=weights > 0)
    return unless_empty(weights, 0.0 - (weights * logs).sum(axis=-1))


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
    weights = weight_map("weights", weights)
    T, S = weights.shape[-2:]
    offset = S - T if offset is None else _checks.integer("offset", offset)
    steps = np.abs(np.arange(T)[:, None] + offset - np.arange(S)).astype(weights.dtype)
    return unless_empty(weights, (weights * steps).sum(axis=-1))


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
    weights = weight_map("weights", weights)
    sinks = _checks.integer("sinks", sinks, least=1)
    return unless_empty(weights, weights[..., :sinks].sum(axis=-1))
