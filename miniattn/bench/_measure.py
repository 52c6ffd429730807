"""Every library in a process of its own, one after the other, round by round."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    libraries: list[Library], case: Case, *, rounds: int, seconds: float
) -> dict[str, dict[str, Any]]:
    """Return, by library, the times of ``rounds`` rounds in each of which all take their turn.

    In turn, because a machine that others use too is now slower and now faster: what it does
    to one library it does to all.
    """
    found: dict[str, dict[str, Any]] = {}
    for _ in range(rounds):
        for library in libraries:
            before = found.setdefault(library.name, {"rounds": []})
            if "rounds" not in before:
                continue  # absent, or an error
            answer = library.ask(case, seconds)
            if "times" in answer:
                before["rounds"].append(answer["times"])
            else:
                found[library.name] = answer
    return found


def alone(name: str, python: str, threads: int, case: Case, seconds: float) -> dict[str, Any]:
    """Return times and peak memory of a case, measured in a process started for it."""
    library = Library(name, python, threads)
    try:
        if library.version is None:
            return {"absent": True}
        return library.ask(case, seconds, memory=True)
    finally:
        library.close()
