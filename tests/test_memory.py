"""Results lie in memory that is used again: but never while an array or a view of it is alive."""

import gc
import os
import signal
import threading

import numpy as np
import pytest

import miniattn as ma
import miniattn.functional as F
from miniattn import _memory
from miniattn._memory import LEAST, LINE, PAGE, Pool

SHAPE = (64, 1024)  # 256 KiB of float32


def test_used_again_once_gone():
    pool = Pool()
    a = pool.empty(SHAPE, np.float32)
    where = a.ctypes.data
    assert pool.empty(SHAPE, np.float32).ctypes.data != where
    del a
    assert pool.empty((1024, 64), np.float32).ctypes.data == where


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[1:],
        lambda a: a.T,
        lambda a: a.reshape(-1)[5:6],
        lambda a: a.view(np.int32)[::2].T[3:],
        lambda a: np.asarray(memoryview(a)),
        lambda a: np.lib.stride_tricks.sliding_window_view(a, (2, 2)),
        lambda a: np.broadcast_to(a[0], (3, 1024)),
        lambda a: np.frombuffer(a.data, np.uint8),
    ],
)
def test_a_view_keeps_the_memory(view):
    pool = Pool()
    a = pool.empty(SHAPE, np.float32)
    a[...] = 7
    seen = view(a)
    before = seen.copy()
    del a
    gc.collect()
    assert pool.kept == 0
    pool.empty(SHAPE, np.float32)[...] = 3
    np.testing.assert_array_equal(seen, before)
    del seen
    assert pool.kept >= 2 * 64 * 1024 * 4


def test_live_arrays_never_overlap():
    pool, rng = Pool(2**22), np.random.default_rng(0)
    alive = []
    for step in range(2000):
        a = pool.empty(int(rng.integers(LEAST, 2**18)) // 4, np.float32)
        a[...] = step
        # Half of them live on only as a view.
        alive.append((step, a[rng.integers(len(a)) :] if rng.random() < 0.5 else a))
        while len(alive) > 20:
            value, seen = alive.pop(rng.integers(len(alive)))
            assert (seen == value).all()
    assert pool.kept <= 2**22


def test_threads_never_get_the_same_memory():
    pool, wrong = Pool(), []

    def work(own):
        for _ in range(300):
            a = pool.empty(SHAPE, np.float32)
            a[...] = own
            if not (a == own).all():
                wrong.append(own)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_thread_has_a_desk_of_its_own(monkeypatch, dtype):
    """For one worker; what several workers need, and what is large, is memory like any other."""
    monkeypatch.setattr(_memory._checking, "ON", False)
    dtype = np.dtype(dtype)
    largest = _memory.DESK // dtype.itemsize
    both, found = threading.Barrier(2), []

    def work():
        rows = [_memory.scratch(1, n, dtype) for n in (1, largest)]
        assert rows[0] is rows[1]
        assert rows[0].dtype == dtype
        assert rows[0].shape == (1, largest)
        found.append(rows[0].ctypes.data)
        both.wait(60)  # both are alive: neither has the other's memory by chance

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert abs(found[0] - found[1]) >= _memory.DESK
    assert _memory.scratch(1, largest + 1, dtype).shape == (1, largest + 1)
    assert _memory.scratch(2, 10, dtype).shape == (2, 10)


def test_arrays_are_ordinary():
    a = Pool().empty(SHAPE, np.float64)
    assert type(a) is np.ndarray
    assert a.flags.c_contiguous
    assert a.flags.aligned
    assert a.flags.writeable
    assert a.ctypes.data % LINE == 0
    assert (a.shape, a.dtype) == (SHAPE, np.float64)


@pytest.mark.parametrize("shape", [(), 0, (0, 5), 3, (4, 4)])
def test_small_arrays_are_not_of_the_pool(shape):
    pool = Pool()
    a = pool.empty(shape, np.float32)
    assert a.shape == np.empty(shape).shape
    del a
    assert pool.kept == 0


def test_keeps_no_more_than_its_limit():
    pool = Pool(2**20)
    arrays = [pool.empty(2**19, np.uint8) for _ in range(8)]
    del arrays
    assert pool.kept <= 2**20
    assert pool.empty(2**21, np.uint8).base is None  # larger than all that may be kept


def test_released_on_request():
    pool = Pool()
    pool.empty(SHAPE, np.float32)
    assert pool.kept > 0
    pool.release()
    assert pool.kept == 0


def test_keep_memory():
    x = np.zeros(SHAPE, np.float32)
    try:
        ma.runtime.keep_memory(0)
        F.softmax(x)
        assert _memory._pool.kept == 0
    finally:
        ma.runtime.keep_memory(2**28)
    where = F.softmax(x).ctypes.data
    assert F.softmax(x).ctypes.data == where


@pytest.mark.parametrize(("n", "error"), [(-1, ValueError), ("1 MB", TypeError), (1.5, TypeError)])
def test_wrong_limits(n, error):
    with pytest.raises(error, match=r"n: expected"):
        ma.runtime.keep_memory(n)


def test_results_survive_later_calls():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(SHAPE).astype(np.float32)
    first = F.softmax(x)
    kept = first.copy()
    for _ in range(5):
        F.softmax(-x)
        F.gelu(x)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    "held",
    [
        lambda base: base,
        lambda base: base[64:],
        lambda base: base.view(np.ndarray),
        lambda base: base.data,
        lambda base: np.frombuffer(base.data, np.float32),
    ],
)
def test_the_base_keeps_the_memory(held):
    pool = Pool()
    a = pool.empty(SHAPE, np.float32)
    a[...] = 7
    seen = held(a.base)
    before = np.array(seen)
    del a
    pool.empty(SHAPE, np.float32)[...] = 3
    np.testing.assert_array_equal(np.asarray(seen), before)
    del seen
    assert pool.kept == pool.empty(SHAPE, np.float32).base.nbytes - 2 * PAGE  # of one block


