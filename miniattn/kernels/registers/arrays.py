"""Arrays made of addresses: what a function of a user's, which knows arrays alone, is handed."""

from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

from miniattn.kernels.registers.types import Pointer

AXES = 4
WORDS = 1 + AXES  # that describe an array: its address, and the sizes of its axes


def views(*kinds: types.Type, relative: int | None = None) -> Any:
    """Return a function for kernels that makes a tuple of C-contiguous arrays, and of numbers.

    It is called with a pointer to int64 numbers, WORDS for each: the address and the sizes of an
    array, or a number, a float as the bits of a float64. Where ``relative`` is given, a pointer
    comes with it that the addresses of so many arrays, the last ones, count from.
    """
    arrays_alone = [kind for kind in kinds if not isinstance(kind, types.Number)]
    if any(kind.layout != "C" or not 1 <= kind.ndim <= AXES for kind in arrays_alone):
        raise TypeError(f"tables: expected C-contiguous arrays of 1 to {AXES} axes, got {kinds}")
    result = types.Tuple(kinds)
    absolute = len(kinds) - (relative or 0)

    def make(context: Any, builder: Any, words: Any, base: Any) -> Any:
        made = []
        for number, kind in enumerate(kinds):
            first = number * WORDS
            count = 1 if isinstance(kind, types.Number) else 1 + kind.ndim
            read = [
                builder.load(cgutils.gep_inbounds(builder, words, first + n)) for n in range(count)
            ]
            if isinstance(kind, types.Number):
                made.append(_number(context, builder, kind, read[0]))
                continue
            anything = cgutils.voidptr_t
            if number >= absolute:  # no sum of integers: LLVM would forget whose memory it is
                place = builder.gep(builder.bitcast(base, anything), [read[0]])
            else:
                place = builder.inttoptr(read[0], anything)
            made.append(_array(context, builder, kind, place, read[1:]))
        return context.make_tuple(builder, result, made)

    if relative is not None:

        @intrinsic
        def arrays_from(typing_context, p, base):
            """Return the arrays whose descriptions begin at ``p``, the last of them at ``base``."""
            if not (isinstance(p, Pointer) and isinstance(base, Pointer)):
                return None

            def emit(context, builder, signature, args):
                return make(context, builder, args[0], args[1])

            return result(p, base), emit

        return arrays_from

    @intrinsic
    def arrays(typing_context, p):
        """Return the arrays whose descriptions begin at ``p``."""
        if not (isinstance(p, Pointer) and p.dtype == types.int64):
            return None

        def emit(context, builder, signature, args):
            return make(context, builder, args[0], None)

        return result(p), emit

    return arrays


def _number(context: Any, builder: Any, kind: types.Number, word: Any) -> Any:
    """Emit the number that a word holds."""
    if isinstance(kind, types.Float):
        double = builder.bitcast(word, context.get_value_type(types.float64))
        return context.cast(builder, double, types.float64, kind)
    return context.cast(builder, word, types.int64, kind)


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
        data=builder.bitcast(place, array.data.type),
        shape=cgutils.pack_array(builder, sizes),
        strides=cgutils.pack_array(builder, steps),
        itemsize=context.get_constant(types.intp, size),
        meminfo=None,
    )
    return array._getvalue()
