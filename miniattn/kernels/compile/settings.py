"""The one place for Numba settings: flags, cache, threading layer, locks."""

import contextlib
import functools
import os
import threading
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.core import config, types
from numba.core.compiler import Compiler, CompilerBase
from numba.core.imputils import lower_constant
from numba.extending import models, register_model
from numba.np.ufunc import parallel

from miniattn.kernels.compile import beside, threads
from miniattn.kernels.compile.cache import KernelCache
from miniattn.kernels.compile.compiler import (
    HelperCompiler,
    PlainCompiler,
    TaskCompiler,
    forget_python,
    without_collector,
)

# Never `True`: nnan and ninf would delete the handling of NaN and -inf that masks rely on.
FASTMATH = {"nsz", "arcp", "contract", "afn", "reassoc"}

threads.prepare()


def inner(
    function: Callable[..., Any] | None = None, *, apart: bool = False, **options: Any
) -> Any:
    """Compile a helper that kernels call; LLVM inlines it, and it has no threads of its own.

    Called by Python it runs as the Python that it is. What is seldom called, and long, is kept
    ``apart``, as a function of its own: kernels are smaller without it, and compiled sooner.
    """
    return _decorator(_Apart if apart else _Plain, options)(function)


def kernel(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Compile a parallel kernel that Python calls: cached on disk, safe from several threads."""
    return _decorator(Kernel, {"parallel": True, **options})(function)


def task(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Compile what `launch.launch` runs in several threads side by side.

    A task is called as ``function(sizes, factors, operands, queue, scratch)``: pointers to int64,
    float64, int64, int64 and to scratch memory of its own, whose dtype is the operands'.
    """
    return _decorator(Task, {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, **options})(
        function
    )


def _decorator(kind: type["Inner"], options: dict[str, Any]) -> Callable[..., Any]:
    settings = {"fastmath": FASTMATH, "error_model": "numpy", "nogil": True, **options}

    def decorate(function: Callable[..., Any] | None) -> Any:
        return decorate if function is None else kind(function, settings)

    return decorate


def jit(function: Callable[..., Any], **options: Any) -> Any:
    """Return what Numba makes of a function."""
    if config.DISABLE_JIT:
        raise RuntimeError(
            "NUMBA_DISABLE_JIT is set, and the kernels of miniattn need Numba's compiler: they "
            "work on registers, which Python has not. The same operations in plain NumPy are in "
            "miniattn.reference."
        )
    return numba.njit(**options)(function)


class _InnerType(numba.types.Dispatcher):
    """Calls of an inner function: compiled for the types of arguments, not for their values.

    Numba would compile ``f(x, 1)`` and ``f(x, 2)`` apart, which doubled what attention takes.
    """

    def get_call_type(self, context: Any, args: Any, kws: Any) -> Any:
        args = [numba.types.unliteral(a) for a in args]
        kws = {name: numba.types.unliteral(a) for name, a in kws.items()}
        return super().get_call_type(context, args, kws)


register_model(_InnerType)(models.OpaqueModel)


@lower_constant(_InnerType)
def _stand_in(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Lower an inner function that is handed to another: nobody looks at it, only at its type.

    Numba would put the address of the Python object there, and code with an address of this process
    in it cannot be kept for the next.
    """
    return context.get_dummy_value()


class Inner:
    """A function for Numba, which is told of it at its first use: that takes 0.2 ms each."""

    compiler: type[CompilerBase] = HelperCompiler

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        self.py_func = function
        self.options = options
        functools.update_wrapper(self, function)

    @functools.cached_property
    def dispatcher(self) -> Any:
        """What Numba makes of the function."""
        return forget_python(jit(self.py_func, pipeline_class=self.compiler, **self.options))

    @property
    def _numba_type_(self) -> Any:
        return _InnerType(self.dispatcher)  # Numba asks when it compiles a caller

    def __call__(self, *args: Any) -> Any:
        """Run the Python that it is."""
        return self.py_func(*args)


class _Plain(Inner):
    """A helper of kernels, in the plain Python that they are written in."""

    compiler = PlainCompiler


class _Apart(_Plain):
    """One that is not inlined."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        super().__init__(function, options)
        function.is_apart = True  # type: ignore[attr-defined]  # the compiler asks


class Kernel(Inner):
    """A kernel as Python calls it: one launch at a time where the thread pool demands that."""

    compiler = Compiler

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        super().__init__(function, options)
        self._cache = KernelCache(function, options)

    @functools.cached_property
    def dispatcher(self) -> Any:
        """What Numba makes of the function, with the cache on disk."""
        dispatcher = jit(self.py_func, pipeline_class=self.compiler, **self.options)
        dispatcher._cache = self._cache
        return dispatcher

    def keeps(self, arguments: tuple[Any, ...]) -> bool:
        """Return whether the machine code for arguments of these types is at hand, or on disk."""
        if arguments in self.dispatcher.overloads:
            return True
        return self._cache.keeps(arguments, self.dispatcher.targetctx.codegen())

    def __call__(self, *args: Any) -> Any:
        """Run the compiled kernel, alone where the thread pool demands that."""
        if _pool.concurrent and _thread.limit is _pool.limit:
            return self.dispatcher(*args)
        return _guarded(self.dispatcher, args)


class Task(Kernel):
    """A function without a parallel region of its own, known by its address."""

    compiler = TaskCompiler

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        super().__init__(function, options)
        self._addresses: dict[Any, int] = {}

    def address(self, dtype: Any) -> int:
        """Return where the machine code for ``dtype`` lies; compiled at the first request."""
        found = self._addresses.get(dtype)
        if found is None:
            found = self._addresses[dtype] = self._compile(dtype)
        return found

    def is_kept(self, dtype: Any) -> bool:
        """Return whether the machine code for ``dtype`` is at hand, or on disk."""
        return dtype in self._addresses or self.keeps(self._arguments(np.dtype(dtype)))

    def _arguments(self, dtype: Any) -> tuple[Any, ...]:
        from miniattn.kernels.registers import Pointer

        integers, floats = Pointer(types.int64), Pointer(types.float64)
        return integers, floats, integers, integers, Pointer(numba.from_dtype(dtype))

    def _compile(self, dtype: Any) -> int:
        arguments = self._arguments(dtype)
        kept = self.keeps(arguments)
        with contextlib.nullcontext() if kept else beside.launcher(), without_collector():
            self.dispatcher.compile(arguments)
        result = self.dispatcher.overloads[arguments]
        return int(result.library.get_pointer_to_function(result.fndesc.llvm_func_name))


class _Limit:
    """A number of threads that was asked for; a new object each time, compared by identity."""

    def __init__(self, threads: int) -> None:
        self.threads = threads


class _Pool:
    """Numba's thread pool as far as it is known."""

    # Known to let several Python threads in at once. Unknown before the first launch, because
    # the user may choose the layer until then: so the first launch is guarded too.
    concurrent = False
    lost = False
    """Whether this process is a child, and its parent's pool one that is no good here."""
    limit: _Limit | None = None
    lock = threading.RLock()


class _Thread(threading.local):
    """Numba counts threads per Python thread; ours is one number for the process."""

    limit: _Limit | None = None


_pool = _Pool()
_thread = _Thread()


def _guarded(dispatcher: Any, args: tuple[Any, ...]) -> Any:
    if _pool.lost:
        raise RuntimeError(
            "this process was forked from one that had run kernels in threads of GNU OpenMP, which "
            "ends a child that does the same. Start it anew (multiprocessing's 'spawn'), or set "
            "NUMBA_THREADING_LAYER=workqueue, or install tbb."
        )
    with _pool.lock:
        _adopt_limit()
        try:
            return dispatcher(*args)
        finally:
            _pool.concurrent = threads.layer() in ("tbb", "omp")


def _adopt_limit() -> None:
    limit = _pool.limit
    if limit is not _thread.limit and limit is not None:
        numba.set_num_threads(limit.threads)
        _thread.limit = limit


def set_num_threads(n: int) -> None:
    """Let kernels use ``n`` threads, whichever Python thread calls them."""
    _pool.limit = _Limit(n)
    _adopt_limit()


def get_num_threads() -> int:
    """Return the number of threads that kernels use."""
    _adopt_limit()
    if _pool.concurrent:  # Numba's own function asks each time, under a lock, whether threads run
        return int(parallel._get_num_threads())
    return int(numba.get_num_threads())


def _after_fork() -> None:
    _pool.lock = threading.RLock()  # a thread that no longer exists may hold the old one
    if not threads.survives_fork():
        _pool.lost, _pool.concurrent = True, False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
