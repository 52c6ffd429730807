"""Pointers, and vectors from and to memory."""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils, errors
from numba.extending import intrinsic, lower_builtin, type_callable

from miniattn.kernels.registers import build
from miniattn.kernels.registers.types import Pointer, Vector, count_of, full, is_float


@type_callable(operator.add)
def _type_step(context: Any) -> Callable[..., Any]:
    def typer(p: types.Type, n: types.Type) -> types.Type | None:
        return p if isinstance(p, Pointer) and isinstance(n, types.Integer) else None

    return typer


@lower_builtin(operator.add, Pointer, types.Integer)
def _lower_step(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    index = context.cast(builder, args[1], signature.args[1], types.intp)
    return builder.gep(args[0], [index])


@type_callable(operator.getitem)
def _type_element(context: Any) -> Callable[..., Any]:
    def typer(p: types.Type, n: types.Type) -> types.Type | None:
        return p.dtype if isinstance(p, Pointer) and isinstance(n, types.Integer) else None

    return typer


@lower_builtin(operator.getitem, Pointer, types.Integer)
def _lower_element(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    return builder.load(_lower_step(context, builder, signature, args))


@type_callable(operator.setitem)
def _type_assign(context: Any) -> Callable[..., Any]:
    def typer(p: types.Type, n: types.Type, value: types.Type) -> types.Type | None:
        fits = isinstance(p, Pointer) and isinstance(n, types.Integer)
        return types.none if fits and isinstance(value, types.Number) else None

    return typer


@lower_builtin(operator.setitem, Pointer, types.Integer, types.Number)
def _lower_assign(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    p, _, kind = signature.args
    value = context.cast(builder, args[2], kind, p.dtype)
    builder.store(value, _lower_step(context, builder, signature, args[:2]))
    return context.get_dummy_value()


@intrinsic
def pointer(typing_context, array, index):
    """Return the address of flat element ``index`` of a C-contiguous ``array``."""
    if not (isinstance(array, types.Array) and array.layout == "C"):
        return None

    # A truth value is a byte in memory.
    result = Pointer(types.uint8 if array.dtype == types.boolean else array.dtype)

    def emit(context, builder, signature, args):
        data = context.make_array(array)(context, builder, args[0]).data
        place = builder.gep(data, [context.cast(builder, args[1], index, types.intp)])
        return builder.bitcast(place, context.get_value_type(result))

    return result(array, index), emit


@intrinsic
def keep(typing_context, array):
    """Keep an array's memory until here, which a pointer into it does not.

    Numba frees an array after the last mention of its name.
    """
    if not isinstance(array, types.Array):
        return None

    return types.none(array), lambda context, builder, signature, args: context.get_dummy_value()


@intrinsic
def address(typing_context, number, like):
    """Return the integer address ``number`` (in bytes) as a pointer of ``like``'s dtype."""
    if not isinstance(number, types.Integer):
        return None
    result = Pointer(like.dtype)

    def emit(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(result))

    return result(number, like), emit


@intrinsic
def lanes(typing_context, like):
    """Return how many numbers a vector of ``like``'s dtype (array, pointer, vector) holds."""
    count = like.count if isinstance(like, Vector) else count_of(like.dtype)
    return types.intp(like), lambda context, builder, signature, args: ir.Constant(
        ir.IntType(64), count
    )


@intrinsic
def load(typing_context, p):
    """Return the ``lanes(p)`` numbers at ``p``, which needs no alignment."""
    if not isinstance(p, Pointer):
        return None
    vector = full(p.dtype)
    return vector(p), lambda context, builder, signature, args: build.load(builder, args[0], vector)


@intrinsic
def store(typing_context, p, value):
    """Write the vector ``value`` to ``p``."""
    if not (isinstance(p, Pointer) and isinstance(value, Vector) and value.dtype == p.dtype):
        return None

    def emit(context, builder, signature, args):
        build.store(builder, args[0], args[1], value)
        return context.get_dummy_value()

    return types.none(p, value), emit


@intrinsic
def store_streaming(typing_context, p, value):
    """Write the vector ``value`` to ``p``, a multiple of the register's size, past the caches.

    An ordinary store first reads the cache line that it writes to. For a result larger than the
    caches that is one transfer of three, of a line that is gone before anybody asks for it. Call
    `drain` before another thread may read what was written.
    """
    if not (isinstance(p, Pointer) and isinstance(value, Vector) and value.dtype == p.dtype):
        return None

    def emit(context, builder, signature, args):
        typed = builder.bitcast(args[0], build.vector_type(value).as_pointer())
        written = builder.store(args[1], typed, align=value.count * value.dtype.bitwidth // 8)
        one = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        written.set_metadata("nontemporal", one)
        return context.get_dummy_value()

    return types.none(p, value), emit


@intrinsic
def drain(typing_context):
    """Wait until everything written before, past the caches too, can be seen by all threads."""

    def emit(context, builder, signature, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.none(), emit


@intrinsic
def to_boundary(typing_context, p):
    """Return how many elements lie between ``p`` and the next multiple of a register's size."""
    if not isinstance(p, Pointer):
        return None
    vector = full(p.dtype)

    def emit(context, builder, signature, args):
        integer = ir.IntType(64)
        size = vector.dtype.bitwidth // 8
        past = builder.neg(builder.ptrtoint(args[0], integer))
        rest = builder.and_(past, ir.Constant(integer, vector.count * size - 1))
        return builder.udiv(rest, ir.Constant(integer, size))

    return types.intp(p), emit


def _indices(builder: Any, count: int, bits: int) -> ir.Constant:
    integer = ir.IntType(bits)
    return ir.Constant(
        ir.VectorType(integer, count), [ir.Constant(integer, i) for i in range(count)]
    )


def _first(builder: Any, n: Any, count: int) -> Any:
    """Emit the mask of the first ``n`` lanes."""
    narrow = builder.trunc(n, ir.IntType(32))
    return builder.icmp_signed(
        "<", _indices(builder, count, 32), build.repeat(builder, narrow, count)
    )


@intrinsic
def first(typing_context, n, like):
    """Return the mask that is true in the first ``n`` lanes of a vector of ``like``'s dtype."""
    mask = Vector(types.boolean, count_of(like.dtype))

    def emit(context, builder, signature, args):
        return _first(builder, context.cast(builder, args[0], n, types.intp), mask.count)

    return mask(n, like), emit


@intrinsic
def load_first(typing_context, p, n):
    """Return ``p[0], ..., p[n - 1], 0, ...``; nothing past ``p[n - 1]`` is touched."""
    if not (isinstance(p, Pointer) and isinstance(n, types.Integer)):
        return None
    vector = full(p.dtype)

    def emit(context, builder, signature, args):
        return _load_first(builder, args[0], context.cast(builder, args[1], n, types.intp), vector)

    return vector(p, n), emit


def _load_first(builder: Any, p: Any, n: Any, vector: Vector) -> Any:
    """Emit a load of the first ``n`` lanes."""
    mask, kind = _first(builder, n, vector.count), build.vector_type(vector)
    typed = builder.bitcast(p, kind.as_pointer())
    align = ir.Constant(ir.IntType(32), vector.dtype.bitwidth // 8)
    letter = "f" if is_float(vector) else "i"
    name = f"llvm.masked.load.v{vector.count}{letter}{vector.dtype.bitwidth}.p0"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [typed.type, align.type, mask.type, kind]), name
    )
    return builder.call(function, [typed, align, mask, build.constant(vector, 0)])


@intrinsic
def store_first(typing_context, p, value, n):
    """Write the first ``n`` lanes of ``value`` to ``p``; nothing past ``p[n - 1]`` is touched."""
    if not (isinstance(p, Pointer) and isinstance(value, Vector) and value.dtype == p.dtype):
        return None

    def emit(context, builder, signature, args):
        limit = context.cast(builder, args[2], n, types.intp)
        _store_first(builder, args[0], args[1], limit, value)
        return context.get_dummy_value()

    return types.none(p, value, n), emit


def _store_first(builder: Any, p: Any, value: Any, n: Any, vector: Vector) -> None:
    """Emit a store of the first ``n`` lanes."""
    mask, kind = _first(builder, n, vector.count), build.vector_type(vector)
    typed = builder.bitcast(p, kind.as_pointer())
    align = ir.Constant(ir.IntType(32), vector.dtype.bitwidth // 8)
    letter = "f" if is_float(vector) else "i"
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(ir.VoidType(), [kind, typed.type, align.type, mask.type]),
        f"llvm.masked.store.v{vector.count}{letter}{vector.dtype.bitwidth}.p0",
    )
    builder.call(function, [value, typed, align, mask])


@intrinsic
def load_doubles(typing_context, p, n):
    """Return the first ``n`` numbers at ``p`` as doubles, 0 in the other lanes."""
    if not (isinstance(p, Pointer) and isinstance(n, types.Integer)):
        return None
    doubles = full(types.float64)
    stored = Vector(p.dtype, doubles.count)

    def emit(context, builder, signature, args):
        limit = context.cast(builder, args[1], n, types.intp)
        numbers = _load_first(builder, args[0], limit, stored)
        if stored == doubles:
            return numbers
        return builder.fpext(numbers, build.vector_type(doubles))

    return doubles(p, n), emit


@intrinsic
def store_doubles(typing_context, p, value, n):
    """Write the first ``n`` lanes of a vector of doubles to ``p``, rounded to its dtype."""
    if not (isinstance(p, Pointer) and value == full(types.float64)):
        return None
    rounded = Vector(p.dtype, value.count)

    def emit(context, builder, signature, args):
        limit = context.cast(builder, args[2], n, types.intp)
        numbers = args[1]
        if rounded != value:
            numbers = builder.fptrunc(numbers, build.vector_type(rounded))
        _store_first(builder, args[0], numbers, limit, rounded)
        return context.get_dummy_value()

    return types.none(p, value, n), emit


@intrinsic(prefer_literal=True)
def gather(typing_context, p, step, n, like):
    """Return ``p[0], p[step], p[2 * step], ...``, the first ``n`` of as many as ``like`` has lanes.

    The other lanes are 0 and nothing is read for them. The dtype is that of ``p``. With a step of
    1, written as such, it is a load.
    """
    if not isinstance(p, Pointer):
        return None
    count = like.count if isinstance(like, Vector) else count_of(like.dtype)
    vector = Vector(p.dtype, count)
    contiguous = isinstance(step, types.IntegerLiteral) and step.literal_value == 1

    def emit(context, builder, signature, args):
        if contiguous:
            limit = context.cast(builder, args[2], n, types.intp)
            return _load_first(builder, args[0], limit, vector)
        bits, kind = vector.dtype.bitwidth, build.vector_type(vector)
        mask = _first(builder, context.cast(builder, args[2], n, types.intp), count)
        stride = context.cast(builder, args[1], step, types.intp)
        bytes_apart = builder.mul(stride, ir.Constant(stride.type, bits // 8))
        steps = builder.mul(_indices(builder, count, 64), build.repeat(builder, bytes_apart, count))
        base = build.repeat(builder, builder.ptrtoint(args[0], stride.type), count)
        places = builder.inttoptr(builder.add(base, steps), ir.VectorType(args[0].type, count))
        align = ir.Constant(ir.IntType(32), bits // 8)
        letter = "f" if is_float(vector) else "i"
        name = f"llvm.masked.gather.v{count}{letter}{bits}.v{count}p0"
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(kind, [places.type, align.type, mask.type, kind]), name
        )
        return builder.call(function, [places, align, mask, build.constant(vector, 0)])

    return vector(p, step, n, like), emit


_STACK = 2**16  # bytes for one table; threads of macOS have no more than 2**19 for everything


@intrinsic(prefer_literal=True)
def registers(typing_context, count, like):
    """Return a pointer to room for ``count`` (an integer constant) vectors, on the stack."""
    if not isinstance(count, types.IntegerLiteral):
        return None
    result, vector = Pointer(like.dtype), full(like.dtype)
    if count.literal_value * vector.count * vector.dtype.bitwidth > 8 * _STACK:
        raise errors.TypingError(f"registers: {count.literal_value} need more than {_STACK} bytes")

    def emit(context, builder, signature, args):
        kind = ir.ArrayType(build.vector_type(vector), count.literal_value)
        with builder.goto_entry_block():  # else the stack would grow in every turn of a loop
            place = builder.alloca(kind)
        place.align = 64
        return builder.bitcast(place, context.get_value_type(result))

    return result(count, like), emit


@intrinsic
def aligned(typing_context, p):
    """Return the first address at or after ``p`` that is a multiple of 64 bytes (a cache line)."""
    if not isinstance(p, Pointer):
        return None

    def emit(context, builder, signature, args):
        integer = ir.IntType(64)
        number = builder.add(builder.ptrtoint(args[0], integer), ir.Constant(integer, 63))
        return builder.inttoptr(builder.and_(number, ir.Constant(integer, -64)), args[0].type)

    return p(p), emit


@intrinsic
def prefetch(typing_context, p):
    """Ask for the cache line at ``p``, which is harmless where nothing is."""
    if not isinstance(p, Pointer):
        return None

    def emit(context, builder, signature, args):
        word = ir.IntType(32)
        place = builder.bitcast(args[0], ir.IntType(8).as_pointer())
        function_type = ir.FunctionType(ir.VoidType(), [place.type, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
        # Reading, into all levels of the data cache.
        builder.call(function, [place, *(ir.Constant(word, n) for n in (0, 3, 1))])
        return context.get_dummy_value()

    return types.none(p), emit
