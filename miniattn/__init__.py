"""miniattn: attention that you can read, run and see.

NumPy arrays in, NumPy arrays out; Numba-JIT parallel kernels underneath; every gradient by hand.

    import miniattn as ma
    import miniattn.functional as F
    from miniattn import masks, nn
"""

from typing import TYPE_CHECKING

from miniattn import _lazy

if TYPE_CHECKING:  # imported at their first use
    from miniattn import (
        analysis,
        bridges,
        checkpoint,
        data,
        distributed,
        estimators,
        functional,
        lab,
        losses,
        masks,
        models,
        nn,
        optim,
        plot,
        reference,
        runtime,
        scores,
        trace,
        training,
    )
    from miniattn._gradcheck import GradcheckError, gradcheck
    from miniattn._warmup import warmup
    from miniattn.runtime import get_num_threads, set_num_threads, show_config, threads

__all__ = [
    "GradcheckError",
    "analysis",
    "bridges",
    "checkpoint",
    "data",
    "distributed",
    "estimators",
    "functional",
    "get_num_threads",
    "gradcheck",
    "lab",
    "losses",
    "masks",
    "models",
    "nn",
    "optim",
    "plot",
    "reference",
    "runtime",
    "scores",
    "set_num_threads",
    "show_config",
    "threads",
    "trace",
    "training",
    "warmup",
]

__version__ = "0.1.0"

if not TYPE_CHECKING:  # else every misspelt name would be one to a type checker
    __getattr__, __dir__ = _lazy.names(__name__, __all__, ("runtime", "_gradcheck", "_warmup"))
