"""Where numbers lie in memory: an address, and how far it is to the next."""

from typing import Any, NamedTuple

from miniattn.kernels.compile.settings import inner


class Lines(NamedTuple):
    """Rows of numbers, or squares of them, that begin ``step`` elements apart."""

    start: Any
    step: int


class Grid(NamedTuple):
    """Numbers, or rows of them, for pairs: so far apart going down, so far going across.

    In attention the next query is further down, and the next key further across.
    """

    start: Any
    down: int
    across: int


class Extent(NamedTuple):
    """How many rows there are, and how many terms each sum has."""

    rows: int
    depth: int


@inner
def line(lines, i):
    """Return the address of row ``i``."""
    return lines.start + i * lines.step


@inner
def lines_from(lines, i):
    """Return the rows from row ``i`` on."""
    return Lines(lines.start + i * lines.step, lines.step)


@inner
def entry(grid, i, j):
    """Return the address of what belongs to the pair ``(i, j)``."""
    return grid.start + (i * grid.down + j * grid.across)


@inner
def by_row(lines):
    """Return the `Grid` of pairs ``(i, j)`` to each of which row ``i`` belongs."""
    return Grid(lines.start, lines.step, 0)


@inner
def by_column(lines):
    """Return the `Grid` of pairs ``(i, j)`` to each of which row ``j`` belongs."""
    return Grid(lines.start, 0, lines.step)
