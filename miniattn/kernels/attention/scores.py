"""Scores of one tile, after the product q·k: softcap, bias, mask; and what dropout removes.

Where nothing stands between the product and the exponential, the scale is left to the latter, which
multiplies differences of scores anyway: `Head.factor`. See `online`.
"""

from typing import Any, NamedTuple

import numpy as np

from miniattn.kernels.attention.functions import score_by_function
from miniattn.kernels.attention.masking import (
    PARTIAL,
    Rule,
    hide,
    read_vectors,
    rows_and_columns,
    rule_of,
)
from miniattn.kernels.attention.operands import BIAS, SCORE, SEED, Place, given, grid_of, place_of
from miniattn.kernels.compile.settings import inner
from miniattn.kernels.dense.places import Grid
from miniattn.kernels.random import stream_key, threefry
from miniattn.kernels.registers import (
    LANES,
    address,
    fma,
    iota,
    lanes,
    load,
    maximum,
    registers,
    select,
    splat,
    store,
    tanh,
)

LOG2_E = 1.4426950408889634


class Head(NamedTuple):
    """What turns products q·k of one batch row and head into scores and dropped weights."""

    rule: Rule
    softcap: float
    bias: Grid
    has_bias: bool
    dropout: float
    key: tuple[Any, Any]
    place: Place
    scale: float
    """What products are multiplied by at once, 1 where that is left to ``factor``."""
    factor: float
    """What differences of finished scores are to be multiplied by, to be powers of 2."""
    door: Any
    """To a user's function of scores; see `functions`."""
    scored: bool


@inner
def head_of(problem, operands, b, h, like):
    """Return the `Head` of batch row ``b`` and head ``h``."""
    key, place = (np.uint32(0), np.uint32(0)), place_of(operands)
    if problem.dropout > 0.0:
        key = stream_key(operands[SEED], b, place.h + h)
    return Head(
        rule_of(operands, problem.S, b, h),
        problem.softcap,
        grid_of(operands, BIAS, b, h, like),
        given(operands, BIAS),
        problem.dropout,
        key,
        place,
        problem.scale / problem.measure,
        problem.measure * LOG2_E,
        address(operands[SCORE], np.int64),
        given(operands, SCORE),
    )


@inner
def finish_scores(scores, head, tile, slopes):
    """Turn products into scores: softcap, a user's function, bias and mask, in this order.

    Where there is a softcap, ``slopes`` receives its derivative 1 - tanh(s / c)^2.
    """
    cap_scores(scores, head, tile, slopes)
    finish_capped(scores, head, tile)


@inner
def cap_scores(scores, head, tile, slopes):
    """Do the first half: what a user's function is given, -inf where it isn't asked."""
    if head.softcap > 0.0:
        _cap(scores, head, tile, slopes)
    elif head.scale != 1.0:
        _scale(scores, head.scale, tile)
    if head.scored and tile.kind == PARTIAL:
        hide(scores, head.rule, tile)


@inner
def finish_capped(scores, head, tile):
    """Do the second half."""
    if head.scored:
        score_by_function(scores, head.door, head.rule, tile)
    if head.has_bias:
        _add_bias(scores, head, tile)
    if tile.kind == PARTIAL and (head.has_bias or not head.scored):
        hide(scores, head.rule, tile)


@inner
def _scale(scores, factor, tile):
    rows, columns = rows_and_columns(tile)
    for r in range(rows):
        for c in range(0, columns, lanes(scores)):
            at = r * tile.width + c
            store(scores + at, not_below(load(scores + at) * factor, scores))


@inner
def not_below(v, like):
    """Return the least finite number for -inf, which would pass for a hidden score."""
    least = -3.4028234663852886e38 if lanes(like) == LANES else -1.7976931348623157e308
    return maximum(least, v)


@inner(apart=True)
def _cap(scores, head, tile, slopes):
    rows, columns = rows_and_columns(tile)
    softcap = head.softcap
    for r in range(rows):
        for c in range(0, columns, lanes(scores)):
            at = r * tile.width + c
            t = tanh(load(scores + at) * (head.scale / softcap))
            store(scores + at, t * softcap)
            store(slopes + at, fma(-t, t, 1.0))


@inner(apart=True)
def _add_bias(scores, head, tile):
    """Add the bias, to as many vectors at a time as they have lanes."""
    w, vectors = lanes(scores), registers(LANES, scores)
    rows, columns = rows_and_columns(tile)
    for c in range(0, columns, w):
        for r in range(0, rows, w):
            n = min(w, rows - r)
            read_vectors(vectors, head.bias, tile, r, n, c, _as_it_is)
            for row in range(n):
                p = scores + ((r + row) * tile.width + c)
                entry = load(vectors + row * w)
                score = load(p)
                hidden = (entry == -np.inf) | (score == -np.inf)  # the latter by a function
                # A finite number hides nothing, however far below the others it is.
                store(p, select(hidden, -np.inf, not_below(score + entry, scores)))


@inner
def _as_it_is(entries, like):
    return entries


@inner(apart=True)
def drop(values, head, tile):
    """Set dropped entries to 0 and divide the others by 1 - p."""
    factor = 1.0 / (1.0 - head.dropout)
    rows, columns = rows_and_columns(tile)
    for c in range(0, columns, lanes(values)):
        for r in range(rows):
            p = values + (r * tile.width + c)
            store(p, select(not_dropped(head, tile, r, c, values), load(p) * factor, 0.0))


@inner
def not_dropped(head, tile, r, c, like):
    """Return which lanes of the vector at ``c`` of a tile's row ``r`` stay."""
    lane = iota(like, np.uint32)
    if tile.keys_in_rows:
        i, j = lane + (tile.i0 + c), splat(tile.j0 + r, lane)
    else:
        i, j = splat(tile.i0 + r, lane), lane + (tile.j0 + c)
    return stays(head, i, j)


@inner
def stays(head, i, j):
    """Return which pairs of queries and keys, vectors of uint32, are not dropped."""
    threshold = np.uint32(head.dropout * 4294967296.0)
    i = i * head.place.i_step + head.place.i
    j = j * head.place.j_step + head.place.j
    return threefry(head.key[0], head.key[1], i, j) >= threshold
