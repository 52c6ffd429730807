"""What fills tile maps: a few kinds of rules that kernels know, combined.

Nearly every rule that has a name here is an `Interval`: documents are codes that are equal, dilated
attention is remainders that are equal, patches are rows and columns within a distance, a tree is
the interval of each subtree in the order in which it is walked.
"""

from typing import NamedTuple, TypeAlias

from miniattn._typing import Array


class Interval(NamedTuple):
    """Visible iff first <= code < end, with first and end of the query and the code of the key.

    Or, ``by_key``, the other way round. int64 arrays (1 or B, T) and (1 or B, S).
    """

    first: Array
    end: Array
    codes: Array
    by_key: bool = False


class Entries(NamedTuple):
    """Visible iff the entry is True: bool (1 or B, 1 or H, 1 or T, 1 or S)."""

    array: Array


class Function(NamedTuple):
    """Visible iff a user's function says so."""

    frozen: object
    tables: tuple[Array, ...]
    by_row: bool
    """Whether it looks at the batch row."""
    by_head: bool
    place: tuple[int, ...] = (0, 0, 1, 0, 1)
    """The first head, query and step between queries, key and step between keys."""


class All(NamedTuple):
    """Visible iff all parts say so."""

    parts: "tuple[Program, ...]"


class Some(NamedTuple):
    """Visible iff one of the parts says so."""

    parts: "tuple[Program, ...]"


class Not(NamedTuple):
    """Visible iff the part doesn't say so."""

    part: "Program"


class ByHead(NamedTuple):
    """Each head has a part of its own."""

    parts: "tuple[Program, ...]"


Program: TypeAlias = Interval | Entries | Function | All | Some | Not | ByHead


def varies(program: Program) -> tuple[bool, bool]:
    """Return whether a program differs between batch rows, and between heads."""
    match program:
        case Interval(first, end, codes):
            return max(len(first), len(end), len(codes)) > 1, False
        case Entries(array):
            return array.shape[0] > 1, array.shape[1] > 1
        case Function(_, _, by_row, by_head):
            return by_row, by_head
        case Not(part):
            return varies(part)
        case All(parts) | Some(parts) | ByHead(parts):
            each = [varies(part) for part in parts]
            by_head = any(h for _, h in each) or isinstance(program, ByHead)
            return any(b for b, _ in each), by_head


def part_of(program: Program, heads: slice, queries: slice, keys: slice) -> Program:
    """Return what a program says of some heads, queries and keys, numbered anew."""
    match program:
        case Interval(first, end, codes, by_key):
            x, y = (keys, queries) if by_key else (queries, keys)
            return Interval(first[:, x], end[:, x], codes[:, y], by_key)
        case Entries(array):
            for axis, part in ((1, heads), (2, queries), (3, keys)):
                if array.shape[axis] > 1:
                    array = array[(slice(None),) * axis + (part,)]
            return Entries(array)
        case Function():
            q, k = queries, keys
            place = heads.start or 0, q.start or 0, q.step or 1, k.start or 0, k.step or 1
            return program._replace(place=place)
        case ByHead(parts):
            return ByHead(tuple(part_of(part, heads, queries, keys) for part in parts[heads]))
        case Not(part):
            return Not(part_of(part, heads, queries, keys))
        case All(parts) | Some(parts):
            return type(program)(tuple(part_of(part, heads, queries, keys) for part in parts))
