"""Arrays made of addresses: what a function of a user's, which knows arrays alone, is handed."""

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, lower_builtin, models, register_model
from numba.np import arrayobj
from numba.np.arrayobj import make_array, populate_array

from miniattn.kernels.registers.types import Pointer

AXES = 4
WORDS = 1 + AXES  # that describe an array: its address, and the sizes of its axes


class Guarded(types.Array):
    """An array of which no index reaches outside: one that would is noted, and stands for 0.

    Numba's own check of an index leaves the loop where it fails, and a loop that may be left is
    none that LLVM turns into vectors: looking something up in a table took ten times as long.
    """

    def __init__(self, array: types.Array) -> None:
        name = f"guarded({array.dtype}, {array.ndim}, {array.mutable})"
        super().__init__(array.dtype, array.ndim, "C", readonly=not array.mutable, name=name)


register_model(Guarded)(models.ArrayModel)


@lower_builtin(operator.getitem, Guarded, types.Integer)
def _lower_entry(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    kind, index = signature.args
    if kind.ndim > 1:
        return arrayobj.getitem_arraynd_intp(context, builder, signature, args)
    place = _guarded_place(context, builder, kind, args[0], [(index, args[1])])
    return arrayobj.load_item(context, builder, kind, place)


@lower_builtin(operator.getitem, Guarded, types.BaseTuple)
def _lower_entry_of_axes(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    kind, index = signature.args
    if not _names_an_entry(kind, index):
        return arrayobj.getitem_array_tuple(context, builder, signature, args)
    indices = zip(index, cgutils.unpack_tuple(builder, args[1]), strict=True)
    place = _guarded_place(context, builder, kind, args[0], list(indices))
    return arrayobj.load_item(context, builder, kind, place)


@lower_builtin(operator.setitem, Guarded, types.Integer, types.Number)
def _lower_assign(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    kind, index, _ = signature.args
    if kind.ndim > 1:
        return arrayobj.setitem_array(context, builder, signature, args)
    return _assign(context, builder, signature, args, [(index, args[1])])


@lower_builtin(operator.setitem, Guarded, types.BaseTuple, types.Number)
def _lower_assign_to_axes(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    kind, index, _ = signature.args
    if not _names_an_entry(kind, index):
        return arrayobj.setitem_array(context, builder, signature, args)
    indices = zip(index, cgutils.unpack_tuple(builder, args[1]), strict=True)
    return _assign(context, builder, signature, args, list(indices))


def _names_an_entry(kind: Guarded, index: types.BaseTuple) -> bool:
    return len(index) == kind.ndim and all(isinstance(axis, types.Integer) for axis in index)


def _assign(context: Any, builder: Any, signature: Any, args: Any, indices: list[Any]) -> Any:
    kind, _, given = signature.args
    place = _guarded_place(context, builder, kind, args[0], indices)
    value = context.cast(builder, args[2], given, kind.dtype)
    arrayobj.store_item(context, builder, kind, value, place)
    return context.get_dummy_value()


def _guarded_place(
    context: Any, builder: Any, kind: Guarded, value: Any, indices: list[tuple[Any, Any]]
) -> Any:
    """Emit the address of an entry: of the first one where an index is out of range."""
    array = make_array(kind)(context, builder, value)
    at = context.get_constant(types.intp, 0)
    outside = ir.Constant(ir.IntType(1), 0)
    for (index, given), size in zip(
        indices, cgutils.unpack_tuple(builder, array.shape), strict=True
    ):
        fixed = arrayobj.fix_integer_index(context, builder, index, given, size)
        outside = builder.or_(outside, builder.icmp_unsigned(">=", fixed, size))
        at = builder.add(builder.mul(at, size), fixed)
    # Where views stand, nobody else's object is the parent of an array: the note is.
    note = builder.bitcast(array.parent, ir.IntType(64).as_pointer())
    builder.store(builder.or_(builder.load(note), builder.zext(outside, ir.IntType(64))), note)
    at = builder.select(outside, context.get_constant(types.intp, 0), at)
    return builder.gep(array.data, [at])


def views(*kinds: types.Type) -> Any:
    """Return a function for kernels that makes a tuple of C-contiguous arrays, and of numbers.

    It is called with a pointer to int64 numbers, WORDS for each: the address and the sizes of an
    array, or a number, a float as the bits of a float64.
    """
    result = _checked(kinds)

    @intrinsic
    def arrays(typing_context, p):
        """Return the arrays whose descriptions begin at ``p``."""
        if not (isinstance(p, Pointer) and p.dtype == types.int64):
            return None

        def emit(context, builder, signature, args):
            return _made(context, builder, result, args[0])

        return result(p), emit

    return arrays


def guarded_views(*kinds: types.Type, relative: int = 0) -> Any:
    """Return a function as `views` does, whose arrays are `Guarded`.

    Besides the descriptions it is called with a pointer that the addresses of ``relative`` arrays,
    the last ones, count from, and with one to an int64 that is not 0 any more once an index was
    out of range.
    """
    guarded = [Guarded(kind) if isinstance(kind, types.Array) else kind for kind in kinds]
    result = _checked(guarded)

    @intrinsic
    def arrays_from(typing_context, p, base, note):
        """Return the arrays whose descriptions begin at ``p``, the last of them at ``base``."""
        if not all(isinstance(x, Pointer) for x in (p, base, note)):
            return None

        def emit(context, builder, signature, args):
            return _made(context, builder, result, args[0], args[1], args[2], relative)

        return result(p, base, note), emit

    return arrays_from


def _checked(kinds: Any) -> types.BaseTuple:
    """Return the type of a tuple of arrays and numbers, which can be described."""
    arrays_alone = [kind for kind in kinds if not isinstance(kind, types.Number)]
    if any(kind.layout != "C" or not 1 <= kind.ndim <= AXES for kind in arrays_alone):
        raise TypeError(f"tables: expected C-contiguous arrays of 1 to {AXES} axes, got {kinds}")
    return types.Tuple(tuple(kinds))


def _made(
    context: Any,
    builder: Any,
    result: types.BaseTuple,
    words: Any,
    base: Any = None,
    note: Any = None,
    relative: int = 0,
) -> Any:
    """Emit the tuple of what the words describe."""
    made = []
    for number, kind in enumerate(result):
        first = number * WORDS
        count = 1 if isinstance(kind, types.Number) else 1 + kind.ndim
        read = [builder.load(cgutils.gep_inbounds(builder, words, first + n)) for n in range(count)]
        if isinstance(kind, types.Number):
            made.append(_number(context, builder, kind, read[0]))
            continue
        anything = cgutils.voidptr_t
        if number >= len(result) - relative:
            # No sum of integers: LLVM would forget whose memory it is.
            place = builder.gep(builder.bitcast(base, anything), [read[0]])
        else:
            place = builder.inttoptr(read[0], anything)
        made.append(_array(context, builder, kind, place, read[1:], note))
    return context.make_tuple(builder, result, made)


def _number(context: Any, builder: Any, kind: types.Number, word: Any) -> Any:
    """Emit the number that a word holds."""
    if isinstance(kind, types.Float):
        double = builder.bitcast(word, context.get_value_type(types.float64))
        return context.cast(builder, double, types.float64, kind)
    return context.cast(builder, word, types.int64, kind)


def _array(
    context: Any, builder: Any, kind: types.Array, place: Any, sizes: list[Any], note: Any
) -> Any:
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
        parent=None if note is None else builder.bitcast(note, array.parent.type),
    )
    return array._getvalue()
