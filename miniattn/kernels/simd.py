"""Vector registers for Numba: NumPy on 16 numbers at a time. Emits LLVM IR, as only `amx` does too.

LLVM's own vectoriser stops at 256 bits on server processors and leaves ``exp`` scalar. Here a
kernel says which values sit in one register::

    p = pointer(x, i)                     # &x[i], x a C-contiguous array
    v = load(p) * 2.0 + load(p + lanes(p))
    store(p, exp2(maximum(v, -1.0)))

Two types do it. A `Pointer` is an address in an array: ``p + n`` steps by elements, ``p[n]`` is a
scalar. A `Vector` holds ``lanes(p)`` numbers: ``+ - * /``, the comparisons (which give a mask for
`select`, `any_true`, ``& | ~``), and on integer vectors ``^ << >>``. A scalar beside a vector is
cast to the vector's dtype and repeated, like a Python scalar beside a NumPy array.

No bounds are checked: these functions are for kernels whose arguments were validated.

The lane count comes from the processor that Numba compiles for (AVX-512: 16 float32, AVX2: 8,
otherwise 4; float64 half as many), or from the environment: see `_target`.

Notes
-----
Vector arithmetic is done as written: its instructions carry their own (harmless) fast-math flags,
which keeps Numba from adding ``reassoc`` to them. Compensated sums work; ``a * b + c`` may be
fused.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils, errors
from numba.extending import (
    intrinsic,
    lower_builtin,
    models,
    register_model,
    type_callable,
)

from miniattn.kernels._target import LANES, SCALEF

__all__ = [
    "LANES",
    "Pointer",
    "Vector",
    "absolute",
    "address",
    "aligned",
    "any_true",
    "as_integer",
    "call",
    "drain",
    "exp2",
    "exp2_nonpositive",
    "exp2_product",
    "fetch_and_add",
    "first",
    "floor",
    "fma",
    "gather",
    "horizontal_max",
    "horizontal_maxima",
    "horizontal_sum",
    "horizontal_sums",
    "iota",
    "keep",
    "lanes",
    "load",
    "load_first",
    "log",
    "lookup",
    "maximum",
    "minimum",
    "pointer",
    "prefetch",
    "product",
    "registers",
    "rint",
    "select",
    "splat",
    "sqrt",
    "store",
    "store_first",
    "store_streaming",
    "tanh",
    "to_boundary",
    "to_float",
    "transpose",
]


# --- Types ---------------------------------------------------------------------------------------


class Pointer(types.Type):
    """The address of an element of dtype ``dtype``."""

    def __init__(self, dtype: types.Type) -> None:
        self.dtype = dtype
        super().__init__(f"Pointer({dtype})")


class Vector(types.Type):
    """``count`` numbers of ``dtype`` (or truth values: a mask) in one register."""

    def __init__(self, dtype: types.Type, count: int) -> None:
        self.dtype = dtype
        self.count = count
        super().__init__(f"Vector({dtype} x {count})")


_FLOATS = (types.float32, types.float64)


def _llvm(dtype: types.Type) -> ir.Type:
    if dtype == types.float32:
        return ir.FloatType()
    if dtype == types.float64:
        return ir.DoubleType()
    return ir.IntType(1 if dtype == types.boolean else dtype.bitwidth)


@register_model(Pointer)
class _PointerModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Pointer) -> None:
        super().__init__(manager, fe_type, _llvm(fe_type.dtype).as_pointer())


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Vector) -> None:
        super().__init__(manager, fe_type, ir.VectorType(_llvm(fe_type.dtype), fe_type.count))


def _count(dtype: types.Type) -> int:
    """Lanes of a full register of ``dtype``."""
    return LANES * 32 // dtype.bitwidth


def _full(dtype: types.Type) -> Vector:
    return Vector(dtype, _count(dtype))


def _mask_of(vector: Vector) -> Vector:
    return Vector(types.boolean, vector.count)


def _integer_of(vector: Vector) -> Vector:
    """The unsigned integers of the same width."""
    return Vector(types.uint32 if vector.dtype.bitwidth == 32 else types.uint64, vector.count)


def _is_float(vector: types.Type) -> bool:
    return isinstance(vector, Vector) and vector.dtype in _FLOATS


# --- Emitting ------------------------------------------------------------------------------------


def _vector_type(vector: Vector) -> ir.VectorType:
    return ir.VectorType(_llvm(vector.dtype), vector.count)


def _constant(vector: Vector, value: float) -> ir.Constant:
    return ir.Constant(
        _vector_type(vector), [ir.Constant(_llvm(vector.dtype), value)] * vector.count
    )


def _repeat(builder: Any, scalar: Any, count: int) -> Any:
    """Emit a vector whose lanes all hold ``scalar``."""
    start = ir.Constant(ir.VectorType(scalar.type, count), ir.Undefined)
    one = builder.insert_element(start, scalar, ir.Constant(ir.IntType(32), 0))
    pattern = ir.Constant(ir.VectorType(ir.IntType(32), count), [0] * count)
    return builder.shuffle_vector(one, start, pattern)


def _call(builder: Any, name: str, result: Any, args: list[Any], overload: Any = None) -> Any:
    """Emit a call of the LLVM intrinsic ``name``, overloaded on one vector type."""
    kind = result if overload is None else overload
    letter = {"float": "f32", "double": "f64"}.get(str(kind.element), str(kind.element))
    mangled = f"{name}.v{kind.count}{letter}"
    function_type = ir.FunctionType(result, [a.type for a in args])
    function = cgutils.get_or_insert_function(builder.module, function_type, mangled)
    return builder.call(function, args)


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return _call(builder, "llvm.fma", a.type, [a, b, c])


def _load(builder: Any, address: Any, vector: Vector) -> Any:
    typed = builder.bitcast(address, _vector_type(vector).as_pointer())
    return builder.load(typed, align=vector.dtype.bitwidth // 8)


def _store(builder: Any, address: Any, value: Any, vector: Vector) -> Any:
    typed = builder.bitcast(address, _vector_type(vector).as_pointer())
    return builder.store(value, typed, align=vector.dtype.bitwidth // 8)


def _cast(context: Any, builder: Any, value: Any, kind: types.Type, vector: Any) -> Any:
    """Emit ``value`` as a ``vector``: itself, or a scalar cast to its dtype and repeated."""
    if isinstance(kind, Vector):
        return value
    return _repeat(builder, context.cast(builder, value, kind, vector.dtype), vector.count)


# --- Operators -----------------------------------------------------------------------------------


def _common(a: types.Type, b: types.Type) -> Vector | None:
    """The vector type of ``a op b``, or None where this file has nothing to say."""
    if isinstance(a, Vector) and (a == b or isinstance(b, types.Number | types.Boolean)):
        return a
    if isinstance(b, Vector) and isinstance(a, types.Number | types.Boolean):
        return b
    return None


def _operator(symbols: tuple[Any, ...], emit: Callable[..., Any], compares: bool = False) -> None:
    """Give the operators ``symbols`` a meaning on vectors (and a vector beside a scalar)."""

    def typing(context: Any) -> Callable[..., Any]:
        def typer(a: types.Type, b: types.Type) -> types.Type | None:
            vector = _common(a, b)
            return _mask_of(vector) if vector is not None and compares else vector

        return typer

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = _common(*signature.args)
        a, b = (
            _cast(context, builder, value, kind, vector)
            for value, kind in zip(args, signature.args, strict=True)
        )
        return emit(builder, a, b, vector)

    for symbol in symbols:
        type_callable(symbol)(typing)
        for pair in ((Vector, Vector), (Vector, types.Any), (types.Any, Vector)):
            lower_builtin(symbol, *pair)(lower)


def _arithmetic(float_name: str, integer_name: str) -> Callable[..., Any]:
    def emit(builder: Any, a: Any, b: Any, vector: Vector) -> Any:
        if _is_float(vector):
            # As written, in this order; only a multiply-add may be fused.
            return getattr(builder, float_name)(a, b, flags=["nsz", "contract"])
        return getattr(builder, integer_name)(a, b)

    return emit


def _compare(symbol: str) -> Callable[..., Any]:
    def emit(builder: Any, a: Any, b: Any, vector: Vector) -> Any:
        if not _is_float(vector):
            signed = getattr(vector.dtype, "signed", False)
            return (builder.icmp_signed if signed else builder.icmp_unsigned)(symbol, a, b)
        # != is true for NaN, every other comparison false: as in NumPy.
        ordered = builder.fcmp_unordered if symbol == "!=" else builder.fcmp_ordered
        return ordered(symbol, a, b, flags=["nsz"])

    return emit


_operator((operator.add, operator.iadd), _arithmetic("fadd", "add"))
_operator((operator.sub, operator.isub), _arithmetic("fsub", "sub"))
_operator((operator.mul, operator.imul), _arithmetic("fmul", "mul"))
_operator((operator.truediv, operator.itruediv), _arithmetic("fdiv", "udiv"))
_operator((operator.and_, operator.iand), lambda builder, a, b, v: builder.and_(a, b))
_operator((operator.or_, operator.ior), lambda builder, a, b, v: builder.or_(a, b))
_operator((operator.xor, operator.ixor), lambda builder, a, b, v: builder.xor(a, b))
_operator((operator.lshift, operator.ilshift), lambda builder, a, b, v: builder.shl(a, b))
_operator((operator.rshift, operator.irshift), lambda builder, a, b, v: builder.lshr(a, b))
for _symbol, _function in (
    ("<", operator.lt),
    ("<=", operator.le),
    (">", operator.gt),
    (">=", operator.ge),
    ("==", operator.eq),
    ("!=", operator.ne),
):
    _operator((_function,), _compare(_symbol), compares=True)


def _unary(symbol: Any, accepts: Callable[[types.Type], bool], emit: Callable[..., Any]) -> None:
    @type_callable(symbol)
    def typing(context: Any) -> Callable[..., Any]:
        return lambda a: a if accepts(a) else None

    @lower_builtin(symbol, Vector)
    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return emit(builder, args[0])


_unary(operator.neg, _is_float, lambda builder, a: builder.fneg(a))
_unary(
    operator.invert,
    lambda a: isinstance(a, Vector) and not _is_float(a),
    lambda builder, a: builder.not_(a),
)


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


# --- Pointers, loads and stores ------------------------------------------------------------------


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
    count = like.count if isinstance(like, Vector) else _count(like.dtype)
    return types.intp(like), lambda context, builder, signature, args: ir.Constant(
        ir.IntType(64), count
    )


@intrinsic
def load(typing_context, p):
    """Return the ``lanes(p)`` numbers at ``p``, which needs no alignment."""
    if not isinstance(p, Pointer):
        return None
    vector = _full(p.dtype)
    return vector(p), lambda context, builder, signature, args: _load(builder, args[0], vector)


@intrinsic
def store(typing_context, p, value):
    """Write the vector ``value`` to ``p``."""
    if not (isinstance(p, Pointer) and isinstance(value, Vector) and value.dtype == p.dtype):
        return None

    def emit(context, builder, signature, args):
        _store(builder, args[0], args[1], value)
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
        typed = builder.bitcast(args[0], _vector_type(value).as_pointer())
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
    vector = _full(p.dtype)

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
    return builder.icmp_signed("<", _indices(builder, count, 32), _repeat(builder, narrow, count))


@intrinsic
def first(typing_context, n, like):
    """Return the mask that is true in the first ``n`` lanes of a vector of ``like``'s dtype."""
    mask = Vector(types.boolean, _count(like.dtype))

    def emit(context, builder, signature, args):
        return _first(builder, context.cast(builder, args[0], n, types.intp), mask.count)

    return mask(n, like), emit


