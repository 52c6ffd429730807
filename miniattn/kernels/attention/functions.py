"""Scores by a user's function: a compiled loop over one tile, called by its address.

The function becomes part of two loops, which are compiled alone (`compile.user`): `forward_loop`
replaces the scores of a tile, `backward_loop` the gradients of scores, and adds to those of tables.
No kernel is compiled anew. What kernels are told of it stands in the operand SCORE, the *door*:
addresses of the two loops, how many numbers the tables' gradients have, and where the tables are.

What a mask hides the function is not asked for: there the score is -inf already, and i and j may be
out of the range of its tables.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from miniattn.kernels.attention.masking import GROUP, PARTIAL, keys_seen
from miniattn.kernels.attention.operands import DTABLES, SCORE, given
from miniattn.kernels.compile.settings import Inner, inner
from miniattn.kernels.registers import LANES, address, ask, guarded_views, registers

# The door. The tables follow it, as `views` has them, then those of their gradients.
FORWARD, BACKWARD, SHIFTS, SUMS, FAILED, TABLES = range(6)
# What a loop is told of its tile, whose rows belong to keys: the batch row and head, the first
# pair, how many rows and columns there are, how wide a row is, and whether some pairs are hidden.
PLACE = 8
ROOM = -(-PLACE // (LANES // 2))  # registers that hold it
ROW, HEAD, I0, J0, ROWS, COLUMNS, WIDTH, MASKED = range(PLACE)

FEW = 64  # sums that a loop keeps on its stack
ROOM_OF_SUMS = FEW // (LANES // 2)
WIDEST = 64  # row of a tile of scores
ROOM_OF_A_ROW = WIDEST // (LANES // 2)
DISTANCES = 256  # of a tile: more than rows and columns together
ROOM_OF_DISTANCES = DISTANCES // (LANES // 2)
_BY_PAIR = {"nogil": True, "error_model": "numpy", "boundscheck": True}


@inner
def some_hidden(row, columns):
    """Return whether the mask hides some of a row's pairs; a loop without a condition is faster."""
    hidden = 0
    for c in range(columns):
        hidden += row[c] == -np.inf
    return hidden > 0


def forward_loop(function: Any, kinds: tuple[Any, ...]) -> Callable[..., None]:
    """Return the loop that replaces the scores of a tile by what a user's function makes of them.

    ``kinds`` are the types of its tables and numbers.
    """
    tables = guarded_views(*kinds)

    def score_tile(door: Any, place: Any, scores: Any, before: Any, sums: Any) -> None:
        note = registers(1, np.int64)
        note[0] = 0
        given = tables(door + TABLES, sums, note)
        b, h, i0, j0 = place[ROW], place[HEAD], place[I0], place[J0]
        masked, columns = place[MASKED] != 0, place[COLUMNS]
        new = registers(ROOM_OF_A_ROW, scores)
        for r in range(place[ROWS]):
            p, j = scores + r * place[WIDTH], j0 + r
            if masked and some_hidden(p, columns):
                for c in range(columns):
                    if p[c] != -np.inf:
                        p[c] = function(p[c], b, h, i0 + c, j, *given)
            else:
                for c in range(columns):
                    new[c] = function(p[c], b, h, i0 + c, j, *given)
                for c in range(columns):
                    p[c] = new[c]
        if note[0] != 0:
            door[FAILED] = 1

    return score_tile


def backward_loop(
    function: Any, kinds: tuple[Any, ...], gradients: tuple[Any, ...], few: bool
) -> Callable[..., None]:
    """Return the loop that takes the gradients of a tile's scores back through the function.

    ``before`` are the scores that it was given. ``gradients`` are the types of the tables' partial
    gradients, whose places count from ``sums`` on. Where they are ``few`` numbers, those of a tile
    are added up on the stack: there the compiler knows that nothing else writes to them, and keeps
    them in registers. In memory each sum waits for the one before, 13 cycles a pair.
    """
    tables = guarded_views(*kinds, *gradients, relative=len(gradients))

    def score_tile_backward(door: Any, place: Any, dscores: Any, before: Any, sums: Any) -> None:
        b, h, i0, j0 = place[ROW], place[HEAD], place[I0], place[J0]
        count = door[SUMS]
        own = registers(ROOM_OF_SUMS, np.float64) if few else sums
        if few:
            for n in range(count):
                own[n] = 0.0
        note = registers(1, np.int64)
        note[0] = 0
        given = tables(door + TABLES, own, note)
        masked = place[MASKED] != 0
        for r in range(place[ROWS]):
            p, q, j = dscores + r * place[WIDTH], before + r * place[WIDTH], j0 + r
            if masked and some_hidden(q, place[COLUMNS]):
                for c in range(place[COLUMNS]):
                    if q[c] != -np.inf:
                        p[c] = function(p[c], q[c], b, h, i0 + c, j, *given)
            else:
                for c in range(place[COLUMNS]):
                    p[c] = function(p[c], q[c], b, h, i0 + c, j, *given)
        if few:
            for n in range(count):
                sums[n] += own[n]
        if note[0] != 0:
            door[FAILED] = 1

    return score_tile_backward


