"""Thread pools, locks and limits: mostly in fresh processes, because a pool starts only once."""

import importlib.metadata
import os
import threading

import numba
import numpy as np
import pytest
from threadpoolctl import threadpool_info

import miniattn as ma
from miniattn import runtime
from miniattn.kernels.compile import settings as _runtime
from miniattn.kernels.compile import threads as _threads
from miniattn.kernels.compile.settings import kernel

# A kernel of two lines, and what it should give.
DOUBLE = """
import os, threading
import numba, numpy as np
import miniattn as ma
from miniattn.kernels.compile import threads as _threads
from miniattn.kernels.compile.settings import kernel

@kernel
def double(x, y):
    for i in numba.prange(x.shape[0]):
        y[i] = 2 * x[i]

def check(n=1000):
    x, y = np.arange(float(n)), np.empty(n)
    double(x, y)
    assert (y == 2 * x).all()
"""

HIDE_TBB = """
import pathlib
is_file = pathlib.Path.is_file
pathlib.Path.is_file = lambda self: "tbb" not in self.name and is_file(self)
"""

try:
    importlib.metadata.version("tbb")
    HAS_TBB = True
except importlib.metadata.PackageNotFoundError:
    HAS_TBB = False

needs_tbb = pytest.mark.skipif(
    not HAS_TBB or _threads.processors() == 1, reason="the tbb wheel is not installed, or not used"
)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
layers = pytest.mark.parametrize("layer", [None, "workqueue"])

SHOW_LAYER = "check(); print(_threads.layer(), os.environ.get('OMP_WAIT_POLICY'))"


@kernel
def double(x, y):
    for i in numba.prange(x.shape[0]):
        y[i] = 2 * x[i]


# ------------------------------------------------------------------------------------ thread pools


@needs_tbb
def test_tbb_is_found_and_openmp_left_alone(python):
    assert python(DOUBLE + SHOW_LAYER).split() == ["tbb", "None"]


@needs_tbb
def test_tbb_is_found_where_the_wheel_says(python):
    elsewhere = "import sys, sysconfig\nsysconfig.get_path = lambda name: '/nowhere'\n"
    prefix = "prefix, sys.prefix = sys.prefix, '/nowhere'\n"
    assert python(elsewhere + prefix + DOUBLE + SHOW_LAYER).split() == ["tbb", "None"]


several = pytest.mark.skipif(_threads.processors() == 1, reason="OpenMP is not chosen on one")


@several
def test_without_tbb_openmp_sleeps(python):
    shown = python(HIDE_TBB + DOUBLE + SHOW_LAYER).split()
    assert shown[0] in ("omp", "workqueue", "tbb")  # tbb: the system's own
    assert shown[1] == "passive"


@several
def test_a_wait_policy_that_was_set_stays(python):
    assert python(HIDE_TBB + DOUBLE + SHOW_LAYER, OMP_WAIT_POLICY="active").split()[1] == "active"


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_the_users_layer_is_respected(python, layer):
    assert python(DOUBLE + SHOW_LAYER, NUMBA_THREADING_LAYER=layer).split()[0] == layer
    later = f"numba.config.THREADING_LAYER = {layer!r}\n"
    assert python(DOUBLE + later + SHOW_LAYER).split()[0] == layer


@layers
def test_several_python_threads_at_once(python, layer):
    code = """
start = threading.Barrier(4)
failed = []
def work():
    start.wait()  # the first launch is contended as well
    try:
        for _ in range(200):
            check()
    except BaseException as error:
        failed.append(error)
workers = [threading.Thread(target=work) for _ in range(4)]
[w.start() for w in workers]; [w.join() for w in workers]
print(failed)
"""
    assert python(DOUBLE + code, NUMBA_THREADING_LAYER=layer).strip() == "[]"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes go everywhere here")
