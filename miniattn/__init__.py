"""miniattn: attention that you can read, run and see.

NumPy arrays in, NumPy arrays out; Numba-JIT parallel kernels underneath; every gradient by hand.

    import miniattn as ma
    import miniattn.functional as F
    from miniattn import masks, nn
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from miniattn._warmup import warmup
from miniattn.gradcheck import GradcheckError, gradcheck
from miniattn.runtime import get_num_threads, set_num_threads, show_config, threads

if TYPE_CHECKING:  # submodules are imported at their first use, by __getattr__
    from miniattn import (
        analysis,
        bridges,
        checkpoint,
        data,
        functional,
        losses,
        masks,
        models,
        nn,
        optim,
        plot,
        reference,
        trace,
        training,
    )

__all__ = [
    "GradcheckError",
    "analysis",
    "bridges",
    "checkpoint",
    "data",
    "functional",
    "get_num_threads",
    "gradcheck",
    "losses",
    "masks",
    "models",
    "nn",
    "optim",
    "plot",
    "reference",
    "set_num_threads",
    "show_config",
    "threads",
    "trace",
    "training",
    "warmup",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> ModuleType:
    """Import a public submodule: `import miniattn` costs hardly more than `import numba`."""
    if name in __all__:
        return importlib.import_module(f"miniattn.{name}")
    raise AttributeError(f"module 'miniattn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
