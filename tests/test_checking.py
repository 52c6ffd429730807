"""The checking mode, in which the tests run, notices what it is there for."""

import re
import weakref

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from samples import fresh
from test_gradcheck import PAIRS

import miniattn.functional as F
from miniattn import _checking, _memory
from miniattn.functional import _attention_calls
from miniattn.functional._attention import inputs
from miniattn.kernels.attention.vector import forward as attention_forward
from miniattn.kernels.compile.launch import run
from miniattn.kernels.compile.queue import Told
from miniattn.kernels.compile.settings import task
from miniattn.kernels.compile.tables import addresses
from miniattn.kernels.registers import address

NOTHING = np.empty(0)


@pytest.fixture
def fault(monkeypatch):
    """Put something else in the place of what attention works with; plans are made anew."""
    yield lambda name, value, home=_attention_calls: (
        monkeypatch.setattr(home, name, value),
        forget(),
    )
    monkeypatch.undo()
    forget()


def forget():
    _attention_calls.plan_of.cache_clear()


def test_the_tests_are_checked():
    assert _checking.ON


# ------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize("T", [1, 70])
def test_a_key_head_that_is_not_there(fault, T):
    right = _attention_calls._problem

    def at_least_one(shapes, options):
        problem = right(shapes, options)
        return problem._replace(G=max(1, problem.G))

    fault("_problem", at_least_one)
    x = np.zeros((2, 0, T, 32))
    with pytest.raises(RuntimeError, match=r"k: expected addresses within its memory of 0 bytes"):
        F.attention(x, x, x)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", ["i1", "f4"])