def test_on_one_processor_a_thread_may_launch_first(python):
    """And the process comes to an end."""
    one = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    first = "worker = threading.Thread(target=check); worker.start(); worker.join()\n"
    show = "print(_threads.layer(), numba.config.NUMBA_NUM_THREADS)"
    for threads in ("1", "2"):
        shown = python(one + DOUBLE + first + show, NUMBA_NUM_THREADS=threads, timeout=60)
        assert shown.split() == ["workqueue", threads]
    chosen = python(one + DOUBLE + SHOW_LAYER, NUMBA_THREADING_LAYER="omp")
    assert chosen.split()[0] == "omp"


@needs_fork
@layers
def test_a_forked_child_after_a_kernel(python, layer):
    code = """
check()
child = os.fork()
if child == 0:
    check()
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
check()
"""
    assert python(DOUBLE + code, NUMBA_THREADING_LAYER=layer).strip() == "7"


@needs_fork
def test_a_forked_child_that_would_be_ended_is_told_so(python):
    """GNU OpenMP ends it with a signal; other makers' works."""
    code = """
import importlib
check()
child = os.fork()
if child == 0:
    try:
        check()
        ma.get_num_threads()
        print("fine")
    except RuntimeError as error:
        print(error)
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(importlib.import_module("numba.np.ufunc.omppool").openmp_vendor)
check()
"""
    told, status, vendor = python(
        "import sys\nsys.stdout.reconfigure(line_buffering=True)" + DOUBLE + code,
        NUMBA_THREADING_LAYER="omp",
    ).splitlines()
    assert status == "7"
    if vendor == "GNU":
        assert told.startswith("this process was forked")
        assert "NUMBA_THREADING_LAYER=workqueue" in told
    else:
        assert told == "fine"


@needs_fork
def test_a_fork_while_another_thread_is_in_a_kernel(python):
    code = """
from miniattn.kernels.compile import settings as _runtime
check()
held, done = threading.Event(), threading.Event()
def hold():
    with _runtime._pool.lock:
        held.set(); done.wait()
threading.Thread(target=hold).start()
held.wait()
child = os.fork()
if child == 0:
    check()  # would wait for a thread that the child does not have
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
done.set()
"""
    assert python(DOUBLE + code, NUMBA_THREADING_LAYER="workqueue", timeout=60).strip() == "7"


# ------------------------------------------------------------------------------- number of threads


def blas_threads():
    """The threads of NumPy's BLAS; SciPy brings another one, and Numba may have loaded it.

    Apple's BLAS has no number of threads.
    """
    ours = {blas["filepath"] for blas in runtime._blas().info()}
    return {pool["num_threads"] for pool in threadpool_info() if pool["filepath"] in ours}


@pytest.fixture
def all_threads():
    yield
    ma.set_num_threads(numba.config.NUMBA_NUM_THREADS)


def test_set_num_threads_holds_for_kernels_and_blas(all_threads):
    for n in (1, 2):
        ma.set_num_threads(n)
        assert ma.get_num_threads() == numba.get_num_threads() == n
        assert blas_threads() == {n}


def test_set_num_threads_holds_in_every_python_thread(all_threads):
    ma.set_num_threads(1)
    seen = []

    def work():
        double(np.ones(4), np.empty(4))  # a kernel's launch applies the number
        seen.append(numba.get_num_threads())
        seen.append(ma.get_num_threads())

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert seen == [1, 1]


def test_numbas_own_setting_wins_when_it_is_later(all_threads):
    ma.set_num_threads(1)
    numba.set_num_threads(2)
    double(np.ones(4), np.empty(4))
    assert ma.get_num_threads() == 2
    ma.set_num_threads(1)  # the same number again is not forgotten
    assert ma.get_num_threads() == 1


def test_threads_limits_inside_the_block_only(all_threads):
    ma.set_num_threads(2)
    with ma.threads(1):
        assert ma.get_num_threads() == 1
        assert blas_threads() == {1}
        with ma.threads(2):
            assert ma.get_num_threads() == 2
            assert blas_threads() == {2}
        assert ma.get_num_threads() == 1
        assert blas_threads() == {1}
    with pytest.raises(RuntimeError, match="inside"), ma.threads(1):
        raise RuntimeError("inside")
    assert ma.get_num_threads() == 2
    assert blas_threads() == {2}


