"""What goes on inside a model: every intermediate by name, its gradient, and edits of it.

    y, t = trace.run(model, ids)
    t["blocks.layers.0.attn.weights"]           # a value
    g = t.gradients(dy)                         # the hand-written backward, once
    g["blocks.layers.0.attn.weights"]           # d loss / d that value
    y, t = trace.run(model, ids, edits={"blocks.layers.0.attn.heads": trace.at[:, 3](trace.zero)})

Read `_recorder.py` first: it sees a call, and `_undoing.py` the backward of it. `_taps.py` leads
them there, `_edits.py` has what they may do, `_trace.py` what is seen of it afterwards.
"""

from miniattn import _lazy
from miniattn._tracing import point, point_backward
from miniattn.trace._contexts import attention_contexts, attention_weights
from miniattn.trace._edits import Edit, add, at, freeze, scale, zero
from miniattn.trace._trace import Gradients, Trace, edited, run

__all__ = [
    "Edit",
    "Gradients",
    "Trace",
    "add",
    "at",
    "attention_contexts",
    "attention_weights",
    "edited",
    "freeze",
    "point",
    "point_backward",
    "run",
    "scale",
    "zero",
]

__dir__ = _lazy.listed(__name__, __all__)