@intrinsic
def load_first(typing_context, p, n):
    """Return ``p[0], ..., p[n - 1], 0, ...``; nothing past ``p[n - 1]`` is touched."""
    if not (isinstance(p, Pointer) and isinstance(n, types.Integer)):
        return None
    vector = _full(p.dtype)

    def emit(context, builder, signature, args):
        return _load_first(builder, args[0], context.cast(builder, args[1], n, types.intp), vector)

    return vector(p, n), emit


def _load_first(builder: Any, p: Any, n: Any, vector: Vector) -> Any:
    """Emit a load of the first ``n`` lanes."""
    mask, kind = _first(builder, n, vector.count), _vector_type(vector)
    typed = builder.bitcast(p, kind.as_pointer())
    align = ir.Constant(ir.IntType(32), vector.dtype.bitwidth // 8)
    letter = "f" if _is_float(vector) else "i"
    name = f"llvm.masked.load.v{vector.count}{letter}{vector.dtype.bitwidth}.p0"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [typed.type, align.type, mask.type, kind]), name
    )
    return builder.call(function, [typed, align, mask, _constant(vector, 0)])


@intrinsic
def store_first(typing_context, p, value, n):
    """Write the first ``n`` lanes of ``value`` to ``p``; nothing past ``p[n - 1]`` is touched."""
    if not (isinstance(p, Pointer) and isinstance(value, Vector) and value.dtype == p.dtype):
        return None

    def emit(context, builder, signature, args):
        mask = _first(builder, context.cast(builder, args[2], n, types.intp), value.count)
        kind = _vector_type(value)
        typed = builder.bitcast(args[0], kind.as_pointer())
        align = ir.Constant(ir.IntType(32), value.dtype.bitwidth // 8)
        letter = "f" if _is_float(value) else "i"
        name = f"llvm.masked.store.v{value.count}{letter}{value.dtype.bitwidth}.p0"
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [kind, typed.type, align.type, mask.type]),
            name,
        )
        builder.call(function, [args[1], typed, align, mask])
        return context.get_dummy_value()

    return types.none(p, value, n), emit


