"""Results lie in memory that is used again: but never while an array or a view of it is alive."""

import gc
import os
import signal
import threading
import time

import numpy as np
import pytest

import miniattn as ma
import miniattn.functional as F
from miniattn import _memory
from miniattn._memory import LEAST, LINE, Pool

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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # what is tested
def test_a_fork_while_another_thread_takes_memory():
    with _memory._pool._lock:
        child = os.fork()
        if child == 0:
            result = _memory.empty(SHAPE, np.float32)  # would wait for ever
            os._exit(0 if result.shape == SHAPE else 1)
    deadline = time.monotonic() + 20
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("the child waits for a lock that nobody holds")
        time.sleep(0.01)
    assert ended[1] == 0
