"""Calls of attention whose numbers float32 cannot hold on the way: done in float64, then rounded.

Scores of 1e39 from queries and keys of 1e20, sums of values near the end of float32, scores so
large that their rounding shows in the weights: a kernel notices what finite numbers led to, and
says that its operands are unfit. Then the call is done again in float64. Numbers that were given as
NaN or infinity take the same way, and give what they would have given.
"""

import numpy as np

from miniattn._typing import Array
from miniattn.functional._attention_calls import Besides, Kind, Options, execute

_EXTREME = 2.0**100  # factors beyond it, or below its inverse, are for float64


def run(
    kind: Kind,
    arrays: dict[str, Array],
    written: list[str],
    options: Options,
    besides: Besides,
    *,
    in_doubles: bool = False,
) -> dict[str, Array]:
    """Run a call on its operands, of which those named ``written`` hold zeros or nothing yet.

    ``in_doubles`` says that float32 is known not to do.

    Returns the operands that the kernels worked on: ``arrays``, or copies of them in float64, of
    which ``arrays`` then received what was written, rounded.
    """
    if arrays["q"].dtype == np.float64:
        execute(kind, arrays, options, besides)
        return arrays
    if not in_doubles and not is_extreme(options) and execute(kind, arrays, options, besides):
        return arrays
    doubles = {
        name: np.zeros(x.shape) if name in written else np.ascontiguousarray(x, np.float64)
        for name, x in arrays.items()
    }
    if kind == "backward":  # out and stats, which were rounded, once more
        forward = ("q", "k", "v", "bias", "sink", "out", "lse", "stats")
        known = {name: doubles[name] for name in forward if name in doubles}
        execute("forward", known, options, besides)
    execute(kind, doubles, options, besides)
    with np.errstate(over="ignore"):  # what the result itself has
        for name in written:
            arrays[name][...] = doubles[name]
    return doubles


def is_extreme(options: Options) -> bool:
    """Return whether a factor is too large or too small to be used in float32."""
    scale, softcap = abs(options.scale), options.softcap
    if scale != 0.0 and not 1.0 / _EXTREME < scale < _EXTREME:
        return True
    return softcap is not None and not 1.0 / _EXTREME < softcap < _EXTREME
