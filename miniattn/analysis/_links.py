"""The strongest entries of a map."""

from typing import NamedTuple

import numpy as np

from miniattn import _checks
from miniattn._typing import Array
from miniattn.analysis._checked import weight_map


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
    weights = weight_map("weights", weights)
    count = _checks.integer("count", count, least=0)
    flat = weights.reshape(-1)
    places = np.flatnonzero(flat > 0)
    places = places[np.argsort(-flat[places], kind="stable")[:count]]
    return Links(np.stack(np.unravel_index(places, weights.shape), axis=1), flat[places])
