"""Scratch memory: what a layout says of it is what a plan asks for, and its parts lie side by side.

What each part has to hold is written down here once more, by the shapes of what kernels keep there.
"""

import itertools

import pytest

from miniattn.kernels.attention import weights
from miniattn.kernels.attention.decode import backward as decode_backward
from miniattn.kernels.attention.decode import forward as decode
from miniattn.kernels.attention.matrix import backward as matrix_backward
from miniattn.kernels.attention.matrix import forward as matrix
from miniattn.kernels.attention.problem import Problem
from miniattn.kernels.attention.vector import backward, bias, forward, queries, sums
from miniattn.kernels.dense.places import Lines
from miniattn.kernels.registers.matrix_unit import PARTS

# B, H, G, T, S, D, Dv, parts, rows, columns, scored, normalizer, scale, measure, softcap, dropout
PROBLEMS = [
    Problem(2, 4, 2, T, S, D, Dv, parts, min(T, 5), min(S, 7), scored, 0, 1.0, 1.0, 0.0, 0.0)
    for (T, S), (D, Dv), parts in itertools.product(
        [(1, 1), (3, 1300), (64, 64), (65, 63), (200, 700)],
        [(1, 1), (16, 24), (24, 16), (64, 64), (80, 96), (130, 33)],
        [1, 3],
    )
    for scored in (0, 1)
]
LANES = [2, 4, 8, 16]