@intrinsic
def splat(typing_context, x, like):
    """Return the scalar ``x``, cast to ``like``'s dtype, in every lane."""
    vector = like if isinstance(like, Vector) else _full(like.dtype)

    def emit(context, builder, signature, args):
        return _cast(context, builder, args[0], x, vector)

    return vector(x, like), emit


@intrinsic
def iota(typing_context, like, dtype):
    """Return the integers 0, 1, 2, ... of ``dtype``, as many as ``like``'s dtype has lanes."""
    if not isinstance(dtype, types.NumberClass):
        return None
    count = like.count if isinstance(like, Vector) else _count(like.dtype)
    vector = Vector(dtype.dtype, count)
    return vector(like, dtype), lambda context, builder, signature, args: _indices(
        builder, count, vector.dtype.bitwidth
    )


@intrinsic(prefer_literal=True)
def gather(typing_context, p, step, n, like):
    """Return ``p[0], p[step], p[2 * step], ...``, the first ``n`` of as many as ``like`` has lanes.

    The other lanes are 0 and nothing is read for them. The dtype is that of ``p``. With a step of
    1, written as such, it is a load.
    """
    if not isinstance(p, Pointer):
        return None
    count = like.count if isinstance(like, Vector) else _count(like.dtype)
    vector = Vector(p.dtype, count)
    contiguous = isinstance(step, types.IntegerLiteral) and step.literal_value == 1

    def emit(context, builder, signature, args):
        if contiguous:
            limit = context.cast(builder, args[2], n, types.intp)
            return _load_first(builder, args[0], limit, vector)
        bits, kind = vector.dtype.bitwidth, _vector_type(vector)
        mask = _first(builder, context.cast(builder, args[2], n, types.intp), count)
        stride = context.cast(builder, args[1], step, types.intp)
        bytes_apart = builder.mul(stride, ir.Constant(stride.type, bits // 8))
        steps = builder.mul(_indices(builder, count, 64), _repeat(builder, bytes_apart, count))
        base = _repeat(builder, builder.ptrtoint(args[0], stride.type), count)
        places = builder.inttoptr(builder.add(base, steps), ir.VectorType(args[0].type, count))
        align = ir.Constant(ir.IntType(32), bits // 8)
        letter = "f" if _is_float(vector) else "i"
        name = f"llvm.masked.gather.v{count}{letter}{bits}.v{count}p0"
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(kind, [places.type, align.type, mask.type, kind]), name
        )
        return builder.call(function, [places, align, mask, _constant(vector, 0)])

    return vector(p, step, n, like), emit


@intrinsic
def lookup(typing_context, v, p):
    """Return ``v[p[0]], v[p[1]], ...``: the lanes of ``v`` whose int32 numbers stand at ``p``."""
    if not (isinstance(v, Vector) and isinstance(p, Pointer) and p.dtype == types.int32):
        return None
    numbers = Vector(types.int32, v.count)

    def emit(context, builder, signature, args):
        places = _load(builder, args[1], numbers)
        if v.dtype.bitwidth == 64:
            places = builder.sext(places, ir.VectorType(ir.IntType(64), v.count))
        # Lane by lane: LLVM makes one instruction of it where the processor has one.
        result = ir.Constant(args[0].type, ir.Undefined)
        for n in range(v.count):
            lane = ir.Constant(ir.IntType(32), n)
            place = builder.extract_element(places, lane)
            result = builder.insert_element(result, builder.extract_element(args[0], place), lane)
        return result

    return v(v, p), emit


_STACK = 2**16  # bytes for one table; threads of macOS have no more than 2**19 for everything


@intrinsic(prefer_literal=True)
def registers(typing_context, count, like):
    """Return a pointer to room for ``count`` (an integer constant) vectors, on the stack."""
    if not isinstance(count, types.IntegerLiteral):
        return None
    result, vector = Pointer(like.dtype), _full(like.dtype)
    if count.literal_value * vector.count * vector.dtype.bitwidth > 8 * _STACK:
        raise errors.TypingError(f"registers: {count.literal_value} need more than {_STACK} bytes")

    def emit(context, builder, signature, args):
        kind = ir.ArrayType(_vector_type(vector), count.literal_value)
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


@intrinsic
def call(typing_context, function, sizes, factors, operands, queue, scratch):
    """Call a compiled `task` by its address; arrays arrive there as pointers."""
    arrays = (sizes, factors, operands, queue)
    numbers = isinstance(function, types.Integer) and isinstance(scratch, types.Integer)
    if not (numbers and all(isinstance(a, types.Array) and a.layout == "C" for a in arrays)):
        return None

    def emit(context, builder, signature, args):
        anything = ir.IntType(8).as_pointer()
        pairs = zip(arrays, args[1:5], strict=True)
        data = [context.make_array(kind)(context, builder, a).data for kind, a in pairs]
        given = [builder.bitcast(p, anything) for p in data]
        given.append(builder.inttoptr(args[5], anything))
        # Numba's own convention: (place of the result, place of an exception, arguments) -> status.
        # A task neither returns nor raises anything.
        places = [cgutils.alloca_once(builder, anything) for _ in range(2)]
        kind = ir.FunctionType(ir.IntType(32), [p.type for p in places] + [anything] * 5)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [*places, *given])
        return context.get_dummy_value()

    return types.none(function, *arrays, scratch), emit


@intrinsic
def fetch_and_add(typing_context, p, n):
    """Return ``p[0]`` and add ``n`` to it, as one step that no other thread can split.

    A thread that finds what another added also finds what that one wrote before.
    """
    if not (isinstance(p, Pointer) and p.dtype == types.int64):
        return None

    def emit(context, builder, signature, args):
        number = context.cast(builder, args[1], n, types.int64)
        return builder.atomic_rmw("add", args[0], number, "acq_rel")

    return types.int64(p, n), emit


# --- Element-wise functions ----------------------------------------------------------------------


@intrinsic
def fma(typing_context, a, b, c):
    """Return ``a * b + c`` with one rounding; any of them may be a scalar."""
    vector = next((t for t in (a, b, c) if isinstance(t, Vector)), None)
    if vector is None or not _is_float(vector):
        return None

    def emit(context, builder, signature, args):
        cast = [_cast(context, builder, x, t, vector) for x, t in zip(args, (a, b, c), strict=True)]
        return _fma(builder, *cast)

    return vector(a, b, c), emit


@intrinsic
def select(typing_context, mask, a, b):
    """Return ``a`` where ``mask`` is true, else ``b``; one of the two may be a scalar."""
    vector = a if isinstance(a, Vector) else b
    if not (isinstance(vector, Vector) and mask == _mask_of(vector)):
        return None

    def emit(context, builder, signature, args):
        x, y = (_cast(context, builder, args[i], signature.args[i], vector) for i in (1, 2))
        return builder.select(args[0], x, y)

    return vector(mask, a, b), emit


def _extremum(symbol: str) -> Callable[..., Any]:
    def typed(typing_context, a, b):
        vector = _common(a, b)
        if vector is None:
            return None

        def emit(context, builder, signature, args):
            x, y = (
                _cast(context, builder, v, t, vector) for v, t in zip(args, (a, b), strict=True)
            )
            return builder.select(_compare(symbol)(builder, x, y, vector), x, y)

        return vector(a, b), emit

    return typed


# The form `a > b ? a : b` is one instruction (vmaxps); NaN-aware maxima take three.
maximum = intrinsic(_extremum(">"))
maximum.__doc__ = (
    "Return ``a`` where ``a > b``, else ``b``: a NaN in ``b`` is kept, one in ``a`` not."
)
minimum = intrinsic(_extremum("<"))
minimum.__doc__ = (
    "Return ``a`` where ``a < b``, else ``b``: a NaN in ``b`` is kept, one in ``a`` not."
)


def _rounding(name: str) -> Callable[..., Any]:
    def typed(typing_context, v):
        if not _is_float(v):
            return None
        return v(v), lambda context, builder, signature, args: _call(
            builder, name, args[0].type, [args[0]]
        )

    return typed


absolute = intrinsic(_rounding("llvm.fabs"))
absolute.__doc__ = "Return ``|v|``."
floor = intrinsic(_rounding("llvm.floor"))
floor.__doc__ = "Return the largest integer at most ``v``."
rint = intrinsic(_rounding("llvm.rint"))
rint.__doc__ = "Return the nearest integer, ties to even."
sqrt = intrinsic(_rounding("llvm.sqrt"))
sqrt.__doc__ = "Return the square root of ``v``."


@intrinsic
def as_integer(typing_context, v):
    """Return the bits of a float vector as unsigned integers."""
    result = _integer_of(v)
    return result(v), lambda context, builder, signature, args: builder.bitcast(
        args[0], _vector_type(result)
    )


@intrinsic
def to_float(typing_context, v, like):
    """Return integers (read as signed) as floats of ``like``'s dtype, of the same width."""
    vector = Vector(like.dtype, v.count)
    return vector(v, like), lambda context, builder, signature, args: builder.sitofp(
        args[0], _vector_type(vector)
    )


# (2^f - 1) / f on [-1/2, 1/2] by Chebyshev fit; relative error of 1 + f q(f): 4e-9 and 6e-18.
_EXP2 = {
    types.float32: (
        0.6931471880262288,
        0.24022650760568126,
        0.05550357114219078,
        0.009618082557277852,
        0.0013390863364671234,
        0.0001545316294512069,
    ),
    types.float64: (
        0.6931471805599453,
        0.24022650695910097,
        0.0555041086648216,
        0.009618129107606888,
        0.0013333558146416936,
        0.0001540353044173605,
        1.525273382983612e-05,
        1.321544258792169e-06,
        1.0178062445845774e-07,
        7.072585949269223e-09,
        4.4549605981865186e-10,
    ),
}
# Adding 1.5 * 2^(mantissa bits) rounds to an integer and leaves it in the low bits.
_MAGIC = {types.float32: 1.5 * 2.0**23, types.float64: 1.5 * 2.0**52}
_MANTISSA = {types.float32: 23, types.float64: 52}
_EXPONENTS = {types.float32: (-126.0, 128.0), types.float64: (-1022.0, 1024.0)}


def _split_exp2(builder: Any, x: Any, vector: Vector) -> tuple[Any, Any, Any]:
    """Emit (f, q, bits) with 2^x = 2^n (1 + f q), n = round(x), f = x - n, bits = n << mantissa."""
    magic = _constant(vector, _MAGIC[vector.dtype])
    shifted = builder.fadd(x, magic, flags=["nsz"])
    f = builder.fsub(x, builder.fsub(shifted, magic, flags=["nsz"]), flags=["nsz"])
    return f, *_power_of_two(builder, f, shifted, vector)


def _power_of_two(builder: Any, f: Any, shifted: Any, vector: Vector) -> tuple[Any, Any]:
    """Emit (q, bits) for 2^(n + f) = 2^n (1 + f q), given shifted = n + magic."""
    integers = _integer_of(vector)
    *rest, q = (_constant(vector, c) for c in _EXP2[vector.dtype])
    for coefficient in reversed(rest):
        q = _fma(builder, q, f, coefficient)
    bits = builder.shl(
        builder.bitcast(shifted, _vector_type(integers)),
        _constant(integers, _MANTISSA[vector.dtype]),
    )
    return q, bits


def _exp2_scalef(builder: Any, x: Any, vector: Vector) -> Any:
    """Emit 2^x with AVX-512's own steps: f = x - round(x), then p * 2^n, or 0 below 2^-126."""
    suffix = "ps" if vector.dtype == types.float32 else "pd"
    word, zero = ir.IntType(32), _constant(vector, 0.0)
    bits, rounding = ir.IntType(vector.count), ir.Constant(word, 4)
    nearest, everywhere = ir.Constant(word, 8), ir.Constant(bits, -1)

    def call(name: str, second: Any, first: Any, mask: Any) -> Any:
        args = [first, second, zero, mask, rounding]
        function_type = ir.FunctionType(x.type, [a.type for a in args])
        name = f"llvm.x86.avx512.mask.{name}.{suffix}.512"
        return builder.call(
            cgutils.get_or_insert_function(builder.module, function_type, name), args
        )

    f = call("reduce", nearest, x, everywhere)
    n = builder.fsub(x, f, flags=["nsz"])
    *rest, q = (_constant(vector, c) for c in _EXP2[vector.dtype])
    for coefficient in reversed(rest):
        q = _fma(builder, q, f, coefficient)
    p = _fma(builder, q, f, _constant(vector, 1.0))
    least = _constant(vector, _EXPONENTS[vector.dtype][0])
    kept = builder.fcmp_unordered(">=", x, least, flags=["nsz"])  # NaN stays
    return call("scalef", n, p, builder.bitcast(kept, bits))


def _exp2(builder: Any, x: Any, vector: Vector, overflow: bool) -> Any:
    """Emit 2^x: the exponent n is added to the exponent field of 1 + f q in [0.7, 1.42]."""
    if SCALEF and vector.count == _count(vector.dtype):
        return _exp2_scalef(builder, x, vector)
    integers = _vector_type(_integer_of(vector))
    f, q, bits = _split_exp2(builder, x, vector)
    p = _fma(builder, q, f, _constant(vector, 1.0))
    scaled = builder.bitcast(builder.add(builder.bitcast(p, integers), bits), x.type)
    least, most = (_constant(vector, c) for c in _EXPONENTS[vector.dtype])
    tiny = builder.fcmp_ordered("<", x, least, flags=["nsz"])
    scaled = builder.select(tiny, _constant(vector, 0.0), scaled)
    if overflow:
        huge = builder.fcmp_ordered(">=", x, most, flags=["nsz"])
        scaled = builder.select(huge, _constant(vector, float("inf")), scaled)
    return scaled


@intrinsic
def exp2(typing_context, v):
    """Return 2^v to 1 ulp; subnormal results are 0, NaN gives NaN; exact at -inf, 0, inf."""
    if not _is_float(v):
        return None
    return v(v), lambda context, builder, signature, args: _exp2(builder, args[0], v, True)


@intrinsic
def exp2_nonpositive(typing_context, v):
    """Return `exp2` for arguments that can't overflow: one comparison less."""
    if not _is_float(v):
        return None
    return v(v), lambda context, builder, signature, args: _exp2(builder, args[0], v, False)


@intrinsic
def exp2_product(typing_context, v, high, low):
    """Return 2^(v (high + low)) for products that can't overflow, and without rounding them.

    ``high + low`` is a constant such as log2(e) in twice the precision: e^v to 1 ulp for any v,
    where rounding ``v * log2(e)`` first would cost |v| / 2 ulp. As fast as a product and `exp2`.
    """
    if not _is_float(v):
        return None

    def emit(context, builder, signature, args):
        h, l = (_cast(context, builder, args[i], signature.args[i], v) for i in (1, 2))
        integers = _vector_type(_integer_of(v))
        magic = _constant(v, _MAGIC[v.dtype])
        shifted = _fma(builder, args[0], h, magic)
        n = builder.fsub(shifted, magic, flags=["nsz"])
        f = _fma(builder, args[0], l, _fma(builder, args[0], h, builder.fneg(n)))
        q, bits = _power_of_two(builder, f, shifted, v)
        p = _fma(builder, q, f, _constant(v, 1.0))
        scaled = builder.bitcast(builder.add(builder.bitcast(p, integers), bits), n.type)
        tiny = builder.fcmp_ordered("<", n, _constant(v, _EXPONENTS[v.dtype][0] + 1), flags=["nsz"])
        return builder.select(tiny, _constant(v, 0.0), scaled)

    return v(v, high, low), emit


@intrinsic
def log(typing_context, v):
    """Return the natural logarithm of positive normal numbers to 2 ulp; log 0 = -inf, NaN stays.

    v = 2^k m with m in [sqrt(1/2), sqrt(2)), and log m = 2 atanh(t) = 2 t (1 + t^2/3 + t^4/5 + ...)
    for t = (m - 1) / (m + 1), |t| < 0.172.
    """
    if not _is_float(v):
        return None

    def emit(context, builder, signature, args):
        flags, kind = ["nsz"], args[0].type
        integer = _integer_of(v)
        integers = _vector_type(integer)
        mantissa = _constant(integer, _MANTISSA[v.dtype])
        root = builder.bitcast(_constant(v, 0.5**0.5), integers)
        one = _constant(v, 1.0)
        # The exponent relative to sqrt(1/2) leaves m in the wanted interval.
        shift = builder.ashr(builder.sub(builder.bitcast(args[0], integers), root), mantissa)
        m = builder.bitcast(
            builder.sub(builder.bitcast(args[0], integers), builder.shl(shift, mantissa)), kind
        )
        t = builder.fdiv(
            builder.fsub(m, one, flags=flags), builder.fadd(m, one, flags=flags), flags=flags
        )
        square = builder.fmul(t, t, flags=flags)
        terms = 5 if v.dtype == types.float32 else 11
        series = _constant(v, 1 / (2 * terms - 1))
        for i in reversed(range(1, terms - 1)):
            series = _fma(builder, series, square, _constant(v, 1 / (2 * i + 1)))
        double = builder.fadd(t, t, flags=flags)
        tail = builder.fmul(double, builder.fmul(series, square, flags=flags), flags=flags)
        log_m = builder.fadd(double, tail, flags=flags)
        k = builder.sitofp(shift, kind)
        value = _fma(builder, k, _constant(v, 0.6931471805599453), log_m)
        zero = builder.fcmp_ordered("==", args[0], _constant(v, 0.0), flags=flags)
        value = builder.select(zero, _constant(v, -float("inf")), value)
        bad = builder.fcmp_unordered("uno", args[0], args[0])
        return builder.select(bad, args[0], value)

    return v(v), emit


@intrinsic
def tanh(typing_context, v):
    """Return tanh(v) = m / (m + 2), m = e^(2|v|) - 1, with v's sign; relative error 4 ulp."""
    if not _is_float(v):
        return None

    def emit(context, builder, signature, args):
        flags = ["nsz"]
        integers = _vector_type(_integer_of(v))
        size = _call(builder, "llvm.fabs", args[0].type, [args[0]])
        # tanh is 1 to the last bit from here on; NaN passes the comparison's other side.
        bound = _constant(v, 10.0 if v.dtype == types.float32 else 20.0)
        size = builder.select(builder.fcmp_ordered(">", size, bound, flags=flags), bound, size)
        x = builder.fmul(size, _constant(v, 2.8853900817779268), flags=flags)  # 2 log2(e)
        f, q, bits = _split_exp2(builder, x, v)
        one = builder.bitcast(_constant(v, 1.0), integers)
        power = builder.bitcast(builder.add(one, bits), x.type)  # 2^n
        # e^(2|v|) - 1 = 2^n f q + (2^n - 1): no cancellation where n = 0.
        less = builder.fsub(power, _constant(v, 1.0), flags=flags)
        m = _fma(builder, power, builder.fmul(f, q, flags=flags), less)
        t = builder.fdiv(m, builder.fadd(m, _constant(v, 2.0), flags=flags), flags=flags)
        return _call(builder, "llvm.copysign", t.type, [t, args[0]])

    return v(v), emit


# --- Across lanes --------------------------------------------------------------------------------


def _larger(builder: Any, a: Any, b: Any, vector: Vector) -> Any:
    return builder.select(_compare(">")(builder, a, b, vector), a, b)


def _halves(builder: Any, value: Any, combine: Callable[..., Any]) -> Any:
    """Emit a reduction by halves: the order is fixed and the error grows with log(lanes) only."""
    count = value.type.count
    while count > 1:
        count //= 2
        index = ir.VectorType(ir.IntType(32), count)
        low = builder.shuffle_vector(value, value, ir.Constant(index, list(range(count))))
        high = builder.shuffle_vector(
            value, value, ir.Constant(index, list(range(count, 2 * count)))
        )
        value = combine(low, high)
    return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))


