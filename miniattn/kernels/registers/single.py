"""Vectors of one lane: numbers to which everything that is written for vectors applies.

Plain loops so use the same mathematics as the kernels in vector registers, instead of a copy.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from miniattn.kernels.registers import build
from miniattn.kernels.registers.types import Vector


@intrinsic
def single(typing_context, x, like):
    """Return the number ``x``, cast to ``like``'s dtype, as a vector of one lane."""
    if not isinstance(x, types.Number):
        return None
    vector = Vector(like.dtype, 1)

    def emit(context, builder, signature, args):
        return build.cast(context, builder, args[0], x, vector)

    return vector(x, like), emit


@intrinsic
def number(typing_context, v):
    """Return the number in a vector of one lane, or the truth value in a mask of one."""
    if not (isinstance(v, Vector) and v.count == 1):
        return None
    lane = ir.Constant(ir.IntType(32), 0)
    return v.dtype(v), lambda context, builder, signature, args: builder.extract_element(
        args[0], lane
    )
