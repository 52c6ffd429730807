"""Several kernels compiled at once, in a process for each core, before they are asked for.

Numba compiles in one thread, and whoever calls ten operations for the first time waits for ten
kernels in turn. Which ones are needed is found out by a rehearsal: another process makes the calls
without running a kernel, so that results hold anything, and notes which tasks were asked for. What
is not on disk yet is dealt out, to this process and to others, which put it there.
"""

import contextlib
import importlib
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple, cast

import numpy as np
from numpy.typing import DTypeLike

from miniattn.kernels.compile import beside
from miniattn.kernels.compile.cache import folder
from miniattn.kernels.compile.launch import load_launcher
from miniattn.kernels.compile.settings import Kernel, Task


class Job(NamedTuple):
    """A task to be compiled: what another process finds it by."""

    module: str
    name: str
    dtype: str

    def task(self) -> Task:
        """Return the task."""
        found: Task = getattr(importlib.import_module(self.module), self.name)
        return found

    def is_kept(self) -> bool:
        """Return whether there is nothing to be done."""
        return self.task().is_kept(np.dtype(self.dtype))

    def do(self) -> None:
        """Compile it, or load what was kept."""
        self.task().address(np.dtype(self.dtype))


def compile_ahead(rehearsal: str, argument: str = "", *, cores: int | None = None) -> None:
    """Compile on all cores what a rehearsal asks for and the disk hasn't.

    One line on stderr says so, none if there is nothing to be done. Nothing is, either, where
    nothing is kept on disk or a single core has to do it all.

    Parameters
    ----------
    rehearsal : str
        ``module:function`` that makes the calls, given ``argument``.
    argument : str
        What it is told.
    cores : int, optional
        How many processes there may be; as many as cores.
    """
    cores = beside.cores() if cores is None else cores
    if cores < 2 or folder() is None:
        return
    beside.done()  # this one loads it below
    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(_helper(rehearsal, argument))
        count = first.answer()
        jobs = deque(Job(*first.answer().split()) for _ in range(int(count or 0)))
        if not jobs:
            return
        print(f"miniattn: compiling {len(jobs)} kernels, once ...", end="", file=sys.stderr)
        sys.stderr.flush()
        more = min(cores - 1, len(jobs)) - 1
        helpers = [first, *(stack.enter_context(_helper()) for _ in range(more))]
        threads = [threading.Thread(target=helper.work, args=(jobs,)) for helper in helpers]
        for thread in threads:
            thread.start()
        load_launcher()  # no task is run without it
        with contextlib.suppress(IndexError):  # when none is left
            while True:
                jobs.popleft().do()
        for thread in threads:
            thread.join()
    print(f" {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


# --- In the other process ------------------------------------------------------------------------


def serve(rehearsal: str, argument: str) -> None:
    """Say what a rehearsal lacks, if there is one; then compile what comes in, a line a job."""
    beside.done()
    if rehearsal:
        module, _, function = rehearsal.partition(":")
        jobs = wanted(lambda: getattr(importlib.import_module(module), function)(argument))
        missing = [job for job in jobs if not job.is_kept()]
        print(len(missing), *(" ".join(job) for job in missing), sep="\n", flush=True)
    for line in sys.stdin:
        Job(*line.split()).do()
        print("done", flush=True)


def wanted(calls: Callable[[], object]) -> list[Job]:
    """Return which tasks calls would run, each once; results of theirs hold anything.

    For a process of its own: another thread's calls would not be run either.
    """
    found: dict[Job, None] = {}

    def address(task: Task, dtype: DTypeLike) -> int:
        name, module = task.py_func.__name__, task.py_func.__module__
        if getattr(sys.modules[module], name, None) is task:  # and not made by a function
            found[Job(module, name, np.dtype(dtype).name)] = None
        return 0

    def call(kernel: Kernel, *args: object) -> None:
        pass

    as_ever = Task.address, Kernel.__call__
    Task.address, Kernel.__call__ = address, call  # type: ignore[assignment, method-assign]
    try:
        with contextlib.suppress(Exception):  # of results that hold anything
            calls()
    finally:
        Task.address, Kernel.__call__ = as_ever  # type: ignore[method-assign]
    return list(found)


# --- In this one ---------------------------------------------------------------------------------


class _Helper:
    """Another process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.asks = cast(IO[str], process.stdin)
        self.answers = cast(IO[str], process.stdout)

    def answer(self) -> str:
        """Return its next line; "" once it has died."""
        return self.answers.readline().strip()

    def work(self, jobs: deque[Job]) -> None:
        """Hand out jobs, one at a time, while they are done; others are compiled where used."""
        with contextlib.suppress(IndexError, OSError):
            while True:
                print(*jobs.popleft(), file=self.asks, flush=True)
                if not self.answer():
                    return


@contextlib.contextmanager
def _helper(rehearsal: str = "", argument: str = "") -> Iterator[_Helper]:
    code = f"from {__name__} import serve; serve{rehearsal, argument}"
    process = beside.run(code, subprocess.PIPE)
    try:
        yield _Helper(process)
    finally:
        process.kill()  # idle by now, unless this process was interrupted
        process.communicate()