@intrinsic
def horizontal_sum(typing_context, v):
    """Return the sum of all lanes, added pairwise."""
    if not isinstance(v, Vector):
        return None

    def emit(context, builder, signature, args):
        add = _arithmetic("fadd", "add")
        return _halves(builder, args[0], lambda a, b: add(builder, a, b, v))

    return v.dtype(v), emit


def _line_by_line(combine: Callable[..., Any]) -> Callable[..., Any]:
    """Emit the reduction of each of ``lanes`` lines of ``lanes`` numbers: a tree of pairs."""

    def typed(typing_context, p):
        if not isinstance(p, Pointer):
            return None
        vector = _full(p.dtype)
        count = vector.count

        def emit(context, builder, signature, args):
            index = ir.VectorType(ir.IntType(32), count)
            places = (ir.Constant(ir.IntType(64), n * count) for n in range(count))
            lines = [_load(builder, builder.gep(args[0], [n]), vector) for n in places]
            bit = 1  # of the number of a line, and of the lane that will hold its result
            while len(lines) > 1:
                kept = [n + count if n & bit else n for n in range(count)]
                moved = [n ^ bit for n in kept]  # the other half of the same line
                # A selection and a shuffle: two shuffles would wait for each other.
                lines = [
                    combine(
                        builder,
                        builder.shuffle_vector(a, b, ir.Constant(index, kept)),
                        builder.shuffle_vector(a, b, ir.Constant(index, moved)),
                        vector,
                    )
                    for a, b in zip(lines[::2], lines[1::2], strict=True)
                ]
                bit *= 2
            return lines[0]

        return vector(p), emit

    return typed


