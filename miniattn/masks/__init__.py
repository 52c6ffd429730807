"""One mask algebra: which keys a query may attend to. True = may attend, everywhere.

A mask is a small frozen object that says a rule; ``&`` intersects rules, ``|`` unites them, ``~``
turns one round. `lower` makes of any mask what attention works with. Bounds stay bounds, a handful
of integers for each batch row. Everything else becomes a *tile map*, computed once: which tiles of
64 queries and 64 keys are hidden, which are full, and bits for the others.
"""

from miniattn import _lazy
from miniattn.masks._array import as_mask
from miniattn.masks._bounds import causal, padding, window
from miniattn.masks._combined import heads
from miniattn.masks._documents import documents
from miniattn.masks._function import MaskFunction, where
from miniattn.masks._lowered import UNBOUNDED, Lowered, lower
from miniattn.masks._mask import Mask
from miniattn.masks._patterns import dilated, globals, neighbourhood, prefix
from miniattn.masks._tree import tree

__all__ = [
    "UNBOUNDED",
    "Lowered",
    "Mask",
    "MaskFunction",
    "as_mask",
    "causal",
    "dilated",
    "documents",
    "globals",
    "heads",
    "lower",
    "neighbourhood",
    "padding",
    "prefix",
    "tree",
    "where",
    "window",
]

__dir__ = _lazy.listed(__name__, __all__)
