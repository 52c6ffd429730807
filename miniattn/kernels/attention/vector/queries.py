"""Some queries made ready for backward, and the gradients of their scores, tile by tile.

Weights are recomputed: ``P = exp((S - m) - log l)``. With ``dP = dout v^T`` and ``delta_i = sum_e
dout_ie out_ie`` the gradients of scores are ``dS = P * (dP - delta)``. Both stay in scratch memory,
for whoever multiplies them with q, k and dout (`backward`) or adds them to a bias (`bias`).
"""

from typing import Any, NamedTuple

import numpy as np

from miniattn.kernels.attention.masking import (
    GROUP,
    PARTIAL,
    end_of_keys,
    first_key,
    keys_seen,
    tile_of,
)
from miniattn.kernels.attention.online import (
    Stats,
    dlse_of,
    read_stats,
    stats_from,
    weight_and_dscore,
)
from miniattn.kernels.attention.operands import BOUNDS, DOUT, OUT, K, Q, V, given, lines_of
from miniattn.kernels.attention.pieces import Run, key_head
from miniattn.kernels.attention.scores import Head, cap_scores, drop, finish_capped, head_of
from miniattn.kernels.attention.vector.forward import KEYS, row_width
from miniattn.kernels.attention.vector.products import multiply_keys
from miniattn.kernels.compile.settings import inner
from miniattn.kernels.dense.panels import (
    ROW_GROUP,
    dot,
    fill,
    is_finite,
    pack,
    pack_transposed,
    round_up,
)
from miniattn.kernels.dense.places import Lines, line, lines_from
from miniattn.kernels.registers import lanes, load, store

# So many keys meet a run of queries that it pays to copy its rows to whole cache lines: a user's
# arrays seldom begin at one, and products read rows that straddle lines 5 % more slowly.
WORTH_A_COPY = 4 * KEYS


class Room(NamedTuple):
    """The scratch memory of ``n`` queries."""

    width: int
    """Of a row of scores: n and padding."""
    q_turned: Any
    dout_turned: Any
    s: Any
    ds: Any
    slopes: Any
    dq: Lines
    q: Lines
    """A copy, as `dout` and ``k`` are: where rows cannot be read in place, or it is slow."""
    dout: Lines
    k: Lines
    """Of a tile."""
    stats: Stats
    before: Any
    """The scores of a tile that a user's function is given, if there is one."""
    end: Any


@inner
def lay_out(problem, n, w, start):
    """Return the `Room` of ``n`` queries; arguments as in `vector.forward.lay_out`."""
    width, d_width, v_width = row_width(n, w), round_up(problem.D, w), round_up(problem.Dv, w)
    tile = width * (KEYS + ROW_GROUP)
    q_turned = start
    dout_turned = q_turned + width * problem.D
    s = dout_turned + width * problem.Dv
    ds = s + tile
    slopes = ds + tile
    dq = slopes + tile
    q = dq + width * d_width
    dout = q + width * d_width
    k = dout + width * v_width
    base = k + KEYS * d_width
    return Room(
        width=width,
        q_turned=q_turned,
        dout_turned=dout_turned,
        s=s,
        ds=ds,
        slopes=slopes,
        dq=Lines(dq, d_width),
        q=Lines(q, d_width),
        dout=Lines(dout, v_width),
        k=Lines(k, d_width),
        stats=Stats(base, base + width, base + 2 * width),
        before=base + 3 * width,
        end=base + 3 * width + (tile if problem.scored else 0),
    )


class Queries(NamedTuple):
    """A run of queries of one head, made ready for its tiles."""

    run: Run
    head: Head
    q: Lines
    """Read in place, or a copy; so is dout."""
    dout: Lines
    k: Lines
    v: Lines
    is_finite: bool
    room: Room


@inner
def prepare(problem, operands, run, start):
    """Pack a run of queries and their dout, and read their `Stats`; its `Room` is at ``start``."""
    D, Dv, n = problem.D, problem.Dv, run.n
    b, g = run.b, key_head(problem, run.h)
    room = lay_out(problem, n, lanes(start), start)
    q = lines_of(operands, Q, b, run.h, run.i0, start)
    dout = lines_of(operands, DOUT, b, run.h, run.i0, start)
    pack_transposed(Lines(room.q_turned, room.width), q, n, D)
    pack_transposed(Lines(room.dout_turned, room.width), dout, n, Dv)
    # Without a mask nothing is hidden from anything.
    finite = not given(operands, BOUNDS) or (is_finite(q, n, D) and is_finite(dout, n, Dv))
    prepare_stats(problem, operands, run, room.width, room.stats)
    return Queries(
        run=run,
        head=head_of(problem, operands, b, run.h, start),
        q=_whole_rows(problem, q, room.q, n, D),
        dout=_whole_rows(problem, dout, room.dout, n, Dv),
        k=lines_of(operands, K, b, g, 0, start),
        v=lines_of(operands, V, b, g, 0, start),
        is_finite=finite,
        room=room,
    )