# A selection, a shuffle and an operation for each pair of lines: a third of what reductions one by
# one take.
horizontal_sums = intrinsic(_line_by_line(_arithmetic("fadd", "add")))
horizontal_sums.__doc__ = (
    "Return the vector whose lane n is the sum of the ``lanes`` numbers at ``p + n * lanes``."
)
horizontal_maxima = intrinsic(_line_by_line(_larger))
horizontal_maxima.__doc__ = (
    "Return the vector whose lane n is the largest of the ``lanes`` numbers at ``p + n * lanes``; "
    "which NaN is noticed is not defined."
)


@intrinsic
def horizontal_max(typing_context, v):
    """Return the largest lane; which NaN lanes are noticed is not defined."""
    if not isinstance(v, Vector):
        return None

    def emit(context, builder, signature, args):
        return _halves(builder, args[0], lambda a, b: _larger(builder, a, b, v))

    return v.dtype(v), emit


@intrinsic
def any_true(typing_context, mask):
    """Return whether any lane of ``mask`` is true."""
    if not (isinstance(mask, Vector) and mask.dtype == types.boolean):
        return None

    def emit(context, builder, signature, args):
        bits = builder.bitcast(args[0], ir.IntType(mask.count))
        return builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))

    return types.boolean(mask), emit


