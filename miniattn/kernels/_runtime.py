"""The one place for Numba settings: flags, cache, threading layer, locks."""

from collections.abc import Callable
from typing import Any

import numba

# Never `True`: nnan and ninf would delete the handling of NaN and -inf that masks rely on.
FASTMATH = {"nsz", "arcp", "contract", "afn", "reassoc"}


def inner(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Compile a helper that kernels call; it is inlined by LLVM and has no loop of its own threads."""

    def decorate(f: Callable[..., Any]) -> Any:
        settings = {"fastmath": FASTMATH, "error_model": "numpy", "nogil": True, "cache": True}
        return numba.njit(**{**settings, **options})(f)

    return decorate if function is None else decorate(function)


def kernel(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Compile a parallel kernel that Python calls."""
    options.setdefault("parallel", True)
    return inner(function, **options)
