"""The three projections of attention: those of one input are made at once."""

from collections.abc import Sequence
from typing import Any

from miniattn import _checks
from miniattn._typing import Array
from miniattn.nn._linear import backward_together, forward_together
from miniattn.nn._module import Module

# What the projections call x.
_X_IS = tuple(_checks.renamed(x=name) for name in ("query", "key", "value"))

# Which of the projections of query, key and value have the same input, by how many are given.
_OF_SAME_INPUT = {
    1: (slice(0, 3),),
    2: (slice(0, 1), slice(1, 3)),
    3: (slice(0, 1), slice(1, 2), slice(2, 3)),
}


def project(layers: Sequence[Module], *inputs: Array | None) -> list[Any]:
    """Return (y, ctx) of each of the three projections of query, key and value."""
    given = [x for x in inputs if x is not None]
    projected = []
    for i, group in enumerate(_OF_SAME_INPUT[len(given)]):
        with _X_IS[i]:
            projected += forward_together(layers[group], given[i])
    return projected


def project_back(
    layers: Sequence[Module], dys: Sequence[Array], ctxs: Sequence[Any], given: int
) -> tuple[Array, ...]:
    """Return the gradients of those inputs that were given."""
    # q, k, v = q_proj(query), k_proj(key), v_proj(value)
    groups = _OF_SAME_INPUT[given]
    return tuple(backward_together(layers[of], dys[of], ctxs[of]) for of in groups)