@pytest.mark.parametrize(
    ("n", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (numba.config.NUMBA_NUM_THREADS + 1, ValueError),
        (1.0, TypeError),
        (True, TypeError),
        ("2", TypeError),
        (None, TypeError),
    ],
)
def test_bad_numbers_of_threads(n, error):
    before = ma.get_num_threads()
    with pytest.raises(error, match=r"^n: expected an int.*, got"):
        ma.set_num_threads(n)
    with pytest.raises(error, match=r"^n: expected an int.*, got"), ma.threads(n):
        pass
    assert ma.get_num_threads() == before


# ---------------------------------------------------------------------------------- kernels, flags


def test_a_kernel_looks_like_its_function():
    assert double.__name__ == "double"
    assert double.__module__ == __name__
    assert double.__wrapped__ is double.py_func


def test_flags_keep_nan_and_infinity():
    assert not _runtime.FASTMATH & {"fast", "nnan", "ninf"}
    options = double.dispatcher.targetoptions
    assert options["fastmath"] == _runtime.FASTMATH
    assert options["error_model"] == "numpy"
    assert options["nogil"]
    assert options["parallel"]


def test_without_the_compiler_a_kernel_says_so(python):
    """And everything else works."""
    code = """
import numpy as np
import miniattn as ma
from miniattn import functional as F, masks, reference
x = np.ones((2, 2, 3, 4))
reference.attention(x, x, x, mask=masks.causal())
ma.runtime.config()
for call in (lambda: F.softmax(x), lambda: F.relu(x), lambda: F.attention(x, x, x)):
    try:
        call()
    except RuntimeError as error:
        print(error)
"""
    shown = python(code, NUMBA_DISABLE_JIT="1").splitlines()
    assert len(shown) == 3
    assert len(set(shown)) == 1
    assert shown[0].startswith("NUMBA_DISABLE_JIT is set")
    assert "miniattn.reference" in shown[0]


# -------------------------------------------------------------------------- show_config and warmup


def test_show_config_names_what_is_in_use(capsys):
    ma.show_config()
    shown = capsys.readouterr().out
    lines = dict(line.split("  ", 1) for line in shown.splitlines())
    assert lines["miniattn"].strip() == ma.__version__
    assert lines["threading layer"].strip() == _threads.layer()
    assert lines["threads"].split()[0] == str(ma.get_num_threads())
    assert "float32" in lines["registers"]


def test_warmup_refuses_other_dtypes():
    with pytest.raises(TypeError, match=r"^dtypes: expected float32 or float64, got 'float16'"):
        ma.warmup(dtypes=["float16"])


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["0", None, "emulate"])
def test_warmup_compiles_every_kernel_and_keeps_it(python, unit):
    """With a matrix unit, without, and where everything is left to it that can be."""
    code = """
import importlib, pkgutil
import miniattn as ma
from miniattn import kernels
from miniattn.kernels.compile.settings import Kernel
from miniattn.kernels.compile.target import UNIT
ma.warmup(progress=False)
for module in pkgutil.iter_modules(kernels.__path__):
    if module.name == "peak":  # what benchmarks measure the others by; no operation needs it
        continue
    if module.name.endswith("_amx") and not UNIT.used:
        continue
    for name, value in vars(importlib.import_module(f"miniattn.kernels.{module.name}")).items():
        if isinstance(value, Kernel) and not value.dispatcher.overloads:
            print(module.name, name)
        if isinstance(value, Kernel):
            for signature in value.dispatcher.overloads:
                codegen = value.dispatcher.targetdescr.target_context.codegen()
                if not value._cache._path(signature, codegen).is_file():
                    print(module.name, name, "is not kept")
"""
    settings = {"MINIATTN_AMX": unit} | ({"MINIATTN_LANES": None} if unit == "emulate" else {})
    assert python(code, timeout=900, **settings) == ""
