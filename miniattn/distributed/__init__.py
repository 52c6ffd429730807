"""Beyond one process: training and attention on several, with MPI between them or simulated.

Ranks are processes that `mpiexec` started, with mpi4py between them, or threads of one process
(`simulate`) that run the same code one after another, for the tests, for a laptop, and to look at.

Read `_comm` (what ranks say to each other), then `_sums` (data parallel), `_blocks` and `_ring`
(sequence parallel), `_heads` (head parallel): each way is one file, both directions.
"""

from typing import TYPE_CHECKING

from miniattn import _lazy

if TYPE_CHECKING:  # imported at their first use
    from miniattn.distributed._blocks import BiasFunction
    from miniattn.distributed._comm import Comm
    from miniattn.distributed._heads import (
        HeadAttentionContext,
        HeadAttentionGrads,
        head_attention,
        head_attention_backward,
        head_attention_forward,
    )
    from miniattn.distributed._layout import collect, positions, share
    from miniattn.distributed._process import world
    from miniattn.distributed._record import Recorded
    from miniattn.distributed._ring import (
        RingAttentionContext,
        RingAttentionGrads,
        ring_attention,
        ring_attention_backward,
        ring_attention_forward,
    )
    from miniattn.distributed._simulate import Simulation, Span, simulate

__all__ = [
    "BiasFunction",
    "Comm",
    "HeadAttentionContext",
    "HeadAttentionGrads",
    "Recorded",
    "RingAttentionContext",
    "RingAttentionGrads",
    "Simulation",
    "Span",
    "collect",
    "head_attention",
    "head_attention_backward",
    "head_attention_forward",
    "positions",
    "ring_attention",
    "ring_attention_backward",
    "ring_attention_forward",
    "share",
    "simulate",
    "world",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = _lazy.names(
        __name__,
        __all__,
        # Those that need no kernel first.
        ("_comm", "_layout", "_process", "_simulate", "_record", "_blocks", "_heads", "_ring"),
    )
