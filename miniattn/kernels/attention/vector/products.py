"""The products of one tile of scores, each over the pairs that the bounds of the mask leave.

Forward there are two, ``S = K q^T`` and ``O += P v``; backward five, of the same three forms. A
tile that bounds cut, on the diagonal of a causal mask say, is taken in groups of its queries or
keys, and of the other side is left out what nothing in a group sees: those entries of S are neither
written nor read.
"""

from miniattn.kernels.attention.masking import GROUP, PARTIAL, keys_seen, queries_that_see
from miniattn.kernels.compile.settings import inner
from miniattn.kernels.dense.panels import ROW_GROUP, multiply, round_up
from miniattn.kernels.dense.places import Extent, Grid, Lines, lines_from
from miniattn.kernels.registers import lanes

NARROW = 2 * GROUP  # queries of a product over d, whose panels would else be too narrow


@inner
def multiply_keys(s, keys, packed, depth, rule, tile):
    """Set ``s[j, i] = sum_d keys[j, d] packed[d, i]`` for the pairs that bounds leave of a tile."""
    w, width = lanes(s), tile.width
    step = width
    if tile.kind == PARTIAL and width > NARROW:
        left = keys_seen(rule, tile, 0, NARROW) != keys_seen(rule, tile, NARROW, NARROW)
        step = NARROW if left else width
    for c in range(0, width, step):
        start, stop = keys_seen(rule, tile, c, step)
        multiply(
            Lines(s + (start * width + c), width),
            Grid(keys.start + start * keys.step, keys.step, 1),
            Lines(packed + c, width),
            Extent(stop - start, depth),
            min(step, width - c) // w,
            False,
        )


@inner
def multiply_queries(target, s, source, rule, tile, accumulate):
    """Set ``target[i, e] = sum_j s[j, i] source[j, e]``, or add that, for the pairs that are left.

    For the output, ``P v``, and for dq, ``dS k``. The target has rows of whole vectors.
    """
    step = GROUP if tile.kind == PARTIAL else tile.n
    for c in range(0, tile.n, step):
        start, stop = keys_seen(rule, tile, c, step)
        multiply(
            lines_from(target, c),
            Grid(s + (start * tile.width + c), 1, tile.width),
            lines_from(source, start),
            Extent(min(step, tile.n - c), stop - start),
            target.step // lanes(s),
            accumulate,
        )


@inner
def add_to_keys(target, s, source, rule, tile):
    """Add ``sum_i s[j, i] source[i, e]`` to ``target[j, e]``, for the pairs that are left.

    For dv, ``P^T dout``, and for dk, ``dS^T q``. Rows of ``s`` are 0 up to the next row group.
    """
    rows = round_up(tile.m, ROW_GROUP)
    step = GROUP if tile.kind == PARTIAL else rows
    for r in range(0, rows, step):
        start, stop = queries_that_see(rule, tile, r, step)
        multiply(
            lines_from(target, r),
            Grid(s + (r * tile.width + start), tile.width, 1),
            lines_from(source, start),
            Extent(min(step, rows - r), stop - start),
            target.step // lanes(s),
            True,
        )
