"""The vector layer alone, and everything that is built on it at each width of register."""

import decimal
import importlib
import os
import platform
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import numba
import numpy as np
import pytest
from llvmlite import ir

from miniattn.kernels import registers as simd
from miniattn.kernels.compile import target as _target
from miniattn.kernels.dense.places import Extent, Grid, Lines
from miniattn.kernels.registers import (
    LANES,
    absolute,
    aligned,
    any_true,
    as_integer,
    drain,
    exp2,
    exp2_nonpositive,
    fetch_and_add,
    first,
    floor,
    fma,
    gather,
    horizontal_max,
    horizontal_maxima,
    horizontal_sum,
    horizontal_sums,
    iota,
    lanes,
    load,
    load_doubles,
    load_first,
    lookup,
    maximum,
    minimum,
    pointer,
    registers,
    rint,
    select,
    splat,
    sqrt,
    store,
    store_doubles,
    store_first,
    store_streaming,
    tanh,
    to_boundary,
    to_float,
    transpose,
)

DTYPES = (np.float32, np.float64)


def width(dtype):
    return LANES * 4 // np.dtype(dtype).itemsize


@numba.njit
def apply_exp2(x, y):
    for i in range(0, x.size, lanes(x)):
        n = min(lanes(x), x.size - i)
        store_first(pointer(y, i), exp2(load_first(pointer(x, i), n)), n)


@numba.njit
def apply_exp2_nonpositive(x, y):
    for i in range(0, x.size, lanes(x)):
        n = min(lanes(x), x.size - i)
        store_first(pointer(y, i), exp2_nonpositive(load_first(pointer(x, i), n)), n)


@numba.njit
def apply_tanh(x, y):
    for i in range(0, x.size, lanes(x)):
        n = min(lanes(x), x.size - i)
        store_first(pointer(y, i), tanh(load_first(pointer(x, i), n)), n)


