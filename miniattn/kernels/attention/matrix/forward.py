"""Attention forward on the matrix unit: `vector.forward`, with products as in `matrix_unit`.

The order of work is the same, runs of queries of one head and tiles of keys; scores are kept keys
x queries, and so is the output, turned when it is written: ``S = K q^T`` and ``O^T = v^T P``.
In this orientation weights are packed from the vectors that they come in.

Numbers that the unit is no good for, infinity and NaN above all, are noticed when they are packed;
the call is then left to the vector registers, which do for all.
"""

from typing import Any, NamedTuple

from miniattn.kernels.attention.masking import HIDDEN, Tile, end_of_keys, first_key, tile_of
from miniattn.kernels.attention.matrix.packed import (
    KEYS,
    PackedTiles,
    find,
    forget,
    places_at,
)
from miniattn.kernels.attention.matrix.products import (
    QuerySums,
    chunk_rows,
    hide_rest,
    key_step,
    multiply_keys,
    multiply_queries,
)
from miniattn.kernels.attention.matrix.squares import (
    chunks_of,
    finish,
    idle,
    pack,
    packed_size,
    write_turned,
)
from miniattn.kernels.attention.online import (
    base_of,
    power,
    raise_tops,
    start_of,
    write_shares,
    write_stats,
)
from miniattn.kernels.attention.operands import OUT, UNFIT, K, Q, V, lines_of
from miniattn.kernels.attention.pieces import Call, key_head, run_of_piece, runs_of
from miniattn.kernels.attention.problem import Problem, problem_of
from miniattn.kernels.attention.scores import Head, finish_scores, head_of, not_dropped
from miniattn.kernels.attention.vector.forward import QUERIES
from miniattn.kernels.compile.queue import each_piece
from miniattn.kernels.compile.settings import inner, task
from miniattn.kernels.dense.panels import add, fill, round_up
from miniattn.kernels.dense.places import Lines
from miniattn.kernels.registers import (
    aligned,
    any_true,
    load,
    select,
    splat,
    store,
)
from miniattn.kernels.registers.matrix_unit import (
    CHUNK,
    PARTS,
    SIDE,
    configure,
    release,
    store_parts,
)

PORTIONS = 8  # of the work on a packed square of weights
ROWS = SIDE // PORTIONS


class Room(NamedTuple):
    """The scratch memory of a thread: of some queries, a tile of scores, and packed tiles."""

    q: Any
    p: Any
    p_next: Any
    s: Any
    slopes: Any
    o: Any
    top: Any
    total: Any
    added: Any
    """The sum of one tile's weights: it is added to the total in one go, which rounds less."""
    decay: Any
    squares: Any
    """Numbers of the squares of weights that are to be filled."""
    tiles: PackedTiles
    end: Any


class Weighing(NamedTuple):
    """What it takes to turn a tile's scores into packed weights."""

    s: Any
    p: Any
    top: Any
    added: Any
    head: Head
    tile: Tile
    squares: Any
    """Numbers of the squares of p that are to be filled."""
    portions: int


class Weighed(NamedTuple):
    """A tile whose weights are packed, and wait to be multiplied with its values."""

    tile: Tile
    p: Any
    values: Any
    waits: bool


class Keys(NamedTuple):
    """A tile of packed keys, and of values, turned."""

    k: Any
    v: Any
    end: Any


@inner
def keys_at(problem, start):
    """Return the `Keys` from ``start`` on: an address, or 0 to learn their size."""
    v = start + packed_size(KEYS, problem.D)
    return Keys(start, v, v + packed_size(problem.Dv, KEYS))


