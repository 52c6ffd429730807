"""Threads, units of attention, and what this installation runs on."""

import contextlib
import functools
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import miniattn
from miniattn import _checks, _lazy, _memory, kernels

__all__ = [
    "config",
    "get_num_threads",
    "keep_memory",
    "set_num_threads",
    "show_config",
    "threads",
    "use",
]

__dir__ = _lazy.listed(__name__, __all__)


def set_num_threads(n: int) -> None:
    """Let the kernels and NumPy's BLAS use ``n`` threads from now on.

    Results are bitwise the same for any number of threads in the kernels; BLAS products may
    differ in the last bits. docs/bits.md says what else may change them.

    Parameters
    ----------
    n : int
        From 1 to the number of threads that Numba launched: ``NUMBA_NUM_THREADS``, by default
        the processors that this process may use.

    Raises
    ------
    TypeError, ValueError
        If ``n`` is not an int in that range.

    Notes
    -----
    The number holds for the whole process, whichever Python thread calls a kernel.
    `numba.set_num_threads`, in contrast, speaks for the calling Python thread alone; called
    later, it wins there until the next call of this function.

    Examples
    --------
    >>> import miniattn as ma
    >>> ma.set_num_threads(1)
    >>> ma.get_num_threads()
    1
    """
    n = thread_count("n", n)
    _blas().limit(limits=n)
    kernels.compile.settings.set_num_threads(n)


def get_num_threads() -> int:
    """Return how many threads the kernels use when this Python thread calls them."""
    return kernels.compile.settings.get_num_threads()


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """Limit the kernels and NumPy's BLAS to ``n`` threads inside a ``with`` block.

    Parameters
    ----------
    n : int
        As in `set_num_threads`.

    Raises
    ------
    TypeError, ValueError
        As `set_num_threads`, before anything is limited.

    Notes
    -----
    The limit holds for the whole process: BLAS libraries keep one number. Blocks may be nested,
    but not overlap in two Python threads.

    Examples
    --------
    >>> import miniattn as ma
    >>> with ma.threads(1):
    ...     ma.get_num_threads()
    1
    """
    n = thread_count("n", n)
    before = get_num_threads()
    with _blas().limit(limits=n):
        kernels.compile.settings.set_num_threads(n)
        try:
            yield
        finally:
            kernels.compile.settings.set_num_threads(before)


def show_config() -> None:
    """Print what this installation runs on: see `config`."""
    facts = config()
    width = max(map(len, facts))
    for name, fact in facts.items():
        print(f"{name:<{width}}  {fact}")


def config() -> dict[str, str]:
    """Return versions, processor, thread pools and the folder of compiled kernels, as text.

    The thread pool is started for this, so that the layer named is the one really in use.
    """
    import numba

    return {
        "miniattn": miniattn.__version__,
        "Python": f"{platform.python_version()} ({platform.system()} {platform.machine()})",
        "NumPy": np.__version__,
        "Numba": numba.__version__,
        "processor": _processor(),
        "registers": _registers(),
        "attention": _units(),
        "threads": f"{get_num_threads()} of {numba.config.NUMBA_NUM_THREADS}",
        "threading layer": str(kernels.compile.threads.layer()),
        "BLAS": _blas_libraries(),
        "compiled kernels": _compiled(),
    }


def keep_memory(n: int) -> None:
    """Keep up to ``n`` bytes of memory of results that are gone, for the results to come.

    Parameters
    ----------
    n : int
        Bytes, 2**28 by default; 0 gives all memory back as soon as a result is freed.

    Raises
    ------
    TypeError, ValueError
        If ``n`` is not an int of at least 0.

    Notes
    -----
    Fresh memory costs about a microsecond per 4 KiB when it is first written, more than most
    kernels take to fill it. What is kept now is given back by the call, whatever ``n`` is.

    Examples
    --------
    >>> import miniattn as ma
    >>> ma.runtime.keep_memory(2**26)
    >>> ma.runtime.keep_memory(2**28)
    """
    _memory.keep_memory(_checks.integer("n", n, least=0))