def up(n, step):
    return -(-n // step) * step


def start(part):
    return part.start if isinstance(part, Lines) else part


def assert_side_by_side(end, *parts):
    """Check that parts, each with how much it holds, lie between 0 and ``end`` and apart."""
    ranges = sorted((start(part), start(part) + size) for part, size in parts)
    assert ranges[0][0] >= 0
    for (_, stop), (first, _) in itertools.pairwise(ranges):
        assert stop <= first
    assert ranges[-1][1] <= end


def test_the_check_itself():
    assert_side_by_side(5, (0, 2), (Lines(2, 1), 3))
    for parts in ([(0, 3), (2, 3)], [(0, 2), (3, 3)], [(-1, 2), (1, 4)]):
        with pytest.raises(AssertionError):
            assert_side_by_side(5, *parts)


@pytest.mark.parametrize("w", LANES)
@pytest.mark.parametrize("n", [1, 9, 17, 64])
def test_vector_forward_and_map(w, n):
    for p in PROBLEMS:
        width, scores = up(n, max(w, 8)), 64 * up(n, max(w, 8))
        room = forward.lay_out(p, n, w, 0)
        rows = [(row, width) for row in (room.top, room.total, room.decay)]
        tile = [(room.q, p.D * width), (room.s, scores), (room.slopes, scores)]
        o = (room.o, n * up(p.Dv, w))
        assert_side_by_side(room.end, *rows, *tile, o, (room.v, 64 * up(p.Dv, w)))
        assert room.end <= forward.plan(p, w)[1]

        room = weights.lay_out(p, n, w, 0)
        rows = [(row, width) for row in (room.top, room.total, room.decay, room.sums)]
        tile = [(room.q, p.D * width), (room.s, scores), (room.slopes, scores)]
        assert_side_by_side(room.end, *rows, *tile)
        assert room.end <= weights.plan(p, w)[1]


@pytest.mark.parametrize("w", LANES)
@pytest.mark.parametrize("n", [1, 9, 17, 64])
def test_vector_backward(w, n):
    for p in PROBLEMS:
        d, v, width = up(p.D, w), up(p.Dv, w), up(n, max(w, 8))
        begin = sums.beside_sums(p, w, 0)
        room = queries.lay_out(p, n, w, begin)
        of_keys = sums.sums_at(p, w, 0)
        own = [(of_keys.dk, p.S * d), (of_keys.dv, p.S * v)]
        assert_side_by_side(of_keys.end, *own)
        assert begin == (of_keys.end if p.parts == 1 else 0)
        assert_side_by_side(
            room.end,
            *(own if p.parts == 1 else []),
            (room.q_turned, p.D * width),
            (room.dout_turned, p.Dv * width),
            *((tile, 64 * width) for tile in (room.s, room.ds, room.slopes)),
            (room.before, 64 * width if p.scored else 0),
            (room.dq, width * d),
            (room.q, n * d),
            (room.dout, n * v),
            (room.k, 64 * d),
            *((row, width) for row in room.stats),
        )
        assert (room.dq.step, room.q.step, room.dout.step, room.k.step) == (d, d, v, d)
        assert room.end <= backward.plan(p, w)[1]
        assert room.end - begin <= bias.plan(p, w, (1, 1, 1, 1))[1]


@pytest.mark.parametrize("w", LANES)
def test_decode(w):
    for p in PROBLEMS:
        d, v, keys = up(p.D, w), up(p.Dv, w), 512
        room = decode.lay_out(p, w, 0)
        tiles = [(room.s, p.T * keys), (room.slopes, p.T * keys), (room.v, keys * v)]
        assert_side_by_side(room.end, (room.q, p.T * d), *tiles, (room.partial, w * w))
        assert decode.plan(p, w)[1] == room.end

        state = decode.state_at(p, w, 0)
        assert_side_by_side(state.end, (state.o, v), (state.top, 1), (state.total, 1))
        assert decode.states(p, w)[1:] == (2 * 2 * p.parts, 2 * p.T * state.end)

        n, room = 2 * p.T, decode_backward.lay_out(p, w, 0)
        tiles = [(tile, n * keys) for tile in (room.weights, room.dscores, room.slopes)]
        assert_side_by_side(
            room.end,
            (room.q, n * d),
            (room.dout, n * v),
            *tiles,
            *((row, n) for row in room.stats),
            (room.partial, w * w),
            (room.rows, keys * max(d, v)),
            (room.k, keys * d),
        )
        assert decode_backward.plan(p, w)[1] == room.end
        assert decode_backward.sums(p, w)[2] == n * d == decode_backward.sums_at(p, w, 0)[1]


def squares(n, terms):
    """Words of a packed operand: pairs of squares of 16, in three parts."""
    return up(n, 32) // 16 * (up(terms, 32) // 32) * PARTS


def test_matrix():
    for p in PROBLEMS:
        D, Dv = p.D, p.Dv
        room, keys = matrix.lay_out(p, 0), matrix.keys_at(p, 0)
        assert_side_by_side(keys.end, (keys.k, squares(64, D)), (keys.v, squares(Dv, 64)))
        assert_side_by_side(
            room.end,
            (room.q, squares(64, D)),
            *((packed, squares(64, 64)) for packed in (room.p, room.p_next)),
            *((tile, 64 * 64) for tile in (room.s, room.slopes)),
            (room.o, 64 * up(Dv, 16)),
            *((row, 64) for row in (room.top, room.total, room.added, room.decay)),
            (room.squares, (64 // 16) * (64 // 32)),
            (room.tiles.owners, 2 * room.tiles.places + 1),
            (room.tiles.packed, room.tiles.places * keys.end),
        )
        assert matrix.plan(p, 16)[1] == room.end + 16

        begin, keys = sums.beside_sums(p, 16, 0), matrix_backward.keys_at(p, 0)
        room = matrix_backward.lay_out(p, begin)
        tile = [
            (keys.k, squares(64, D)),
            (keys.k_columns, squares(D, 64)),
            (keys.v, squares(64, Dv)),
        ]
        assert_side_by_side(keys.end, *tile)
        assert_side_by_side(
            room.end,
            (0, begin),
            (room.q, squares(128, D)),
            (room.q_rows, squares(D, 128)),
            (room.dout, squares(128, Dv)),
            (room.dout_rows, squares(Dv, 128)),
            *((packed, squares(128, 64)) for packed in (room.p, room.ds_keys, room.ds_queries)),
            *((part, 32 * 32) for part in (*room.now, *room.later)),
            (room.dq, 128 * up(D, 16)),
            *((row, 128) for row in (*room.stats, room.factors)),
            (room.tiles.owners, 2 * room.tiles.places + 1),
            (room.tiles.packed, room.tiles.places * keys.end),
        )
        assert matrix_backward.plan(p, 16)[1] == room.end + 16


@pytest.mark.parametrize("lanes", ["4", "8"])
def test_loops_of_functions_hold_a_row_of_a_tile(python, lanes):
    """In double precision, of which a register holds half as many."""
    held = python(
        "from miniattn.kernels.attention.functions import ROOM_OF_A_ROW, ROOM_OF_DISTANCES\n"
        "from miniattn.kernels.registers import LANES\n"
        "print(ROOM_OF_A_ROW * (LANES // 2), ROOM_OF_DISTANCES * (LANES // 2))",
        MINIATTN_AMX="0",
        MINIATTN_LANES=lanes,
    )
    row, distances = map(int, held.split())
    assert row >= forward.QUERIES
    assert distances >= forward.QUERIES + forward.KEYS