@inner
def _whole_rows(problem, source, copy, n, columns):
    """Return ``n`` rows as products read them, in whole vectors: in place, or their ``copy``."""
    if copy.step == columns and problem.S < WORTH_A_COPY:
        return source
    pack(copy, source, n, columns)
    return copy


@inner
def prepare_stats(problem, operands, run, width, stats):
    """Read m and log2 l of a run of queries, and compute ``delta = sum_e dout_e out_e``."""
    dout = lines_of(operands, DOUT, run.b, run.h, run.i0, stats.delta)
    out = lines_of(operands, OUT, run.b, run.h, run.i0, stats.delta)
    read_stats(operands, run, width, stats)
    for i in range(width):
        seen = stats.log_sum[i] != np.inf
        # tiled: delta = (dout[rows] * out[rows]).sum(axis=1)
        delta = 0.0
        if seen:
            delta = dot(line(dout, i), line(out, i), problem.Dv)
            delta = delta - dlse_of(operands, run.b, run.h, run.i0 + i, dout.start)
        stats.delta[i] = delta


@inner
def query_tile(queries, j0, m):
    """Return the tile of some queries and ``m`` keys."""
    return tile_of(queries.head.rule, queries.run, j0, m, queries.room.width, True)


@inner
def first_tile(queries):
    """Return where the tiles of some queries begin."""
    return first_key(queries.head.rule, queries.run.i0, KEYS)


@inner
def last_tile(problem, queries):
    """Return where the tiles of some queries end.

    Tiles end at whole row groups or at S, so that rows written past a tile's end are padding.
    """
    stop = end_of_keys(queries.head.rule, queries.run.i0 + queries.run.n)
    return min(problem.S, round_up(stop, ROW_GROUP))


@inner
def score_gradients(problem, queries, tile):
    """Leave a tile's weights, with dropout, in ``room.s`` and its dscores in ``room.ds``.

    dscores are those of the scores after softcap, function and bias. Rows up to the next row group
    are 0; what the bounds of the mask leave out is left alone.
    """
    scores_and_dweights(problem, queries, tile)
    _weigh(queries.room, queries.head, tile)
    pad_keys(queries.room, tile)


@inner
def scores_and_dweights(problem, queries, tile):
    """Leave a tile's scores in ``room.s``, and its dweights, with dropout, in ``room.ds``."""
    room, head, width = queries.room, queries.head, tile.width
    k, v = lines_from(queries.k, tile.j0), lines_from(queries.v, tile.j0)
    # tiled: s = scores(q[rows], k[tile], seen, scale)
    multiply_keys(room.s, k, room.q_turned, problem.D, head.rule, tile)
    # tiled: dweight = dout[rows] @ v[tile].T
    multiply_keys(room.ds, v, room.dout_turned, problem.Dv, head.rule, tile)
    cap_scores(room.s, head, tile, room.slopes)
    if head.scored:
        pack(Lines(room.before, width), Lines(room.s, width), tile.m, width)
    finish_capped(room.s, head, tile)
    if head.dropout > 0.0:
        drop(room.ds, head, tile)


@inner
def pad_keys(room, tile):
    """Set weights and dscores behind a tile's last key to 0, up to a whole row group."""
    width, m = tile.width, tile.m
    padding = (round_up(m, ROW_GROUP) - m) * width
    fill(room.s + m * width, padding, 0.0)
    fill(room.ds + m * width, padding, 0.0)


@inner
def _weigh(room, head, tile):
    """Turn scores into weights, and dweights into dscores."""
    s, ds, w, width = room.s, room.ds, lanes(room.s), tile.width
    masked = tile.kind == PARTIAL or head.scored
    for c in range(0, width, w):
        start, stop = keys_seen(head.rule, tile, c // GROUP * GROUP, GROUP)
        base, log_sum, delta = stats_from(room.stats, c)
        base, log_sum, delta = load(base), load(log_sum), load(delta)
        for r in range(start, stop):
            at = r * width + c
            score, dweight = load(s + at), load(ds + at)
            weight, dscore = weight_and_dscore(
                score, dweight, base, log_sum, delta, head.factor, masked
            )
            store(s + at, weight)
            store(ds + at, dscore)
    if head.dropout > 0.0:
        drop(s, head, tile)