def ulps(got, exact, dtype):
    """Distance of ``got`` from exact values (Decimals) in units of the last place."""
    unit = np.spacing(np.array([float(e) for e in exact]).astype(dtype))
    return [
        abs(float((Decimal(float(g)) - e) / Decimal(float(abs(u)))))
        for g, e, u in zip(got, exact, unit, strict=True)
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", [apply_exp2, apply_exp2_nonpositive])
def test_exp2_against_high_precision(dtype, function):
    lowest = -126 if dtype == np.float32 else -1022
    highest = 0 if function is apply_exp2_nonpositive else -2 - lowest
    rng = np.random.default_rng(0)
    near = rng.uniform(-1, 0 if highest == 0 else 1, 2000)
    x = np.concatenate([rng.uniform(lowest, highest, 4000), near, [lowest, highest]]).astype(dtype)
    y = np.empty_like(x)
    function(x, y)
    with decimal.localcontext(prec=40):
        exact = [(Decimal(float(a)) * Decimal(2).ln()).exp() for a in x]
        assert max(ulps(y, exact, dtype)) <= (1.5 if dtype == np.float32 else 2.0)


def test_exp2_on_every_float32_of_one_octave():
    x = -(np.arange(2**23, dtype=np.uint32) + np.float32(0.5).view(np.uint32)).view(np.float32)
    y = np.empty_like(x)
    apply_exp2(x, y)
    exact = np.exp2(x.astype(np.float64))
    unit = np.spacing(exact.astype(np.float32)).astype(np.float64)
    assert np.max(np.abs(y - exact) / unit) <= 1.5


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp2_at_the_edges(dtype):
    edge = -126 if dtype == np.float32 else -1022
    below = np.nextafter(dtype(edge), dtype(-np.inf))
    x = np.array([-np.inf, 0, np.nan, np.inf, 1, -1, edge, below, -1e30, 2 - edge], dtype)
    y = np.empty_like(x)
    apply_exp2(x, y)
    tiny = np.finfo(dtype).smallest_normal
    # What would be subnormal is 0.
    np.testing.assert_array_equal(y, [0, 1, np.nan, np.inf, 2, 0.5, tiny, 0, 0, np.inf])
    x = np.array([-np.inf, 0, -0.0, np.nan, edge, below], dtype)
    y = np.empty_like(x)
    apply_exp2_nonpositive(x, y)
    np.testing.assert_array_equal(y, [0, 1, 1, np.nan, tiny, 0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_tanh(dtype):
    rng = np.random.default_rng(1)
    tiny = 10.0 ** rng.uniform(-20, 0, 1000) * rng.choice([-1, 1], 1000)
    x = np.concatenate([rng.uniform(-25, 25, 2000), tiny]).astype(dtype)
    y = np.empty_like(x)
    apply_tanh(x, y)
    with decimal.localcontext(prec=60):
        powers = [(2 * Decimal(float(a))).exp() for a in x]
        exact = [(p - 1) / (p + 1) for p in powers]
        assert max(ulps(y, exact, dtype)) <= 4
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan], dtype)
    y = np.empty_like(x)
    apply_tanh(x, y)
    np.testing.assert_array_equal(y, [0, 0, 1, -1, np.nan])
    assert np.signbit(y[1])


@numba.njit
def arithmetic(x, y, out):
    a, b = load(pointer(x, 0)), load(pointer(y, 0))
    w = lanes(x)
    p = pointer(out, 0)
    store(p, a + b * 2.0)
    store(p + w, (1.0 - a) / b)
    store(p + 2 * w, fma(-a, b, 0.5))
    store(p + 3 * w, maximum(a, b))
    store(p + 4 * w, minimum(a, 0.0))
    store(p + 5 * w, select((a < b) & ~(a <= 0.0) | (a == b), a, -1.0))
    store(p + 6 * w, absolute(floor(a)) + rint(b))
    store(p + 7 * w, sqrt(absolute(a)))
    c = a
    c += b
    c -= 1.0
    c *= a
    store(p + 8 * w, c)
    store(p + 9 * w, splat(x[0], x))
    return horizontal_sum(a), horizontal_max(a), any_true(a > 1e6), any_true(a < 1e6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_arithmetic_reads_like_numpy(dtype):
    w = width(dtype)
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, w)).astype(dtype)
    out = np.empty((10, w), dtype)
    total, peak, never, always = arithmetic(a, b, out.ravel())
    expected = [
        a + b * 2,
        (1 - a) / b,
        0.5 - a * b,
        np.maximum(a, b),
        np.minimum(a, 0),
        np.where((a < b) & ~(a <= 0), a, -1),
        np.abs(np.floor(a)) + np.rint(b),
        np.sqrt(np.abs(a)),
        (a + b - 1) * a,
        np.full(w, a[0]),
    ]
    np.testing.assert_allclose(out, expected, rtol=8 * np.finfo(dtype).eps, atol=1e-7)
    assert total == pytest.approx(a.sum(), rel=1e-5)
    assert peak == a.max()
    assert (never, always) == (False, True)


@numba.njit
def kahan(x):
    """Compensated sum, lane by lane: reassociation would delete the compensation."""
    total, lost = splat(0.0, x), splat(0.0, x)
    for i in range(0, x.size, lanes(x)):
        y = load(pointer(x, i)) - lost
        t = total + y
        lost = (t - total) - y
        total = t
    return horizontal_sum(total)


def test_arithmetic_is_done_as_written():
    x = np.full(LANES * 100_000, 0.1, np.float32)
    assert kahan(x) == pytest.approx(float(np.float32(0.1)) * x.size, rel=1e-6)


@numba.njit
def halve(x, out, n):
    p = pointer(x, 0)
    store_doubles(pointer(out, 0), load_doubles(p, n) * 0.5, n)


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_as_doubles_and_back(dtype):
    """Rounded once, at the end, and nothing is read or written past the end."""
    w = width(np.float64)
    for n in range(w + 1):
        x, out = np.full(w, np.nan, dtype), np.full(w, -1, dtype)
        x[:n] = np.arange(n) + 2.0**-20
        halve(x, out, n)
        np.testing.assert_array_equal(out[:n], x[:n] / 2)
        np.testing.assert_array_equal(out[n:], -1)


