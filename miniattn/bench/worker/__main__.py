"""One library in a process of its own: ``python miniattn/bench/worker LIBRARY THREADS``.

Requests come as lines of JSON on the standard input, answers go as lines to the standard output.
Nothing here imports miniattn but `with_miniattn`, so that the Python of another environment, where
only that other library lives, can run it too.
"""

import contextlib
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data import Case, arrays

MOST_SAMPLES = 5000
STATUS = Path("/proc/self/status")


class Worker:
    """Answers requests with the library that ``library`` wraps."""

    def __init__(self, library: Any, threads: int) -> None:
        self.library = library
        self.threads = threads
        self.case: Case | None = None
        self.call: Callable[[], Any] | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the samples of one round, or that the library has no such operation."""
        case = request["case"]
        if case != self.case:
            self.case = self.call = None  # frees the arrays of the last case first
            self.call = self.build(case)
            self.case = case
            if self.call and not request["memory"]:
                self.call()  # compiles, where something is to be compiled
        if self.call is None:
            return {"absent": True}
        if not request["memory"]:
            return samples(self.call, request["seconds"])
        self.warm_up(case)
        return peak_memory(self.call, request["seconds"])

    def build(self, case: Case) -> Callable[[], Any] | None:
        """Return the call that is measured, with its inputs made."""
        return self.library.build(case, arrays(case), self.threads)

    def warm_up(self, case: Case) -> None:
        """Run a small case of the same kind: compilers and thread pools take memory too."""
        call = self.build({**case, "T": 128, "S": 128})
        if call is not None:
            call()


def samples(call: Callable[[], Any], seconds: float) -> dict[str, Any]:
    """Return the times of single calls, taken for ``seconds``; the first tenth is to warm up."""
    times: list[float] = []
    warm = 0  # samples taken while threads wake up and caches fill
    begin = time.perf_counter()
    while len(times) < MOST_SAMPLES:
        start = time.perf_counter()
        call()
        stop = time.perf_counter()
        times.append(stop - start)
        if stop - begin < seconds / 10:
            warm += 1
        # Three at least, but for calls that take longer than all three were meant to.
        enough = len(times) - warm >= 3 or stop - start > 3 * seconds
        if enough and stop - begin > seconds:
            break
    return {"times": times[warm:]}


def peak_memory(call: Callable[[], Any], seconds: float) -> dict[str, Any]:
    """Return the times of calls, and the memory of the first beyond its inputs and results."""
    _reset_peak()
    before = _status("VmRSS")
    start = time.perf_counter()
    results = call()
    first = time.perf_counter() - start
    extra = max(0, _status("VmHWM") - before - _bytes(results))
    del results
    times = [first] if first > seconds else samples(call, seconds)["times"]
    return {"times": times, "bytes": extra if STATUS.exists() else None}


def _bytes(results: Any) -> int:
    if isinstance(results, dict):
        results = list(results.values())
    if isinstance(results, tuple | list):
        return sum(_bytes(r) for r in results)
    return getattr(results, "nbytes", 0)


def _reset_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from VmRSS


def _status(name: str) -> int:
    if not STATUS.exists():
        return 0
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


def main() -> None:
    """Serve requests until the standard input ends."""
    name, threads = sys.argv[1], int(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not come between the answers
    try:
        library = importlib.import_module(f"with_{name}")
    except ModuleNotFoundError as error:
        print(json.dumps({"missing": error.name}), file=answers)
        return
    print(json.dumps({"version": library.VERSION}), file=answers)
    worker = Worker(library, threads)
    for line in sys.stdin:
        try:
            answer = worker.answer(json.loads(line))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:120]}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
