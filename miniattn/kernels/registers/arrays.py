"""Arrays made of addresses: what a function of a user's, which knows arrays alone, is handed."""

from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

from miniattn.kernels.registers.types import Pointer

AXES = 4
WORDS = 1 + AXES  # that describe an array: its address, and the sizes of its axes


def views(*kinds: types.Array) -> Any:
    """Return a function for kernels that makes a tuple of C-contiguous arrays.

    It is called with a pointer to int64 numbers, WORDS for each array: the address, then the sizes.
    """
    if any(kind.layout != "C" or not 1 <= kind.ndim <= AXES for kind in kinds):
        raise TypeError(f"tables: expected C-contiguous arrays of 1 to {AXES} axes, got {kinds}")
    result = types.Tuple(kinds)

    @intrinsic
    def arrays(typing_context, p):
        """Return the arrays whose descriptions begin at ``p``."""
        if not (isinstance(p, Pointer) and p.dtype == types.int64):
            return None

        def emit(context, builder, signature, args):
            made = []
            for number, kind in enumerate(kinds):
                first = number * WORDS
                words = [
                    builder.load(cgutils.gep_inbounds(builder, args[0], first + n))
                    for n in range(1 + kind.ndim)
                ]
                made.append(_array(context, builder, kind, words[0], words[1:]))
            return context.make_tuple(builder, result, made)

        return result(p), emit

    return arrays


def _array(context: Any, builder: Any, kind: types.Array, place: Any, sizes: list[Any]) -> Any:
    """Emit an array of this type and these sizes at an address."""
    array = make_array(kind)(context, builder)
    size = context.get_abi_sizeof(context.get_data_type(kind.dtype))
    steps: list[Any] = []
    step = context.get_constant(types.intp, size)
    for n in reversed(sizes):
        steps.insert(0, step)
        step = builder.mul(step, n)
    populate_array(
        array,
        data=builder.inttoptr(place, array.data.type),
        shape=cgutils.pack_array(builder, sizes),
        strides=cgutils.pack_array(builder, steps),
        itemsize=context.get_constant(types.intp, size),
        meminfo=None,
    )
    return array._getvalue()