@numba.njit
def memory(x, out, n, step, counts):
    w = lanes(x)
    p, q = pointer(x, 0), pointer(out, 0)
    store(q, load_first(p, n))
    store_first(q + w, load(p), n)
    store(q + 2 * w, gather(p, step, n, x))
    store(q + 3 * w, select(first(n, x), 1.0, splat(0.0, x)))
    number = iota(x, np.int32)
    store(q + 4 * w, select((number >= 1) & (number - 3 < 0), 1.0, splat(0.0, x)))
    store(q + 5 * w, horizontal_sums(p))
    store(q + 6 * w, horizontal_maxima(p))
    room = registers(2, x)
    store(room + w, load(p))
    store(q + 7 * w, load(room + w))
    store(q + 9 * w, gather(p, 1, n, x))  # a step written as 1 is a load
    (q + 8 * w)[0] = p[2]
    return fetch_and_add(pointer(counts, 0), 2), fetch_and_add(pointer(counts, 0), -1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("part", [0, 1, 0.5, 1.0])
def test_memory(dtype, part):
    w = width(dtype)
    n = int(part * w) if isinstance(part, float) else part
    x = np.arange(1, w * w + 1, dtype=dtype)
    out = np.full((10, w), -7, dtype)
    counts = np.array([5])
    assert memory(x, out.ravel(), n, 2, counts) == (5, 7)
    assert counts[0] == 6
    lane = np.arange(w)
    np.testing.assert_array_equal(out[0], np.where(lane < n, x[:w], 0))
    np.testing.assert_array_equal(out[1], np.where(lane < n, x[:w], -7))
    np.testing.assert_array_equal(out[2], np.where(lane < n, x[2 * lane], 0))
    np.testing.assert_array_equal(out[3], lane < n)
    np.testing.assert_array_equal(out[4], (lane >= 1) & (lane < 3))
    np.testing.assert_array_equal(out[5], x.reshape(w, w).sum(axis=1))
    np.testing.assert_array_equal(out[6], x.reshape(w, w).max(axis=1))
    np.testing.assert_array_equal(out[7], x[:w])
    assert out[8, 0] == 3
    np.testing.assert_array_equal(out[9], out[0])


@numba.njit
def streaming(x, out):
    p, q = pointer(x, 0), pointer(out, 0)
    head = to_boundary(q)
    for i in range(0, x.size - lanes(p) + 1, lanes(p)):
        store_streaming(q + (head + i), load(p + i))
    drain()
    return head


@pytest.mark.parametrize("dtype", DTYPES)
def test_streaming(dtype):
    w = width(dtype)
    x = np.arange(1, 5 * w + 1, dtype=dtype)
    room = np.zeros(8 * w, dtype)
    for start in range(w + 1):
        out = room[start : start + 6 * w]
        out[:] = 0
        head = streaming(x, out)
        size = w * x.itemsize
        assert head * x.itemsize == -out.ctypes.data % size
        np.testing.assert_array_equal(out[head : head + 5 * w], x)
        assert not out[:head].any()
        assert not out[head + 5 * w :].any()
    assembly = next(iter(streaming.inspect_asm().values()))
    if platform.machine().lower() in ("x86_64", "amd64"):
        assert "movnt" in assembly


@numba.njit
def look_up(x, places, out):
    store(pointer(out, 0), lookup(load(pointer(x, 0)), pointer(places, 0)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_lookup(dtype):
    w = width(dtype)
    x = np.random.default_rng(5).normal(size=w).astype(dtype)
    places = np.random.default_rng(6).integers(0, w, w, dtype=np.int32)
    out = np.empty_like(x)
    look_up(x, places, out)
    np.testing.assert_array_equal(out, x[places])
    if simd.LANES == _target.register_lanes() == 16:
        assembly = look_up.inspect_asm(look_up.signatures[-1])
        assert "vperm" in assembly


@numba.njit
def integers(x, out):
    v = as_integer(load(pointer(x, 0)))
    rotated = (v << 9) | (v >> 23)
    store(pointer(out, 0), to_float((rotated ^ v) >> 8, x))


def test_integers():
    x = np.linspace(-3, 5, LANES, dtype=np.float32)
    out = np.empty_like(x)
    integers(x, out)
    v = x.view(np.uint32)
    np.testing.assert_array_equal(out, (((v << 9) | (v >> 23)) ^ v) >> 8)


@numba.njit
def panel_product(c, a, b, depth, valid, accumulate):
    left, right = Grid(pointer(a, 0), a.shape[1], 1), Lines(pointer(b, 0), b.shape[1])
    to = Lines(pointer(c, 0), c.shape[1])
    simd.product(3, 2, to, left, right, Extent(valid, depth), accumulate)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize(("depth", "valid"), [(7, 3), (7, 2), (0, 3)])
def test_product(dtype, accumulate, depth, valid):
    rng = np.random.default_rng(3)
    a = rng.normal(size=(valid, 7)).astype(dtype)
    b = rng.normal(size=(7, 2 * width(dtype))).astype(dtype)
    c = np.ones((3, b.shape[1]), dtype)
    panel_product(c, a, b, depth, valid, accumulate)
    rows = np.minimum(np.arange(3), valid - 1)  # rows past the end repeat the last
    expected = a[rows, :depth] @ b[:depth] + accumulate
    np.testing.assert_allclose(c, expected, atol=20 * np.finfo(dtype).eps)


ADDRESSES = {"getelementptr", "mul", "bitcast", "icmp", "select", "sub"}


def steps(text):
    """What instructions each basic block of LLVM's text has, addresses and comparisons left out."""
    blocks = {}
    for line in text.splitlines():
        line = line.partition(";")[0].rstrip()
        if label := re.fullmatch(r' *"?(?:product\.)?(\w+)"?:', line):
            found = blocks[label[1]] = []
        elif blocks and (step := re.match(r" +(?:%\S+ = )?(\w+) ", line)):
            found += [step[1]] if step[1] not in ADDRESSES else []
    return blocks


def test_the_code_of_a_product_is_what_its_page_shows():
    product = importlib.import_module(f"{simd.__name__}.product")  # the name is the function's
    panel = product.Panel(1, 2, simd.Vector(numba.float32, 16))
    number, place = ir.IntType(64), ir.FloatType().as_pointer()
    kinds = [place, number, place, number, number, place, number, number, number, ir.IntType(1)]
    function = ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), kinds), "panel")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    product.emit_panel(builder, panel, product.Operands(*function.args))
    assert steps(str(function)) == steps(product.__doc__)


