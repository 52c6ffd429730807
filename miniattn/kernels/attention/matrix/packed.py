"""Packed tiles of keys and values that a thread of the matrix unit's kernels keeps.

To pack a tile takes about a third of the time of a product with it, and each run of queries of a
head meets the same tiles. A thread takes the queries of one head one run after the other, so it
packs a tile when the first of them meets it, and finds it there until another head needs the place.
"""

from typing import Any, NamedTuple

from miniattn.kernels.compile.settings import inner
from miniattn.kernels.dense.panels import fill, round_up
from miniattn.kernels.registers.matrix_unit import SIDE

KEYS = 64  # of one tile
MOST = 6 * 2**20  # words that are kept; further tiles of a head share two places


class PackedTiles(NamedTuple):
    """Places for packed tiles in a thread's scratch memory."""

    owners: Any
    """The head and the number of the tile in each place, -1 where there is none; the last place."""
    packed: Any
    places: int
    tiles: int
    """Of a head."""
    size: int
    """Words of a place."""
    end: Any


@inner
def tiles_of(problem):
    """Return how many tiles the keys of a head make."""
    return (problem.S + KEYS - 1) // KEYS


@inner
def places_of(problem, queries, size):
    """Return how many tiles are kept: two where no second run of ``queries`` needs them."""
    once = problem.T <= queries and problem.H == problem.G
    return max(2, min(2 if once else MOST // max(1, size), tiles_of(problem)))


@inner
def places_at(problem, queries, size, start):
    """Return the `PackedTiles` from ``start`` on, an address or 0; ``size`` is of whole vectors."""
    places = places_of(problem, queries, size)
    packed = start + owners_size(places)
    return PackedTiles(start, packed, places, tiles_of(problem), size, packed + places * size)


@inner
def owners_size(places):
    """Return the words of the owners of so many places."""
    return round_up(2 * places + 1, SIDE)


@inner
def forget(tiles):
    """Let no place have an owner, as long as nothing is packed there."""
    fill(tiles.owners, owners_size(tiles.places), -1.0)


@inner
def find(tiles, head, number):
    """Return the place of a tile of a key/value head, and whether it has to be packed there.

    It is never the place that was returned last, of another tile: that one is still in use.
    """
    place, last = number, tiles.owners + 2 * tiles.places
    if tiles.tiles > tiles.places and number >= tiles.places - 2:
        place = tiles.places - 1 if last[0] == tiles.places - 2 else tiles.places - 2
    owner = tiles.owners + 2 * place
    missing = owner[0] != head or owner[1] != number
    owner[0], owner[1], last[0] = head, number, place
    return tiles.packed + place * tiles.size, missing
