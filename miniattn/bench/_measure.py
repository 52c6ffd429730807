"""Every library in a process of its own, one after the other, round by round."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from miniattn.bench import _cases
from miniattn.bench._cases import Case

WORKER = Path(__file__).parent / "worker"
# Read when a library is loaded, so they are set before the process starts.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


class Library:
    """A library in a child process: what it is, and a way to ask it for measurements.

    Attributes
    ----------
    version : str or None
        None where the library is not installed.
    missing : str or None
        The module that was not found.
    """

    def __init__(self, name: str, python: str, threads: int) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [python, str(WORKER), name, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=_environment(name, threads),
        )
        hello = self._read()
        self.version: str | None = hello.get("version")
        self.missing: str | None = hello.get("missing") or hello.get("error")

    @property
    def pid(self) -> int:
        """The number of the child process."""
        return self._process.pid

    def ask(self, case: Case, seconds: float, *, memory: bool = False) -> dict[str, Any]:
        """Return {"times": [...]}, {"absent": True} or {"error": "..."}."""
        request = json.dumps({"case": case, "seconds": seconds, "memory": memory})
        with contextlib.suppress(BrokenPipeError):
            self._requests.write(request + "\n")
        return self._read()

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):
            self._requests.close()
        self._process.wait()
        self._answers.close()

    @property
    def _requests(self) -> Any:
        return self._process.stdin

    @property
    def _answers(self) -> Any:
        return self._process.stdout

    def _read(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line:
            return {"error": f"{self.name} ended with status {self._process.wait()}"}
        answer: dict[str, Any] = json.loads(line)
        return answer


def _environment(name: str, threads: int) -> dict[str, str]:
    """Return the environment of a child that shall use ``threads`` threads."""
    environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads))
    if name == "jax":
        environment["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()}"
        environment["NPROC"] = str(threads)  # the size of XLA's pool
        environment["JAX_PLATFORMS"] = "cpu"
    if name == "miniattn":  # this very package, installed or not
        root = str(Path(__file__).parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    return environment


def start(
    names: list[str], pythons: Mapping[str, str], threads: int
) -> tuple[list[Library], dict[str, str]]:
    """Return the libraries that are installed, and of the others what was not found."""
    libraries = [Library(name, pythons.get(name, sys.executable), threads) for name in names]
    for library in libraries:
        if library.version is None:
            library.close()
    missing = {x.name: str(x.missing) for x in libraries if x.version is None}
    return [x for x in libraries if x.version is not None], missing


def compare(
    libraries: list[Library],
    case: Case,
    *,
    rounds: int,
    seconds: float,
    machine: "Machine | None" = None,
) -> dict[str, dict[str, Any]]:
    """Return, by library, the times of ``rounds`` rounds in each of which all take their turn.

    In turn, because a machine that others use too is now slower and now faster: what it does
    to one library it does to all. With ``machine``, a round that somebody else's work disturbed
    is taken again, up to twice as many times as rounds are wanted.
    """
    found: dict[str, dict[str, Any]] = {library.name: {"rounds": []} for library in libraries}
    taken, tries = 0, 3 * rounds
    while taken < rounds:
        answers = {x.name: x.ask(case, seconds) for x in libraries if "rounds" in found[x.name]}
        undisturbed = machine is None or machine.is_free()
        if undisturbed or tries <= rounds - taken:  # better a disturbed round than none
            _collect(found, answers)
            taken += 1
        tries -= 1
    return found


def _collect(found: dict[str, dict[str, Any]], answers: Mapping[str, dict[str, Any]]) -> None:
    for name, answer in answers.items():
        if "times" in answer:
            found[name]["rounds"].append(answer["times"])
        else:
            found[name] = answer  # absent, or an error


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep so many other processes computing meanwhile."""
    command = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


class Machine:
    """What the processor can do, and whether somebody else is using it just now.

    Attributes
    ----------
    peak : float
        Floating-point operations a second of multiply-adds in registers, all threads; the
        fastest seen.
    """

    SLOWER = 1.1  # than the fastest: another program has one of the cores
    PATIENCE = 5.0  # seconds

    def __init__(self, threads: int) -> None:
        from miniattn.kernels import peak
        from miniattn.kernels import registers as simd
        from miniattn.kernels.dense import panels as tiles

        self._library = Library("miniattn", sys.executable, threads)
        case = _cases.PEAK
        tile = peak.ROWS * tiles.WIDE * simd.LANES
        self._operations = 2 * threads * case["rows"] * case["n"] * tile
        self.peak = 0.0
        for _ in range(5):
            self._speed()

    def is_free(self) -> bool:
        """Return whether the multiply-adds run at full speed; if not, wait until they do."""
        free = self.peak < self.SLOWER * self._speed()
        end = time.monotonic() + self.PATIENCE
        while not free and time.monotonic() < end and self.peak > self.SLOWER * self._speed():
            time.sleep(0.2)
        return free

    def close(self) -> None:
        """End the process."""
        self._library.close()

    def _speed(self) -> float:
        # Longer than the threads of other libraries spin after their last call: a few 10 ms.
        answer = self._library.ask(_cases.PEAK, 0.1)
        speed = self._operations / statistics.median(answer["times"])
        self.peak = max(self.peak, speed)
        return float(speed)


def alone(name: str, python: str, threads: int, case: Case, seconds: float) -> dict[str, Any]:
    """Return times and peak memory of a case, measured in a process started for it."""
    library = Library(name, python, threads)
    try:
        if library.version is None:
            return {"absent": True}
        return library.ask(case, seconds, memory=True)
    finally:
        library.close()