def test_strides_that_are_rounded(fault, rng, reverse, kind):
    q = rng.standard_normal((7, 4))
    records = np.zeros((7, 7), [("x", "f8"), ("kind", kind)])
    bias = records["x"][::-1, ::-1] if reverse else records["x"]
    fault("strided", lambda x, rows=False: x, inputs)
    with pytest.raises(ValueError, match=r"strides: expected multiples of 8 bytes"):
        F.attention(q, q, q, bias=bias)
    fault("elements", lambda shape, strides, size: tuple(s // size for s in strides))
    with pytest.raises(RuntimeError, match=r"bias: expected "):
        F.attention(q, q, q, bias=bias)


def test_views_beyond_their_memory(rng):
    x = rng.standard_normal((8, 4))
    beyond = as_strided(x, (9, 4), x.strides)
    with pytest.raises(RuntimeError, match=r"q: expected addresses within its memory of 256 bytes"):
        F.attention(beyond, x, x)
    F.attention(as_strided(x, (8, 4), x.strides), as_strided(x[::-1], (8, 4), (-32, 8)), x)


def test_contiguous_operands_are_contiguous(rng):
    with pytest.raises(RuntimeError, match=r"array 1: expected an aligned, C-contiguous array"):
        addresses([rng.standard_normal(3), rng.standard_normal((3, 3)).T])


# ---------------------------------------------------------------------------------------- memory


@task
def fill(sizes, factors, operands, queue, scratch):
    """Write 1 to so many places before and after the start of scratch memory, and of an array."""
    before, after = sizes[0], sizes[1]
    for i in range(-before, after):
        scratch[i] = 1.0
    array = address(operands[0], scratch)
    for i in range(-sizes[2], sizes[3]):
        array[i] = 1.0


def launch_fill(array, room, *sizes, workers=1):
    scratch = _memory.scratch(workers, room, array.dtype)
    operands = np.array(addresses([array]))
    told = Told(np.array(sizes), NOTHING, operands, scratch)
    run(fill, array.dtype, workers, workers, told, [array])
    return scratch


SMALL, LARGE = 5, _memory.LEAST  # float64: of malloc's and of the pool's


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("workers", [1, 2])
def test_scratch_memory_that_is_too_small(size, workers):
    array = _memory.empty(size, np.float64)
    assert (launch_fill(array, size, 0, size, 0, size, workers=workers) == 1).all()
    for beside in [(0, size + 1), (1, size), (0, size + 30)]:
        with pytest.raises(RuntimeError, match=r"fill: expected to write to its memory alone.* 1$"):
            launch_fill(array, size, *beside, 0, size, workers=workers)


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_results_that_are_too_small(size):
    array = _memory.empty((1, size), np.float64)
    launch_fill(array, size, 0, size, 0, size)
    for beside in [(0, size + 1), (1, size), (0, size + 30)]:
        array = _memory.empty((1, size), np.float64)
        with pytest.raises(RuntimeError, match=r"fill: expected to write to its memory alone.* 0$"):
            launch_fill(array, size, 0, size, *beside)


def test_memory_that_is_used_again_has_canaries():
    for _ in range(2):
        array = _memory.empty(LARGE, np.float64)
        where = array.ctypes.data
        with pytest.raises(RuntimeError, match=r"fill: expected to write"):
            launch_fill(array, 1, 0, 1, 0, LARGE + 1)
        del array
    assert _memory.empty(LARGE, np.float64).ctypes.data == where
    launch_fill(_memory.empty(LARGE, np.float64), 1, 0, 1, 0, LARGE)


def test_a_plan_with_too_little_scratch_memory(monkeypatch, rng):
    right = attention_forward.plan

    def less(problem, lanes):
        pieces, scratch = right(problem, lanes)
        return pieces, scratch - 16

    q, v = rng.standard_normal((64, 8)), rng.standard_normal((64, 9))  # the last part is in use
    monkeypatch.setattr(attention_forward, "plan", less)
    forget()
    with pytest.raises(RuntimeError, match=r"forward: expected to write to its memory alone"):
        F.attention(q, q, v)
    monkeypatch.undo()
    forget()
    F.attention(q, q, v)


# -------------------------------------------------------------------------------------- contexts

X = np.linspace(-1, 1, 12).reshape(3, 4)
SHARED = {
    "softmax": ({"x": X}, "y"),
    "log_softmax": ({"x": X}, "y"),
    "sparsemax": ({"x": X}, "y"),
    "entmax15": ({"x": X}, "y"),
    "relu": ({"x": X}, "y"),
    "sigmoid": ({"x": X}, "y"),
    "tanh": ({"x": X}, "y"),
    "attention": ({"q": X, "k": X, "v": X}, "out"),
    "logsumexp": ({"x": X}, "x"),
    "silu": ({"x": X}, "x"),
    "gelu": ({"x": X}, "x"),
    "linear": ({"x": X, "weight": X}, "weight"),
    "layer_norm": ({"x": X, "weight": X[0], "bias": X[0]}, "x"),
    "rms_norm": ({"x": X, "weight": X[0]}, "weight"),
    "cross_entropy": ({"logits": X, "targets": np.arange(3)}, "targets"),
    "linear_cross_entropy": ({"x": X, "weight": X, "targets": np.arange(3)}, "targets"),
}


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", SHARED)
def test_what_a_context_shares_is_written_to(name, large):
    inputs, shared = SHARED[name]
    if large and "weight" not in inputs and name != "cross_entropy":
        inputs = {key: np.tile(x, (200, 60)) for key, x in inputs.items()}
    inputs = {key: x.copy() for key, x in inputs.items()}
    forward, backward = getattr(F, f"{name}_forward"), getattr(F, f"{name}_backward")
    y, ctx = forward(**inputs)
    written = inputs.get(shared, y)
    dy = np.ones(np.shape(y))[()]
    backward(dy, ctx)
    written += 1
    with pytest.raises(RuntimeError, match=rf"ctx\.{shared}: expected the numbers that"):
        backward(dy, ctx)
    written -= 1
    forward(**inputs)
    y, ctx = forward(**inputs)
    (y.copy() if shared in ("y", "out") else inputs[shared].copy())[...] = 0
    backward(dy, ctx)


@pytest.mark.parametrize("name", PAIRS)
def test_what_a_context_shares_is_documented(name):
    forward = getattr(F, f"{name}_forward")
    said = re.search(r"The context holds ([^:]*?) (itself|themselves):", forward.__doc__ or "")
    said = set(re.findall(r"\w+", said[1])) - {"and"} if said else set()
    for given, options in PAIRS[name]:
        options = {key: x for key, x in options.items() if key != "samples"}
        options = fresh(options)
        y, ctx = forward(**given, **options)
        outside = [x for x in (*given.values(), *options.values(), y) if isinstance(x, np.ndarray)]
        for field, x in ctx._asdict().items():
            if isinstance(x, np.ndarray) and any(np.shares_memory(x, a) for a in outside):
                assert field in said


def test_contexts_are_not_kept_alive():
    y, ctx = F.relu_forward(X)
    seen = weakref.ref(y)
    del y, ctx
    assert seen() is None


def test_no_more_contexts_are_remembered_than_a_few():
    for _ in range(_checking.REMEMBERED + 5):
        kept = F.ReluContext(X[:1])
    assert len(_checking._seals) <= _checking.REMEMBERED
    assert F.relu_backward(np.ones((1, 4)), kept).shape == (1, 4)


# ------------------------------------------------------------------------------------------- off


def test_off_by_default(python):
    code = """
import numpy as np
import miniattn.functional as F
from miniattn import _checking, _memory
x = np.ones(4)
y, ctx = F.softmax_forward(x)
y += 1
print(_checking.ON, _memory.empty == _memory._pool.empty, F.softmax_backward(x, ctx))
"""
    assert python(code, MINIATTN_CHECK=None) == "False True [-5. -5. -5. -5.]\n"
