"""Pairs of a query and a key: many, as arrays, or one, of which somebody asks why."""

from typing import NamedTuple

import numpy as np

from miniattn._typing import Array


class Sizes(NamedTuple):
    """B, H, T and S of a call; of a mask by itself, None where it fits any."""

    B: int | None
    H: int | None
    T: int | None
    S: int | None


class Pairs(NamedTuple):
    """Indices of pairs, int arrays that broadcast with each other, and the sizes around them."""

    b: Array
    h: Array
    i: Array
    j: Array
    T: int
    S: int


def all_pairs(B: int, H: int, T: int, S: int) -> Pairs:
    """Return the pairs of a whole array (B, H, T, S)."""
    b, h, i, j = np.ogrid[:B, :H, :T, :S]
    return Pairs(b, h, i, j, T, S)


def pairs_of_queries(b: int, h: int, queries: Array, T: int, S: int) -> Pairs:
    """Return the pairs of some queries (n,) of one head with all keys, as (n, S)."""
    return Pairs(np.array(b), np.array(h), queries[:, None], np.arange(S), T, S)


class Place(NamedTuple):
    """One pair, and S - T where somebody said what these are."""

    b: int
    h: int
    i: int
    j: int
    end_offset: int | None
