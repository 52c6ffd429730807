"""Which tokens of a sequence a rank holds: a stretch of it, or every n-th of them.

Under a causal mask the last of n contiguous stretches sees n times what the first sees, and all
wait for it. Dealt out like cards, the tokens of every rank see the same, but for a diagonal.

References
----------
Brandon et al. "Striped Attention: Faster Ring Attention for Causal Transformers" (2023), section 3.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from miniattn import _checks
from miniattn._typing import Array
from miniattn.distributed._comm import Comm, checked, gather

Layout: TypeAlias = Literal["contiguous", "striped"]
LAYOUTS: tuple[Layout, ...] = ("contiguous", "striped")


class Stretch(NamedTuple):
    """The tokens ``start, start + step, ...`` of a sequence, ``length`` of them."""

    start: int
    step: int
    length: int

    @property
    def positions(self) -> Array:
        """Where they are in the sequence, int64."""
        return self.start + self.step * np.arange(self.length)

    @property
    def places(self) -> slice:
        """The same as an index."""
        return slice(self.start, self.start + self.step * self.length, self.step)


def stretch_of(length: int, rank: int, size: int, layout: Layout) -> Stretch:
    """Return the tokens of a sequence of ``length`` that ``rank`` of ``size`` holds."""
    if layout == "striped":
        return Stretch(rank, size, max(0, -(-(length - rank) // size)))
    start = rank * length // size
    return Stretch(start, 1, (rank + 1) * length // size - start)


def positions(length: int, comm: Comm, *, layout: Layout = "contiguous") -> Array:
    """Return where the tokens that this rank holds are in a sequence of ``length``.

    Parameters
    ----------
    length : int
        Of the whole sequence.
    comm : Comm
    layout : {"contiguous", "striped"}
        Rank r of n holds the tokens from r · length // n on, or those at r, r + n, r + 2n, ...

    Returns
    -------
    ints, int64

    Raises
    ------
    TypeError, ValueError
        If an argument is of another kind or out of its range.

    Examples
    --------
    >>> from miniattn import distributed
    >>> def held(comm, layout):
    ...     return distributed.positions(7, comm, layout=layout).tolist()
    >>> distributed.simulate(2).run(held, "contiguous")
    [[0, 1, 2], [3, 4, 5, 6]]
    >>> distributed.simulate(2).run(held, "striped")
    [[0, 2, 4, 6], [1, 3, 5]]
    """
    comm = checked(comm)
    length = _checks.integer("length", length, least=0)
    return stretch_of(length, comm.Get_rank(), comm.Get_size(), checked_layout(layout)).positions


def share(x: Array, comm: Comm, *, axis: int = -2, layout: Layout = "contiguous") -> Array:
    """Return the part of a whole array that this rank holds, a copy.

    Parameters
    ----------
    x : array
        The whole sequence.
    comm : Comm
    axis : int, default -2
        The axis of tokens.
    layout : {"contiguous", "striped"}
        As in `positions`.

    Returns
    -------
    array

    Raises
    ------
    TypeError, ValueError
        If an argument is of another kind or out of its range.

    See Also
    --------
    collect : The way back.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import distributed
    >>> ids = np.arange(6)[None]
    >>> def held(comm):
    ...     return distributed.share(ids, comm, axis=1, layout="striped")[0].tolist()
    >>> distributed.simulate(3).run(held)
    [[0, 3], [1, 4], [2, 5]]
    """
    comm = checked(comm)
    x = _checks.any_array("x", x, "an array")
    axis = _checks.axis("axis", axis, x.ndim)
    layout = checked_layout(layout)
    own = stretch_of(x.shape[axis], comm.Get_rank(), comm.Get_size(), layout)
    return x[(slice(None),) * axis + (own.places,)].copy()


def collect(x: Array, comm: Comm, *, axis: int = -2, layout: Layout = "contiguous") -> Array:
    """Return the whole of an array of which each rank holds its part, on every rank.

    Parameters
    ----------
    x : array
        What this rank holds, as from `share`.
    comm, axis, layout
        As in `share`.

    Returns
    -------
    array
        The same on every rank.

    Raises
    ------
    TypeError, ValueError
        If an argument is of another kind, or the parts do not make up one array.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import distributed
    >>> def there_and_back(comm):
    ...     part = distributed.share(np.arange(5), comm, axis=0, layout="striped")
    ...     return distributed.collect(part, comm, axis=0, layout="striped")
    >>> distributed.simulate(2).run(there_and_back)[1]
    array([0, 1, 2, 3, 4])
    """
    comm = checked(comm)
    x = _checks.any_array("x", x, "an array")
    axis = _checks.axis("axis", axis, x.ndim)
    layout = checked_layout(layout)
    parts = gather(comm, x)
    length = sum(part.shape[axis] for part in parts)
    whole = np.empty((*x.shape[:axis], length, *x.shape[axis + 1 :]), x.dtype)
    for rank, part in enumerate(parts):
        own = stretch_of(length, rank, len(parts), layout)
        if part.shape[axis] != own.length:
            raise ValueError(
                f"x: expected {own.length} of {length} tokens on rank {rank}, "
                f"got {part.shape[axis]}"
            )
        whole[(slice(None),) * axis + (own.places,)] = part
    return whole


def checked_layout(layout: object) -> Layout:
    """Return ``layout`` if it is one."""
    return _checks.choice("layout", layout, LAYOUTS)  # type: ignore[return-value]
