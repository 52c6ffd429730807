"""Beyond one process: training on several, with MPI between them or simulated.

Ranks are processes that `mpiexec` started, with mpi4py between them, or threads of one process
(`simulate`) that run the same code one after another, for the tests, for a laptop, and to look at.

Read `_comm` (what ranks say to each other), then `_sums` (data parallel, both directions).
"""

from typing import TYPE_CHECKING

from miniattn import _lazy

if TYPE_CHECKING:  # imported at their first use
    from miniattn.distributed._comm import Comm
    from miniattn.distributed._layout import collect, positions, share
    from miniattn.distributed._process import world
    from miniattn.distributed._simulate import Simulation, Span, simulate

__all__ = ["Comm", "Simulation", "Span", "collect", "positions", "share", "simulate", "world"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = _lazy.names(
        __name__, __all__, ("_comm", "_layout", "_process", "_simulate")
    )