@inner
def lay_out(problem, start):
    """Return the `Room` of a thread from ``start`` on: an address, or 0 to learn its size."""
    tile = QUERIES * KEYS
    q = start
    p = q + packed_size(QUERIES, problem.D)
    p_next = p + packed_size(QUERIES, KEYS)
    s = p_next + packed_size(QUERIES, KEYS)
    slopes = s + tile
    o = slopes + tile
    top = o + QUERIES * round_up(problem.Dv, SIDE)
    total = top + QUERIES
    added = total + QUERIES
    decay = added + QUERIES
    squares = decay + QUERIES
    tiles = places_at(problem, QUERIES, keys_at(problem, 0).end, squares + QUERIES)
    return Room(
        q=q,
        p=p,
        p_next=p_next,
        s=s,
        slopes=slopes,
        o=o,
        top=top,
        total=total,
        added=added,
        decay=decay,
        squares=squares,
        tiles=tiles,
        end=tiles.end,
    )


@task
def forward(sizes, factors, operands, queue, scratch):
    """Write what `vector.forward.forward` does; arguments as there."""
    problem = problem_of(sizes, factors)
    room = lay_out(problem, aligned(scratch))
    forget(room.tiles)
    configure()
    each_piece(queue, _attend, Call(problem, operands, room))
    release()


def plan(problem: Problem, lanes: int) -> tuple[int, int]:
    """Return the pieces of work of a call, and the elements of scratch memory of a thread."""
    pieces = problem.B * problem.H * runs_of(problem, QUERIES)
    # It begins at a whole cache line.
    return pieces, SIDE + lay_out(problem, 0).end


@inner
def _attend(call, piece):
    """Compute the output of one run of queries.

    o is one tile behind: while the vector registers weigh the scores of a tile, the unit multiplies
    the weights of the one before with their values::

        stage       _score           _weigh       _score           _add_values       _score
        unit        S_0 = K_0 q^T    -            S_1 = K_1 q^T    o += v_0^T P_0    S_2 ...
        registers   maxima of S_0    P_0 of S_0   maxima of S_1    P_1 of S_1        ...

    The stages of a tile are `_score`, `_add_values` (of the tile before, with `_weigh` of this one
    meanwhile) and `_rescale`; the last tile's values are added when no further scores wait.
    """
    problem, operands, room = call
    run, v_rows = run_of_piece(problem, piece, QUERIES), round_up(problem.Dv, SIDE)
    b, h, i0, n = run
    width = round_up(n, SIDE)
    head = head_of(problem, operands, b, h, room.s)
    rule, o = head.rule, room.o

    if not pack(room.q, lines_of(operands, Q, b, h, i0, room.s), n, problem.D, True, True):
        operands[UNFIT] = 1
    start = start_of(operands, h, room.top)
    fill(room.top, width, start[0])
    fill(room.total, width, start[1])
    stop = end_of_keys(rule, i0 + n)
    nothing = Tile(b, h, i0, n, 0, 0, width, True, HIDDEN, 0)
    before, p = Weighed(nothing, room.p, room.s, False), room.p_next
    begun = False  # o holds something
    for j0 in range(first_key(rule, i0, KEYS), stop, KEYS):
        tile = tile_of(rule, run, j0, min(KEYS, stop - j0), width, True)
        if tile.kind == HIDDEN:
            continue
        keys = _packed_tile(problem, operands, b, h, j0, room.tiles)
        _score(problem, head, tile, keys.k, room)
        job = Weighing(
            s=room.s,
            p=p,
            top=room.top,
            added=room.added,
            head=head,
            tile=tile,
            squares=room.squares,
            portions=PORTIONS * _list_squares(room.squares, rule, tile),
        )
        portion = 0
        if before.waits:
            portion = _add_values(problem, before, rule, QuerySums(o, v_rows, begun), _weigh, job)
            begun = True
        finish(_weigh, job, portion, job.portions)
        add(room.total, room.added, width)
        if begun:
            _rescale(o, width, v_rows, room.decay)
        before, p = Weighed(tile, p, keys.v, True), before.p
    if before.waits:
        _add_values(problem, before, rule, QuerySums(o, v_rows, begun), idle, 0)
    else:
        fill(o, width * v_rows, 0.0)
    _write(problem, operands, run, width, room)


