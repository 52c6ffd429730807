"""The matrix unit: float32 in three parts, packing, products, and attention on it.

Attention's own tests are run on the unit in another process, by `test_attention_on_the_unit`: their
shapes are too small for it to be chosen. Another runs all of this on the emulated unit, on any
machine.
"""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numba
import numpy as np
import pytest

import miniattn as ma
from miniattn import functional as F
from miniattn import masks
from miniattn.functional._attention_calls import Options, plan_of
from miniattn.kernels.attention.matrix import forward as matrix
from miniattn.kernels.attention.matrix import packed as packed_tiles
from miniattn.kernels.attention.matrix.squares import (
    Squares,
    finish,
    idle,
    multiply,
    pack,
    write_turned,
)
from miniattn.kernels.attention.vector import forward as vector
from miniattn.kernels.compile.target import UNIT
from miniattn.kernels.dense.places import Lines
from miniattn.kernels.registers import load, pointer
from miniattn.kernels.registers.matrix_unit import (
    CHUNK,
    PARTS,
    SIDE,
    configure,
    release,
    store_parts,
)

unit = pytest.mark.skipif(not UNIT.used, reason="the matrix unit is not there, or is off")


def halves(words):
    """The two bfloat16 numbers in each word, as float32."""
    bits = words.view(np.uint32)
    return (bits << 16).view(np.float32), (bits & np.uint32(0xFFFF0000)).view(np.float32)


@numba.njit
def split(low, high, parts):
    store_parts(pointer(parts, 0), load(pointer(low, 0)), load(pointer(high, 0)))


@unit
def test_three_parts_make_up_the_number():
    rng = np.random.default_rng(0)
    for _ in range(200):
        bits = rng.integers(0, 2**32, (2, SIDE), dtype=np.uint64).astype(np.uint32)
        exponents = rng.integers(127 - 50, 127 + 40, (2, SIDE)).astype(np.uint32)
        x = ((bits & np.uint32(0x807FFFFF)) | (exponents << 23)).view(np.float32)
        words = np.zeros((3, SIDE, SIDE), np.float32)
        split(x[0], x[1], words.reshape(-1))
        for number, parts in zip(x, halves(words[:, 0]), strict=True):
            exact = parts.astype(np.float64)
            np.testing.assert_array_equal(exact.sum(axis=0), number)
            assert (np.abs(exact[1]) <= 2.0**-8 * np.abs(number)).all()
            assert (np.abs(exact[2]) <= 2.0**-15 * np.abs(number)).all()
        assert not words[:, 1:].any()


@numba.njit
def pack_rows(x, n, columns, along, turned, out):
    return pack(pointer(out, 0), Lines(pointer(x, 0), x.shape[1]), n, columns, along, turned)


