"""Which thread pool runs the kernels, and how many Python threads may enter it at once.

`pip install numba` on Linux picks GNU OpenMP, whose workers spin after each kernel: a small
kernel that alternates with `np.matmul` was measured at 18 times the time of its parts. OpenMP
also kills a forked child, and the ``workqueue`` pool aborts the process when two Python threads
enter it. TBB does neither, but Numba doesn't find the library of the ``tbb`` wheel by itself.
"""

import contextlib
import ctypes
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
    """
    layer = str(config.THREADING_LAYER).lower()
    if layer == "default":
        layer = config.THREADING_LAYER_PRIORITY[0]
    if layer == "workqueue" or (layer != "omp" and load_tbb()):
        return
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


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
