"""Which thread pool runs the kernels, and how many Python threads may enter it at once.

`pip install numba` on Linux picks GNU OpenMP, whose workers spin after each kernel: a small
kernel that alternates with `np.matmul` was measured at 18 times the time of its parts. OpenMP
also kills a forked child, and the ``workqueue`` pool aborts the process when two Python threads
enter it. TBB does neither, but Numba doesn't find the library of the ``tbb`` wheel by itself, and
on one processor it can hang when the process ends.
"""

import contextlib
import ctypes
import importlib
import importlib.metadata
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numba
from numba.core import config


def prepare() -> None:
    """Load TBB unless the user chose another layer; without it, make OpenMP's workers sleep.

    Numba decides at its first parallel launch, and looks for TBB by the name of its library:
    one that the process has already loaded is found.

    On one processor TBB has no workers. What Numba leaves for them to do at its first launch is
    waited for at the end, and if that launch was not in the main thread, for ever.
    """
    layer = str(config.THREADING_LAYER).lower()
    if layer == "default":
        layer = config.THREADING_LAYER_PRIORITY[0]
        if layer == "tbb" and processors() == 1:
            layer = config.THREADING_LAYER = "workqueue"
    if layer == "workqueue" or (layer != "omp" and load_tbb()):
        return
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load_tbb() -> bool:
    """Load the library of the ``tbb`` wheel; return whether there is one."""
    for path in _tbb_candidates():
        if path.is_file():
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(path))
                return True
    return False


def _tbb_candidates() -> Iterator[Path]:
    folder, name = {
        "win32": (Path("Library", "bin"), "tbb12.dll"),
        "linux": (Path("lib"), "libtbb.so.12"),
    }.get(sys.platform, (Path("lib"), "libtbb.12.dylib"))
    for prefix in dict.fromkeys((sys.prefix, sysconfig.get_path("data"))):
        yield Path(prefix, folder, name)
    # Installed elsewhere, as by `pip install --user` or `--target`: ask the wheel's record.
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("tbb") or ():
            if file.name == name:
                yield Path(str(file.locate())).resolve()


def layer() -> str | None:
    """Return the threading layer in use, or None before the first parallel launch."""
    try:
        return str(numba.threading_layer())
    except ValueError:
        return None


def survives_fork() -> bool:
    """Return whether kernels can run in a child as well: all pools allow it but GNU OpenMP's."""
    if layer() != "omp":
        return True
    pool = importlib.import_module("numba.np.ufunc.omppool")
    return bool(pool.openmp_vendor != "GNU")