def packed(x, along, turned):
    """Pack a matrix, and return the words by square, chunk, part, row and lane, and the answer."""
    n, columns = x.shape
    terms, others = (columns, n) if along else (n, columns)
    squares = -(-others // CHUNK) * 2 if along else -(-others // SIDE)
    out = np.full((squares, -(-terms // CHUNK), 3, SIDE, SIDE), np.nan, np.float32)
    fits = pack_rows(x, n, columns, along, turned, out.reshape(-1))
    return out, fits


@unit
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("along", [False, True])
@pytest.mark.parametrize("shape", [(16, 32), (64, 64), (1, 1), (17, 33), (40, 16), (5, 70)])
def test_packing(shape, along, turned):
    """Each number stands where `matrix_unit` says, and there are zeros where there is none."""
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    # Room behind the rows holds NaN, which must not be read.
    wide = np.full((shape[0] + 3, shape[1] + 5), np.nan, np.float32)
    wide[: shape[0], : shape[1]] = x
    n, columns = shape
    terms, others = (columns, n) if along else (n, columns)
    squares = -(-others // CHUNK) * 2 if along else -(-others // SIDE)
    out = np.full((squares, -(-terms // CHUNK), 3, SIDE, SIDE), np.nan, np.float32)
    assert pack_rows(wide, n, columns, along, turned, out.reshape(-1))
    low, high = (half.sum(axis=2) for half in halves(out))
    by_others = x if along else x.T  # one row for each row of A, or column of B
    want = np.zeros((squares * SIDE, out.shape[1] * CHUNK), np.float32)
    want[:others, :terms] = by_others
    want = want.reshape(squares, SIDE, -1, 2, SIDE).transpose(3, 0, 2, 1, 4)
    # Of A a row of the square belongs to one row; of B, a lane to one column.
    if along == turned:
        want = want.swapaxes(-1, -2)
    np.testing.assert_array_equal(low, want[0])
    np.testing.assert_array_equal(high, want[1])


@unit
@pytest.mark.parametrize("value", [np.nan, -np.inf, 3e38, 2.0**40, 2.0**-51])
def test_what_does_not_fit_is_noticed(value):
    x = np.zeros((40, 40), np.float32)
    assert packed(x, True, False)[1]
    x[39, 7] = value
    for along in (False, True):
        for turned in (False, True):
            assert not packed(x, along, turned)[1]
    if abs(value) < 1:
        x[0, 0] = 1.0  # a small number beside a larger one loses nothing that counts
        assert packed(x, True, False)[1]


@numba.njit(error_model="numpy")
def product(a, b, c, rows, columns, chunks, accumulate):
    configure()
    step = chunks * PARTS
    left, right = Lines(pointer(a, 0), step), Lines(pointer(b, 0), step)
    to, extent = Lines(pointer(c, 0), c.shape[1]), Squares(rows, columns, chunks)
    unit = multiply(to, left, right, extent, accumulate, idle, 0, 3)
    finish(idle, 0, unit, 5)
    release()
    return unit


@unit
@pytest.mark.parametrize("sizes", [(16, 16, 32), (32, 32, 64), (48, 80, 33), (64, 16, 100)])
def test_products(sizes):
    m, n, k = sizes
    rng = np.random.default_rng(2)
    a, b = (rng.standard_normal(s).astype(np.float32) for s in ((m, k), (k, n)))
    exact = a.astype(np.float64) @ b.astype(np.float64)
    c = np.ones((m, n), np.float32)
    for start in (0.0, 1.0):
        product(
            packed(a, True, False)[0].reshape(-1),
            packed(b, False, False)[0].reshape(-1),
            c,
            m // SIDE,
            n // SIDE,
            -(-k // CHUNK),
            start == 1.0,
        )
        error = np.sqrt(np.mean((c - start - exact) ** 2))
        if start == 0.0:
            # Half of NumPy's own, in fact: an instruction adds 32 products before it rounds to C.
            assert error <= np.sqrt(np.mean((a @ b - exact) ** 2))
            c[:] = 1.0
        assert error <= 2e-6


@numba.njit
def turn_and_write(source, n, columns, factors, out):
    width = source.shape[1]
    to, lines = Lines(pointer(out, 0), out.shape[1]), Lines(pointer(source, 0), width)
    write_turned(to, lines, n, columns, pointer(factors, 0))


@unit
@pytest.mark.parametrize("shape", [(16, 16), (5, 3), (33, 40)])
def test_results_are_turned_back(shape):
    n, columns = shape
    rng = np.random.default_rng(3)
    width, rows = -(-n // SIDE) * SIDE, -(-columns // SIDE) * SIDE
    source, factors = (rng.standard_normal(s).astype(np.float32) for s in ((rows, width), width))
    out = np.full((n + 1, columns + 1), 7.0, np.float32)
    turn_and_write(source, n, columns, factors, out)
    want = (source * factors).T[:n, :columns]
    np.testing.assert_array_equal(out[:n, :columns], want)
    assert (out[n:] == 7.0).all()
    assert (out[:, columns:] == 7.0).all()


@unit
def test_when_it_is_chosen():
    def tasks(T, S, D, dtype=np.float32):
        q, k = (1, 1, T, D), (1, 1, S, D)
        size = np.dtype(dtype).itemsize
        layouts = tuple(
            (name, shape, tuple(size * n for n in (T * D, T * D, D, 1)), size)
            for name, shape in (("q", q), ("k", k), ("v", k), ("out", q))
        )
        plan = plan_of("forward", None, layouts, np.dtype(dtype), Options(1.0), 1)
        return plan.steps[0].task, plan.fallback

    unit, vectors = matrix.forward, vector.forward
    assert tasks(256, 256, 64) == (unit, "vector")
    if not UNIT.always:
        for sizes in [(256, 256, 16), (100, 256, 64), (256, 64, 64), (128, 128, 32)]:
            assert tasks(*sizes) == (vectors, None)
    assert tasks(256, 256, 64, np.float64) == (vectors, None)


def run(q, k, v, dout, **options):
    out, ctx = F.attention_forward(q, k, v, **options)
    return [out, ctx.lse, *F.attention_backward(dout, ctx)[:3]]


def inputs(T, S, D, seed=4):
    rng = np.random.default_rng(seed)
    shapes = ((2, 2, T, D), (2, 1, S, D), (2, 1, S, D), (2, 2, T, D))
    return [rng.standard_normal(s).astype(np.float32) for s in shapes]


@unit
def test_numbers_that_do_not_fit_take_the_other_way():
    """To the last bit: the vector registers' kernels, whatever the unit had written before."""
    q, k, v, dout = inputs(160, 140, 64)
    v[0, 0, 70, 3] = np.inf
    dout[1, 1, 150, 60] = np.nan
    got = run(q, k, v, dout, mask=masks.causal())
    with ma.runtime.use("vector"):
        want = run(q, k, v, dout, mask=masks.causal())
    for x, y in zip(got, want, strict=True):
        np.testing.assert_array_equal(x, y)
    assert np.isfinite(got[0][1]).all()


@unit
def test_a_bias_gradient_is_not_added_twice():
    q, k, v, dout = inputs(130, 130, 64)
    bias = np.zeros((130, 130), np.float32)
    _, ctx = F.attention_forward(q, k, v, bias=bias)
    clean = F.attention_backward(dout, ctx).dbias
    dout[0, 0, 0, 0] = 1e20  # redone by the other way, of which this is the last step
    dirty = F.attention_backward(dout, ctx).dbias
    np.testing.assert_allclose(dirty[1:], clean[1:], rtol=1e-4, atol=1e-5)


@unit
def test_more_tiles_than_a_thread_keeps():
    """Keys and values of 1,024 features: a thread keeps 32 tiles, and the sequence has 37."""
    queries = 33 if UNIT.always else 130  # few, if that is enough to be given to the unit
    q, k, v, dout = inputs(queries, 37 * packed_tiles.KEYS - 5, 1024)
    assert packed_tiles.MOST // (2 * packed_tiles.KEYS * 1024 * 3 // 2) < 37
    got = run(q, k, v, dout)
    exact = run(*(x.astype(np.float64) for x in (q, k, v, dout)))
    for x, y in zip(got, exact, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-5)


@unit
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
def test_threads_and_signals_do_not_disturb_it():
    """The unit's registers belong to a thread, and are kept for it when that is interrupted."""
    q = np.random.default_rng(5).standard_normal((4, 256, 64)).astype(np.float32)
    want = F.attention(q, q, q)
    equal, signals = [], []
    before = signal.signal(signal.SIGALRM, lambda *_: signals.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        work = [threading.Thread(target=lambda: equal.append(run_often(q, want))) for _ in range(3)]
        for thread in work:
            thread.start()
        equal.append(run_often(q, want))
        for thread in work:
            thread.join()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert equal == [True] * 4
    assert signals


def run_often(q, want):
    return all(np.array_equal(F.attention(q, q, q), want) for _ in range(20))


HERE = Path(__file__).parents[1]


def environment(**changes):
    return {k: v for k, v in os.environ.items() if k != "MINIATTN_LANES"} | changes


# Of the semantics, those of attention: of other operations the unit changes nothing.
OF_ATTENTION = """
not test_semantics or attention or poison_reaches or poison_anywhere or poison_with or spoilt
or asking_for_weights or dropped or without_queries or rows_that_see_nothing or nobody_sees
"""


def run_tests(files, **changes):
    """Run tests in a process of their own."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-n", "0"]
    command += ["-k", " ".join(OF_ATTENTION.split())]
    done = subprocess.run(
        [*command, *(str(HERE / name) for name in files)],
        env=environment(**changes),
        cwd=HERE.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@unit
@pytest.mark.skipif(UNIT.always, reason="this is the other process")
def test_attention_on_the_unit():
    """All that attention promises, with every call on the unit that can be."""
    files = [
        "kernels/test_amx.py",
        "kernels/test_units.py",
        "functional/test_attention.py",
        "test_semantics.py",
        "nn/test_attention.py",
    ]
    run_tests(files, MINIATTN_AMX="always")


@pytest.mark.slow
@pytest.mark.skipif(UNIT.always, reason="this is the other process")
def test_attention_on_the_emulated_unit():
    """The unit's kernels on any machine: here no test may be skipped for want of the unit.

    Where there is one, the test above has run the same kernels on it, and what is left is that the
    emulation gives its bits.
    """
    files = ["kernels/test_amx.py"]
    if not UNIT.used:
        files += ["kernels/test_units.py", "functional/test_attention.py"]
    shown = run_tests(files, MINIATTN_AMX="emulate")
    assert "the matrix unit is not there" not in shown


def some_products():
    """Products of rows of many magnitudes: numbers, parts and sums below 2^-126 count as 0."""
    rng = np.random.default_rng(6)
    results = []
    for m, n, k in [(16, 16, 32), (32, 48, 100), (16, 32, 2000)]:
        a, b = (rng.standard_normal(s).astype(np.float32) for s in ((m, k), (k, n)))
        a *= 2.0 ** rng.integers(-126, 30, (m, 1)).astype(np.float32)
        a, b = packed(a, True, False)[0], packed(b, False, False)[0]
        c = np.zeros((m, n), np.float32)
        product(a.reshape(-1), b.reshape(-1), c, m // SIDE, n // SIDE, -(-k // CHUNK), False)
        results.append(c.ravel())
    return np.concatenate(results)


@unit
@pytest.mark.skipif(UNIT.emulated, reason="this is the other process")
def test_the_emulation_gives_the_same_bits(tmp_path):
    code = "import numpy, test_amx; numpy.save('products', test_amx.some_products())"
    here = os.pathsep.join([str(HERE), str(Path(__file__).parent)])
    env = environment(MINIATTN_AMX="emulate", PYTHONPATH=here)
    subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "products.npy"), some_products())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"MINIATTN_AMX": "yes"},
            "MINIATTN_AMX: expected 0, 1, always or emulate, got 'yes'",
        ),
        (
            {"MINIATTN_AMX": "emulate", "MINIATTN_LANES": "8"},
            "MINIATTN_LANES: expected 16 with MINIATTN_AMX=emulate, got '8'",
        ),
    ],
)
def test_other_words_are_refused(changes, message):
    code = "import miniattn.kernels.registers.matrix_unit"
    env = environment(**changes)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert message in done.stderr


def test_off():
    code = "from miniattn.kernels.compile.target import UNIT; assert not any(UNIT)"
    env = environment(MINIATTN_AMX="0")
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
