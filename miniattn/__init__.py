"""miniattn: attention that you can read, run and see.

NumPy arrays in, NumPy arrays out; Numba-JIT parallel kernels underneath; every gradient by hand.

    import miniattn as ma
    import miniattn.functional as F
    from miniattn import masks, nn
"""

import importlib
from types import ModuleType

from miniattn import functional, masks, nn
from miniattn._warmup import warmup
from miniattn.gradcheck import GradcheckError, gradcheck
from miniattn.runtime import get_num_threads, set_num_threads, show_config, threads

__all__ = [
    "GradcheckError",
    "functional",
    "get_num_threads",
    "gradcheck",
    "masks",
    "nn",
    "set_num_threads",
    "show_config",
    "threads",
    "warmup",
]

__version__ = "0.1.0"

# Imported when first used, as in `ma.plot.heads(...)`: they cost time, or are seldom needed.
_LAZY = ("analysis", "checkpoint", "models", "optim", "plot", "reference", "trace", "training")


def __getattr__(name: str) -> ModuleType:
    if name in _LAZY:
        return importlib.import_module(f"miniattn.{name}")
    raise AttributeError(f"module 'miniattn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