@inner
def _score(problem, head, tile, keys, room):
    """Compute the scores of a tile, and bring what is known of its queries up to date."""
    multiply_keys(room.s, keys, room.q, problem.D, head.rule, tile)
    finish_scores(room.s, head, tile, room.slopes)
    hide_rest(room.s, head.rule, tile)
    _raise_tops(room.s, head, tile, room)


@inner
def _add_values(problem, weighed, rule, sums, work, job):
    """Add the values of a tile that is weighed to o, with other work meanwhile."""
    columns = Lines(weighed.values, key_step(problem, weighed.tile))
    return multiply_queries(sums, columns, weighed.p, rule, weighed.tile, work, job, 0)


@inner
def _write(problem, operands, run, width, room):
    """Write out, lse and its parts of a run of queries."""
    write_stats(problem, operands, run, room.top, room.total)
    write_shares(room.decay, room.total, room.top, run.n)
    out = lines_of(operands, OUT, run.b, run.h, run.i0, room.o)
    if not write_turned(out, Lines(room.o, width), run.n, problem.Dv, room.decay):
        operands[UNFIT] = 1


@inner
def _packed_tile(problem, operands, b, h, j0, tiles):
    """Return a tile's keys, and its values turned, packed."""
    g = key_head(problem, h)
    place, missing = find(tiles, b * problem.G + g, j0 // KEYS)
    keys = keys_at(problem, place)
    if missing:
        m = min(KEYS, problem.S - j0)
        k, v = lines_of(operands, K, b, g, j0, place), lines_of(operands, V, b, g, j0, place)
        fits = pack(keys.k, k, m, problem.D, True, False)
        if not (pack(keys.v, v, m, problem.Dv, False, True) and fits):
            operands[UNFIT] = 1
    return keys


@inner
def _raise_tops(s, head, tile, room):
    """Bring the maxima of scores up to date, and the sums so far into their measure.

    ``room.decay`` receives what older sums are multiplied by.
    """
    for c in range(0, tile.width, SIDE):
        start, stop = chunk_rows(head.rule, tile, c)
        _, ratio = raise_tops(s, head, tile, room.top, c, start, stop)
        store(room.decay + c, ratio)
        store(room.total + c, load(room.total + c) * ratio)
        store(room.added + c, splat(0.0, s))


@inner
def _list_squares(squares, rule, tile):
    """List the squares of packed weights that products read; return how many they are."""
    count = 0
    for c in range(0, tile.width, SIDE):
        start, stop = chunk_rows(rule, tile, c)
        for r in range(start, stop, CHUNK):
            squares[count] = r * QUERIES + c
            count += 1
    return count


@inner(forceinline=True)
def _weigh(job, portion):
    """Turn some scores into ``exp(s - m)``, add them up, and pack them."""
    s, head, tile = job.s, job.head, job.tile
    chunks, width = chunks_of(tile.m), tile.width
    if portion < job.portions:
        corner, row = int(job.squares[portion // PORTIONS]), portion % PORTIONS * ROWS
        c, r0 = corner % QUERIES, corner // QUERIES
        square, j = c // SIDE * chunks + r0 // CHUNK, r0 + row
        base = base_of(load(job.top + c))
        place = job.p + (square * PARTS + row * SIDE)
        p = s + (j * width + c)
        added = load(job.added + c)
        for r in range(ROWS):
            low = power(load(p + r * width), base, head.factor)
            high = power(load(p + (r + SIDE) * width), base, head.factor)
            added = added + (low + high)
            if head.dropout > 0.0:
                factor = 1.0 / (1.0 - head.dropout)
                low = select(not_dropped(head, tile, j + r, c, s), low * factor, 0.0)
                high = select(not_dropped(head, tile, j + r + SIDE, c, s), high * factor, 0.0)
            store_parts(place + r * SIDE, low, high)
        store(job.added + c, added)


@inner
def _rescale(o, width, rows, decay):
    """Multiply the sums of each query by its ``decay``, where that is not 1."""
    for c in range(0, width, SIDE):
        factor = load(decay + c)
        if any_true(factor != 1.0):
            for e in range(rows):
                p = o + (e * width + c)
                store(p, load(p) * factor)
