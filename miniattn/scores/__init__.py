"""Functions of scores: a score in, a score out, compiled with its backward half and fused.

::

    @scores.function
    def relative(s, b, h, i, j, table):
        return s + table[h, j - i + 31]

    @relative.backward
    def _(ds, s, b, h, i, j, table, dtable):
        dtable[h, j - i + 31] += ds
        return ds

    out, ctx = F.attention_forward(q, k, v, score=relative(table))
    grads = F.attention_backward(dout, ctx)              # grads.dscore: one array for each table

Numba compiles the two functions alone, as loops over a tile of scores, which the kernels of
attention call; nothing of size T x S exists. Ready-made: `alibi`, `t5_bias`, `relative`,
`decay` and `softcap`.

This module loads no Numba: that comes with the first call.
"""

from miniattn import _lazy
from miniattn.scores._function import Score, ScoreFunction, by_distance, function
from miniattn.scores._ready import alibi, decay, relative, softcap, t5_bias

__all__ = [
    "Score",
    "ScoreFunction",
    "alibi",
    "by_distance",
    "decay",
    "function",
    "relative",
    "softcap",
    "t5_bias",
]

__dir__ = _lazy.listed(__name__, __all__)