@intrinsic
def transpose(typing_context, target, width, source, row, valid):
    """Write the transpose of a square: ``target[j * width + i] = source[i * row + j]``.

    i and j count the lanes of a vector; rows from ``valid`` on are copies of the one before. The
    square is turned in the registers, in log2(lanes)
    rounds of exchanges between pairs of rows: every element is loaded and stored once.
    """
    if not (isinstance(target, Pointer) and isinstance(source, Pointer)):
        return None
    vector = _full(source.dtype)
    count = vector.count
    index = ir.VectorType(ir.IntType(32), count)

    def emit(context, builder, signature, args):
        integer = ir.IntType(64)
        last = builder.sub(args[4], ir.Constant(integer, 1))

        def line(start: Any, step: Any, i: Any) -> Any:
            return builder.gep(start, [builder.mul(step, i)])

        numbers = [ir.Constant(integer, i) for i in range(count)]
        inside = [builder.select(builder.icmp_signed("<", i, last), i, last) for i in numbers]
        rows = [_load(builder, line(args[2], args[3], i), vector) for i in inside]
        block = 1
        while block < count:  # exchange the blocks off the diagonal of squares of 2 x 2 blocks
            low = [i if not i & block else count + i - block for i in range(count)]
            high = [i + block if not i & block else count + i for i in range(count)]
            for i in (i for i in range(count) if not i & block):
                a, b = rows[i], rows[i + block]
                rows[i] = builder.shuffle_vector(a, b, ir.Constant(index, low))
                rows[i + block] = builder.shuffle_vector(a, b, ir.Constant(index, high))
            block *= 2
        for i, value in zip(numbers, rows, strict=True):
            _store(builder, line(args[0], args[1], i), value, vector)
        return context.get_dummy_value()

    return types.none(target, types.intp, source, types.intp, types.intp), emit