# What must not wait runs in a process of its own: it would hang, and this one with it.
BEGIN = """
import os, signal, sys, threading, time
import numpy as np
import miniattn.functional as F
from miniattn._memory import LEAST, empty
x = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)  # 64 KiB
right = F.softmax(x)
def work():
    assert empty(x.shape, x.dtype).nbytes >= LEAST
    assert np.array_equal(F.softmax(x), right)
"""


@pytest.mark.parametrize("layer", [None, "workqueue"])
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
def test_signal_handlers_run_operations(python, layer):
    code = """
handled = 0
def handle(number, frame):
    global handled
    work()
    handled += 1
    again()
def again():  # not while it is handled: handlers would nest
    if time.monotonic() < end:
        signal.setitimer(signal.ITIMER_REAL, 1e-4 + 1e-7 * (handled % 997))
signal.signal(signal.SIGALRM, handle)
end = time.monotonic() + 3
again()
while time.monotonic() < end:
    empty(x.shape, x.dtype)
    work()
print(handled > 100)
"""
    assert python(BEGIN + code, NUMBA_THREADING_LAYER=layer, timeout=60).strip() == "True"


def test_an_operation_between_any_two_steps_of_the_pool(python):
    """As finalizers and handlers may: none waits, and no memory is lent twice."""
    code = """
from miniattn import _memory
pool, alive, inside, steps = _memory.Pool(20 * x.nbytes), [], False, 0
def lend():
    a = pool.empty(x.shape, x.dtype)
    a[...] = value = len(alive) + steps
    alive.append((value, a))
def step(frame, event, argument):
    global inside, steps
    if frame.f_code.co_filename != _memory.__file__:
        return None
    frame.f_trace_opcodes = True
    if event == "opcode" and not inside:
        inside = True
        steps += 1
        lend()
        del alive[:-5]
        inside = False
    return step
for _ in range(50):
    sys.settrace(step)
    lend()
    alive.pop(0)
    sys.settrace(None)
    assert all((a == value).all() for value, a in alive)
print(steps > 1000, pool.kept <= pool.limit)
"""
    assert python(BEGIN + code, timeout=60).strip() == "True True"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_forks_while_another_thread_takes_memory(python):
    code = """
done = threading.Event()
def take():
    while not done.is_set():
        empty(x.shape, x.dtype)
thread = threading.Thread(target=take)
thread.start()
codes = []
for _ in range(50):
    child = os.fork()
    if child == 0:
        for _ in range(10):
            empty(x.shape, x.dtype)[...] = 1  # would wait for a thread that a child does not have
        os._exit(7)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
done.set()
thread.join()
print(set(codes))
"""
    assert python(BEGIN + code, timeout=60).strip() == "{7}"