def use(name: str | None) -> "Choice":
    """Let one unit compute attention, of those that can; from now on, or in a ``with`` block.

    Parameters
    ----------
    name : {"matrix", "decode", "vector", "scalar", "whole", "auto"} or None
        ``matrix``: the matrix unit, on processors that have one, for float32 and more than four
        queries. ``decode``: kernels for up to four queries. ``vector``: the vector registers.
        ``scalar``: plain loops over queries and keys, many times slower, to read and to compare
        with. ``whole``: the one for other normalizers than softmax, and for these alone. ``auto``
        and None: the fastest, by the shape alone, as at first.

    Returns
    -------
    context manager
        What was chosen before is chosen again at the end of its ``with`` block.

    Raises
    ------
    TypeError
        If ``name`` is not a str or None.
    ValueError
        If no unit has that name.

    Notes
    -----
    A call that the unit cannot do is done as if nobody had chosen. All units give the same results
    but for rounding; docs/bits.md has more of that. The choice holds for the whole process, and
    for maps and weights too; those of softmax come from the vector registers by all units but
    ``scalar``.

    Examples
    --------
    >>> import numpy as np
    >>> import miniattn as ma
    >>> import miniattn.functional as F
    >>> x = np.eye(3)
    >>> with ma.runtime.use("vector"):
    ...     out = F.attention(x, x, x)
    >>> bool(np.allclose(out, F.attention(x, x, x)))
    True
    """
    from miniattn.kernels.attention import units

    if name is not None and not isinstance(name, str):
        raise TypeError(f"name: expected a str or None, got {type(name).__name__}")
    before = units.chosen()
    units.use(None if name == "auto" else name)
    return Choice(before)


class Choice(contextlib.AbstractContextManager["Choice"]):
    """A choice by `use`, which ends with its ``with`` block if it has one."""

    def __init__(self, before: str | None) -> None:
        self._before = before

    def __exit__(self, *error: object) -> None:
        """Choose again what was chosen before."""
        from miniattn.kernels.attention import units

        units.use(self._before)


def thread_count(name: str, n: object) -> int:
    """Return ``n`` if that many threads can be had."""
    import numba  # here, because reading this module needs no kernels

    count = _checks.integer(name, n, least=1)
    most = numba.config.NUMBA_NUM_THREADS
    if count > most:
        raise ValueError(f"{name}: expected an int <= {most} (NUMBA_NUM_THREADS), got {count}")
    return count


@functools.cache
def _blas() -> Any:
    """Return a controller of the BLAS libraries; kept, because the search takes milliseconds."""
    import threadpoolctl

    return threadpoolctl.ThreadpoolController().select(user_api="blas")


def _blas_libraries() -> str:
    libraries = [
        f"{blas['internal_api']} {blas['version']}, {blas['num_threads']} threads"
        for blas in _blas().info()
    ]
    return "; ".join(libraries) or "unknown"


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, {_processors()}"
    return f"{platform.processor() or platform.machine()}, {_processors()}"


def _processors() -> str:
    return f"{os.cpu_count()} logical processors"


def _registers() -> str:
    from miniattn.kernels.compile import target

    known = " ".join(
        name
        for name in ("avx", "avx2", "fma", "avx512f", "neon", "sve")
        if name in target.features()
    )
    unit = target.UNIT
    how = " (amx), emulated" if unit.emulated else " (amx)" if unit.used else ""
    return (
        f"{target.LANES} x float32, compiled for {target.name()}"
        + (f" with {known}" if known else "")
        + (f"; matrix unit{how}" if how else "")
    )


def _units() -> str:
    from miniattn.kernels.attention import units

    chosen = units.chosen()
    return "the fastest unit, by shape" if chosen is None else f"{chosen} unit, where it can"


def _compiled() -> str:
    folder = kernels.compile.cache.folder()
    if folder is None:
        return "not kept"
    try:
        found = kernels.compile.cache.entries(folder)
    except FileNotFoundError:
        found = []
    except OSError as error:
        return f"not kept: {error}"
    sizes = [
        status.st_size for path, status in found if path.suffix == kernels.compile.cache.SUFFIX
    ]
    return f"{folder} ({len(sizes)} kernels, {sum(sizes) / 2**20:.1f} MB)"