# --- The register-tile product -------------------------------------------------------------------


@intrinsic(prefer_literal=True)
def product(
    typing_context, rows, columns, c, c_row, a, a_row, a_step, b, b_step, depth, valid, accumulate
):
    """Compute one register tile of a matrix product: ``C = A B``, or ``C += A B``.

    ``C[m, n] = sum_k a[m * a_row + k * a_step] * b[k * b_step + n]`` for ``m < rows`` and ``n <
    columns * lanes``, written to ``c[m * c_row + n]``. All ``rows * columns`` registers of C stay
    in the processor over the loop on ``k < depth``: an element of A is broadcast, a row of B is
    loaded as ``columns`` vectors.

    Parameters
    ----------
    rows, columns
        The tile in rows and vectors; integer constants.
    valid
        How many rows of A exist: rows past it read the last valid row again, so that C is written
        in whole tiles while nothing past the end of A is touched.
    accumulate
        Whether the tile starts from C rather than from zero.
    """
    if not all(isinstance(t, types.IntegerLiteral) for t in (rows, columns)):
        return None
    height, width = rows.literal_value, columns.literal_value
    vector = _full(c.dtype)
    count = vector.count
    wide = types.intp
    kinds = (rows, columns, c, wide, a, wide, wide, b, wide, wide, wide, types.boolean)

    def emit(context, builder, signature, args):
        _, _, c0, c_step, a0, a_stride, a_inner, b0, b_inner, n_depth, n_valid, again = args
        integer = ir.IntType(64)
        last = builder.sub(n_valid, ir.Constant(integer, 1))
        c_places, a_places = [], []
        for m in range(height):
            row = ir.Constant(integer, m)
            kept = builder.select(builder.icmp_signed("<", row, last), row, last)
            a_places.append(builder.gep(a0, [builder.mul(kept, a_stride)]))
            start = builder.gep(c0, [builder.mul(row, c_step)])
            c_places.append(
                [builder.gep(start, [ir.Constant(integer, n * count)]) for n in range(width)]
            )
        zero = _constant(vector, 0.0)
        entry = builder.block
        blocks = ("loop", "end", "add", "done")
        loop, end, add, done = (builder.append_basic_block(f"product.{name}") for name in blocks)
        builder.cbranch(builder.icmp_signed(">", n_depth, ir.Constant(integer, 0)), loop, end)

        builder.position_at_end(loop)
        k = builder.phi(integer)
        totals = [[builder.phi(zero.type) for _ in range(width)] for _ in range(height)]
        b_row = builder.gep(b0, [builder.mul(k, b_inner)])
        line_b = [
            _load(builder, builder.gep(b_row, [ir.Constant(integer, n * count)]), vector)
            for n in range(width)
        ]
        offset = builder.mul(k, a_inner)
        sums = []
        for m in range(height):
            element = builder.load(builder.gep(a_places[m], [offset]))
            repeated = _repeat(builder, element, count)
            sums.append([_fma(builder, repeated, line_b[n], totals[m][n]) for n in range(width)])
        following = builder.add(k, ir.Constant(integer, 1), flags=["nsw"])
        k.add_incoming(ir.Constant(integer, 0), entry)
        k.add_incoming(following, loop)
        for m in range(height):
            for n in range(width):
                totals[m][n].add_incoming(zero, entry)
                totals[m][n].add_incoming(sums[m][n], loop)
        builder.cbranch(builder.icmp_signed("<", following, n_depth), loop, end)

        builder.position_at_end(end)
        results = []
        for m in range(height):
            for n in range(width):
                result = builder.phi(zero.type)
                result.add_incoming(zero, entry)
                result.add_incoming(sums[m][n], loop)
                results.append((c_places[m][n], result))
        builder.cbranch(again, add, done)

        # What C held is added last: a chain of additions is as long as one tile, not as the sum of
        # all tiles, and its rounding errors grow with that length.
        builder.position_at_end(add)
        sums_with_c = [builder.fadd(_load(builder, c, vector), result) for c, result in results]
        builder.branch(done)

        builder.position_at_end(done)
        values = [builder.phi(zero.type) for _ in results]
        for (place, result), with_c, value in zip(results, sums_with_c, values, strict=True):
            value.add_incoming(result, end)
            value.add_incoming(with_c, add)
            _store(builder, place, value, vector)
        return context.get_dummy_value()

    return types.none(*kinds), emit