@numba.njit
def spare(x):
    start = pointer(x, 1)
    return aligned(start)[0]


def test_aligned():
    x = np.arange(64, dtype=np.float32)
    offset = int(spare(x))
    assert 1 <= offset <= 16
    assert (x.ctypes.data + 4 * offset) % 64 == 0


TOO_MANY = 2**12 * 4 // LANES + 1


def test_a_table_that_is_large_for_a_stack_is_refused():
    @numba.njit
    def large(x):
        registers(TOO_MANY, x)

    with pytest.raises(numba.TypingError, match=r"registers: .* need more than 65536 bytes"):
        large(np.ones(1, np.float32))


def test_registers_are_as_wide_as_the_processor():
    apply_exp2(np.ones(1, np.float32), np.ones(1, np.float32))
    assembly = next(iter(apply_exp2.inspect_asm().values()))
    register = {16: "zmm", 8: "ymm", 4: "xmm"}[LANES]
    if _target.register_lanes() >= LANES:
        assert register in assembly


@pytest.mark.slow
@pytest.mark.parametrize("lanes_asked", sorted({4, 8, 16} - {LANES}))
def test_every_width(lanes_asked):
    """The layer, and attention on it, at the register widths that this process has not."""
    env = {**os.environ, "MINIATTN_LANES": str(lanes_asked), "MINIATTN_AMX": "0"}
    here = Path(__file__).parents[1]
    names = [
        "kernels/test_simd.py",
        "functional/test_attention.py::test_forward_and_backward_at_a_glance",
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-n", "0"]
    command += ["-k", "not every_width and not octave", *(str(here / name) for name in names)]
    run = subprocess.run(command, env=env, cwd=here.parent, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_wrong_width_is_refused():
    env = {**os.environ, "MINIATTN_LANES": "5"}
    code = "import miniattn.kernels.registers"
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert "MINIATTN_LANES: expected 4, 8 or 16, got '5'" in run.stderr


@numba.njit
def turn(x, out, row, width, valid):
    transpose(pointer(out, 0), width, pointer(x, 0), row, valid)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("valid", [1, 3, None])
def test_transpose(dtype, valid):
    n = LANES * 4 // np.dtype(dtype).itemsize
    valid = min(n, valid or n)
    x = np.arange(n * (n + 3), dtype=dtype).reshape(n, n + 3)[:valid].copy()
    out = np.full((n, n + 5), -1, dtype)
    turn(x, out, n + 3, n + 5, valid)
    rows = np.minimum(np.arange(n), valid - 1)
    np.testing.assert_array_equal(out[:, :n], x[rows, :n].T)
    assert (out[:, n:] == -1).all()
