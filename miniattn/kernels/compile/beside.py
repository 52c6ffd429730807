"""Another process beside this one: it compiles what this one will need next.

The first operation of all needs two kernels, its own and the launcher that runs it in threads. On
two cores they are compiled side by side.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from miniattn.kernels.compile.cache import folder

_COMMAND = "from miniattn.kernels.compile.launch import load_launcher; load_launcher()"


class _Once:
    """Whether the launcher was seen to, by this process or by one that started it."""

    done = False


def done() -> None:
    """Say that somebody else sees to the launcher."""
    _Once.done = True


@contextlib.contextmanager
def launcher() -> Iterator[None]:
    """Have another process compile the launcher meanwhile, unless somebody has or the disk has it.

    Where that process fails, this one compiles it at its first use.
    """
    process = None if _Once.done else _begin()
    _Once.done = True
    try:
        yield
    except BaseException:
        if process is not None:
            process.kill()
        raise
    finally:
        if process is not None:
            process.wait()


def _begin() -> subprocess.Popen[str] | None:
    from miniattn.kernels.compile.launch import launcher_is_kept  # which imports what imports this

    if cores() < 2 or folder() is None or not sys.executable or launcher_is_kept():
        return None
    with contextlib.suppress(OSError):
        return run(_COMMAND, subprocess.DEVNULL)
    return None


def run(code: str, ends: int) -> subprocess.Popen[str]:
    """Start a Python that finds the same modules as this one; what it says of errors is lost.

    ``ends`` says what it reads and writes.
    """
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
    command = [sys.executable, "-c", code]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, env=env, text=True, stdin=ends, stdout=ends, stderr=quiet)


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
