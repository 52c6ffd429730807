"""The matrix product of linear maps: right for any shape and layout, one order of summation."""

import itertools

import numpy as np
import pytest

import miniattn as ma
from miniattn.functional import _product
from miniattn.functional._product import Sum, product, products
from miniattn.kernels.dense import matmul

SHAPES = [
    (1, 1, 1),
    (5, 3, 2),
    (6, 128, 64),
    (7, 129, 65),
    (48, 127, 63),
    (97, 300, 130),
    (100, 1, 200),
    (400, 20, 33),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_product_in_every_layout(m, k, n, dtype, rng):
    a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    wanted = a.astype(np.float64) @ b.astype(np.float64)
    layouts = [
        product(x, y)
        for x in (a, np.asfortranarray(a), np.repeat(a, 2, axis=0)[::2], _odd(a), a[::-1][::-1])
        for y in (b, np.asfortranarray(b), np.repeat(b, 2, axis=1)[:, ::2], _odd(b))
    ]
    bound = 4 * np.sqrt(k) * np.finfo(dtype).eps * np.abs(a).max() * np.abs(b).max()
    assert np.abs(layouts[0] - wanted).max() <= bound
    for c in layouts:
        assert c.flags.c_contiguous
        np.testing.assert_array_equal(c, layouts[0])  # the same sums in the same order


def _odd(x):
    """Return ``x`` where no element lies at a multiple of its size."""
    memory = np.zeros(x.nbytes + 1, np.uint8)
    y = memory[1:].view(x.dtype).reshape(x.shape)
    y[:] = x
    return y


def test_backwards_strides(rng):
    a, b = rng.standard_normal((9, 20)), rng.standard_normal((20, 70))
    np.testing.assert_array_equal(
        product(a[::-1, ::-1], b[::-1, ::-1]),
        product(a[::-1, ::-1].copy(), b[::-1, ::-1].copy()),
    )


@pytest.mark.parametrize("shape", [(0, 3, 2), (4, 0, 2), (4, 3, 0)])
def test_an_empty_product(shape):
    m, k, n = shape
    c = product(np.ones((m, k)), np.ones((k, n)))
    np.testing.assert_array_equal(c, np.zeros((m, n)))


@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_a_product_that_is_added(m, k, n, rng):
    a, b, bias = rng.normal(size=(m, k)), rng.normal(size=(k, n)), rng.normal(size=n)
    rows = rng.normal(size=(m, 2 * n))[:, ::2]
    for add in (rows, bias):
        np.testing.assert_allclose(product(a, b, add=add), add + a @ b, rtol=0, atol=1e-12)


def test_several_sums_are_what_each_is_alone(rng):
    a, b, c, d = (rng.standard_normal(s) for s in ((200, 150), (150, 70), (200, 9), (9, 70)))
    sums = Sum(((a, b), (c, d))), Sum(((a.T, c),), rng.standard_normal(9)), Sum(((d.T, d),))
    together = products(*sums)
    for one, each in zip(together, sums, strict=True):
        np.testing.assert_array_equal(one, products(each)[0])
    np.testing.assert_allclose(together[0], a @ b + c @ d, rtol=0, atol=1e-12)
    np.testing.assert_allclose(together[1], a.T @ c + sums[1].add, rtol=0, atol=1e-12)


def test_the_rows_beside_a_nan_do_not_see_it(rng):
    a, b = rng.standard_normal((20, 9)), rng.standard_normal((9, 70))
    clean = product(a, b)
    a[3], b[:, 65] = np.nan, np.inf
    spoilt = product(a, b)
    rest = np.ones(clean.shape, bool)
    rest[3], rest[:, 65] = False, False
    np.testing.assert_array_equal(spoilt[rest], clean[rest])
    assert np.isnan(spoilt[3]).all()


def test_nothing_beyond_the_result_is_written(rng, monkeypatch):
    memory = np.full(7 * 65 + 200, 5.0, np.float32)
    a, b = rng.normal(size=(7, 9)).astype("f"), rng.normal(size=(9, 65)).astype("f")
    wanted = product(a, b)

    def empty(shape, dtype):
        return memory[100:-100].reshape(shape) if shape == (7, 65) else np.empty(shape, dtype)

    monkeypatch.setattr(_product, "empty", empty)
    np.testing.assert_array_equal(product(a, b), wanted)
    np.testing.assert_array_equal(memory[100:-100], wanted.ravel())
    assert (memory[:100] == 5).all()
    assert (memory[-100:] == 5).all()


@pytest.mark.parametrize("turned", [False, True])
def test_the_same_bits_for_any_number_of_threads(turned, rng, monkeypatch):
    a = rng.standard_normal((777, 333), dtype=np.float32)
    b = rng.standard_normal((777 if turned else 333, 130), dtype=np.float32)
    a = a.T if turned else a
    one = product(a, b)
    with ma.threads(1):
        np.testing.assert_array_equal(product(a, b), one)
    monkeypatch.setattr(matmul, "LEAST", 1)  # other pieces
    monkeypatch.setattr(matmul, "PIECES", 40)
    _product._plan.cache_clear()
    np.testing.assert_array_equal(product(a, b), one)
    _product._plan.cache_clear()


def test_long_sums_are_cut(rng, monkeypatch):
    a, b = rng.standard_normal((3, 700)), rng.standard_normal((700, 5))
    whole = product(a, b)
    monkeypatch.setattr(matmul, "LONGEST", 300)
    np.testing.assert_allclose(product(a, b), whole, rtol=0, atol=1e-12)
    c = np.ones((3, 5))
    np.testing.assert_allclose(product(a, b, add=c), whole + 1, rtol=0, atol=1e-12)


@pytest.mark.parametrize("threads", [1, 2, 64])
@pytest.mark.parametrize(
    "shapes", [[(1, 1)], [(768, 128)], [(59, 65), (5000, 3)], [(0, 4), (7, 0)]]
)
@pytest.mark.parametrize("depth", [0, 5, 2000, 100_000])
def test_a_plan_covers_everything_once(threads, shapes, depth):
    factors = (matmul.Factors(depth, 1, depth, 1, depth), matmul.Factors(7, 1, 7, 1, 7))
    sums = tuple(matmul.Sum(m, n, -1, factors) for m, n in shapes)
    plan = matmul.plan(sums, 4, threads)
    pieces, parts, terms = _tables(plan.sizes)
    assert len(pieces) == plan.pieces
    assert len({piece.counter for piece in pieces} - set(range(plan.counters))) == 0
    for which, part in enumerate(parts):
        covered = np.zeros(shapes[part.sum], int)
        for piece in pieces:
            if piece.part == which:
                width = matmul.WIDE * matmul.LANES
                covered[piece.row :, piece.column :][: piece.rows, :width] += 1
        assert (covered == 1).all()
    for number in range(len(sums)):
        own = [part for part in parts if part.sum == number]
        assert [part.number for part in own] == list(range(own[0].parts))
        runs = [terms[part.first : part.last] for part in own]
        assert all(sum(t.stop - t.start for t in run) <= matmul.LONGEST for run in runs)
        at = {2 * number: 0, 2 * number + 1: 0}
        for term in itertools.chain(*runs):
            assert term.start == at[term.pair]
            at[term.pair] = term.stop
        assert list(at.values()) == [depth, 7]
        assert plan.spare >= own[0].spare + (len(own) - 1) * own[0].size


def _tables(sizes):
    """Return the rows of the three tables."""
    head, rest = matmul.Head(*sizes[: matmul.HEAD]), sizes[matmul.HEAD :]
    tables = []
    kinds = (matmul.Piece, matmul.Part, matmul.Term)
    for kind, count in zip(kinds, (head.pieces, head.parts, None), strict=True):
        end = None if count is None else count * len(kind._fields)
        tables.append([kind(*row) for row in rest[:end].reshape(-1, len(kind._fields))])
        rest = rest[end:] if end is not None else rest
    return tables


def test_parts_of_long_sums_are_added_by_whoever_is_last(rng):
    a, b = rng.standard_normal((3000, 40)), rng.standard_normal((3000, 130))
    wanted, one = a.T @ b, product(a.T, b)
    np.testing.assert_allclose(one, wanted, rtol=0, atol=1e-11)
    for _ in range(50):
        np.testing.assert_array_equal(product(a.T, b), one)
    with ma.threads(1):
        np.testing.assert_array_equal(product(a.T, b), one)