def forward_by_distance(function: Any, bias: Any, kinds: tuple[Any, ...]) -> Callable[..., None]:
    """Return the loop of `forward_loop` for a function that adds a bias by head and distance.

    In a tile of which nothing is hidden ``bias`` is asked once for each distance: 127 times in
    place of 4,096.
    """
    tables = guarded_views(*kinds)
    by_pair = _part(forward_loop, function, kinds)

    def add_to_tile(door: Any, place: Any, scores: Any, before: Any, sums: Any) -> None:
        rows, columns, h = place[ROWS], place[COLUMNS], place[HEAD]
        if place[MASKED] != 0 or rows + columns > DISTANCES:
            by_pair(door, place, scores, before, sums)
            return
        note = registers(1, np.int64)
        note[0] = 0
        given = tables(door + TABLES, sums, note)
        line = registers(ROOM_OF_DISTANCES, scores)
        last = place[J0] + rows - 1 - place[I0]
        for n in range(rows + columns - 1):
            line[n] = bias(h, last - n, *given)
        for r in range(rows):
            p, of_row = scores + r * place[WIDTH], line + (rows - 1 - r)
            for c in range(columns):
                p[c] = p[c] + of_row[c]
        if note[0] != 0:
            door[FAILED] = 1

    return add_to_tile


def _part(build: Callable[..., Callable[..., None]], function: Any, *key: Any) -> Any:
    """Return a loop as part of another, under a name that no other loop has.

    The function's own name says which it is, in all processes.
    """
    loop = build(function, *key)
    digest = hashlib.sha256(repr((function.py_func.__qualname__, key)).encode()).hexdigest()
    loop.__qualname__ += f".{digest[:16]}"
    return Inner(loop, _BY_PAIR)


def backward_by_distance(
    function: Any, bias: Any, kinds: tuple[Any, ...], gradients: tuple[Any, ...], few: bool
) -> Callable[..., None]:
    """Return the loop of `backward_loop` for such a function.

    The gradients of a distance's pairs are added up first; those of scores stay what they are.
    """
    tables = guarded_views(*kinds, *gradients, relative=len(gradients))
    by_pair = _part(backward_loop, function, kinds, gradients, few)

    def add_tile(door: Any, place: Any, dscores: Any, before: Any, sums: Any) -> None:
        rows, columns, h = place[ROWS], place[COLUMNS], place[HEAD]
        if place[MASKED] != 0 or rows + columns > DISTANCES:
            by_pair(door, place, dscores, before, sums)
            return
        line = registers(ROOM_OF_DISTANCES, sums)
        for n in range(rows + columns - 1):
            line[n] = 0.0
        for r in range(rows):
            p, of_row = dscores + r * place[WIDTH], line + (rows - 1 - r)
            for c in range(columns):
                of_row[c] += p[c]
        note = registers(1, np.int64)
        note[0] = 0
        given = tables(door + TABLES, sums, note)
        last = place[J0] + rows - 1 - place[I0]
        for n in range(rows + columns - 1):
            bias(line[n], h, last - n, *given)
        if note[0] != 0:
            door[FAILED] = 1

    return add_tile


@inner
def score_by_function(scores, door, rule, tile):
    """Replace the scores of a tile; hidden ones are -inf."""
    _visit(door, FORWARD, rule, tile, scores, scores, address(0, np.float64))


@inner
def score_by_function_backward(dscores, before, door, rule, tile, sums):
    """Replace the gradients of a tile's scores; add to the tables' partial gradients ``sums``."""
    _visit(door, BACKWARD, rule, tile, dscores, before, sums)


@inner
def dtables_of(operands, piece):
    """Return where a piece of work adds up its part of the tables' gradients."""
    place = address(operands[DTABLES], np.float64)
    if given(operands, SCORE):
        return place + piece * address(operands[SCORE], np.int64)[SUMS]
    return place


@inner(apart=True)
def _visit(door, which, rule, tile, scores, before, sums):
    """Call a loop for what the bounds leave of a tile, in as few rectangles as that is."""
    place = registers(ROOM, np.int64)
    shift = address(door[SHIFTS], np.int64)[tile.b] if door[SHIFTS] != 0 else 0
    place[ROW], place[HEAD], place[WIDTH] = tile.b, tile.h, tile.width
    place[MASKED] = 1 if tile.kind == PARTIAL else 0
    step = GROUP if tile.kind == PARTIAL else tile.n
    for c in range(0, tile.n, step):
        start, stop = keys_seen(rule, tile, c, step)
        if start < stop:
            place[I0], place[J0] = tile.i0 + shift + c, tile.j0 + start
            place[ROWS], place[COLUMNS] = stop - start, min(step, tile.n - c)
            at = start * tile.width + c
            if ask(door[which], door, place, scores + at, before + at, sums) != 0:
                door[FAILED] = 1
