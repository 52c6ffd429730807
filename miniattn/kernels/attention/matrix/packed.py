"""Packed tiles of keys and values that a thread of the matrix unit's kernels keeps.

To pack a tile takes about a third of the time of a product with it, and each block of queries of a
head meets the same tiles. A thread takes blocks of one head one after the other, so it packs a tile
when the first of them meets it, and finds it there until another head needs the place.
"""

from typing import Any, NamedTuple

from miniattn.kernels.compile.settings import inner
from miniattn.kernels.dense.panels import fill, round_up
from miniattn.kernels.registers import lanes

KEYS = 64  # of one tile
MOST = 6 * 2**20  # words that are kept; further tiles of a head share two places


class Kept(NamedTuple):
    """Places for tiles in a thread's scratch memory."""

    owners: Any
    """The head and the number of the tile in each place, -1 where there is none; the last place."""
    packed: Any
    places: int
    tiles: int
    """Of a head."""
    size: int
    """Words of a place."""


@inner
def tiles_of(problem):
    """Return how many tiles the keys of a head make."""
    return (problem.S + KEYS - 1) // KEYS


@inner
def places_of(problem, queries, size):
    """Return how many tiles are kept: two where no second block of ``queries`` needs them."""
    once = problem.T <= queries and problem.H == problem.G
    return max(2, min(2 if once else MOST // max(1, size), tiles_of(problem)))


@inner
def kept_size(problem, queries, size, w):
    """Return the elements of scratch memory that the places take; ``w`` is a vector's."""
    places = places_of(problem, queries, size)
    return round_up(2 * places + 1, w) + places * size


@inner
def kept_in(memory, problem, queries, size):
    """Return empty places in scratch memory, the size of each a whole number of vectors."""
    places = places_of(problem, queries, size)
    heads = round_up(2 * places + 1, lanes(memory))
    fill(memory, heads, -1.0)
    return Kept(memory, memory + heads, places, tiles_of(problem), size)


@inner
def find(kept, head, number):
    """Return the place of a tile of a key/value head, and whether it has to be packed there.

    It is never the place that was returned last, of another tile: that one is still in use.
    """
    place, last = number, kept.owners + 2 * kept.places
    if kept.tiles > kept.places and number >= kept.places - 2:
        place = kept.places - 1 if last[0] == kept.places - 2 else kept.places - 2
    owner = kept.owners + 2 * place
    missing = owner[0] != head or owner[1] != number
    owner[0], owner[1], last[0] = head, number, place
    return kept.packed + place * kept.size, missing
