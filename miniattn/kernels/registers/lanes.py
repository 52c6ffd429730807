"""Across lanes: sums and maxima of a register, look-ups, and squares turned in registers."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from miniattn.kernels.registers import build
from miniattn.kernels.registers.types import Pointer, Vector, count_of, full


@intrinsic
def lookup(typing_context, v, p):
    """Return ``v[p[0]], v[p[1]], ...``: the lanes of ``v`` whose int32 numbers stand at ``p``."""
    if not (isinstance(v, Vector) and isinstance(p, Pointer) and p.dtype == types.int32):
        return None
    numbers = Vector(types.int32, v.count)

    def emit(context, builder, signature, args):
        places = build.load(builder, args[1], numbers)
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


def _larger(builder: Any, a: Any, b: Any, vector: Vector) -> Any:
    return builder.select(build.compare(">")(builder, a, b, vector), a, b)


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
        add = build.arithmetic("fadd", "add")
        return _halves(builder, args[0], lambda a, b: add(builder, a, b, v))

    return v.dtype(v), emit


def _line_by_line(combine: Callable[..., Any]) -> Callable[..., Any]:
    """Emit the reduction of each of ``lanes`` lines of ``lanes`` numbers: a tree of pairs."""

    def typed(typing_context: Any, p: Any) -> Any:
        if not isinstance(p, Pointer):
            return None
        vector = full(p.dtype)
        count = vector.count

        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            index = ir.VectorType(ir.IntType(32), count)
            places = (ir.Constant(ir.IntType(64), n * count) for n in range(count))
            lines = [build.load(builder, builder.gep(args[0], [n]), vector) for n in places]
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
horizontal_sums = intrinsic(_line_by_line(build.arithmetic("fadd", "add")))


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
def bits_of(typing_context, mask):
    """Return the lanes of ``mask`` as the low bits of a 64-bit word, lane 0 first."""
    if not (isinstance(mask, Vector) and mask.dtype == types.boolean and mask.count <= 64):
        return None

    def emit(context, builder, signature, args):
        word = builder.bitcast(args[0], ir.IntType(mask.count))
        return word if mask.count == 64 else builder.zext(word, ir.IntType(64))

    return types.uint64(mask), emit


@intrinsic
def mask_of_bits(typing_context, word, like):
    """Return the low bits of a word as a mask, for vectors like ``like``; `bits_of` undoes it."""
    if not isinstance(word, types.Integer):
        return None
    count = like.count if isinstance(like, Vector) else count_of(like.dtype)

    def emit(context, builder, signature, args):
        kind = ir.IntType(count)
        low = args[0] if word.bitwidth == count else builder.trunc(args[0], kind)
        return builder.bitcast(low, ir.VectorType(ir.IntType(1), count))

    return Vector(types.boolean, count)(word, like), emit


@intrinsic
def transpose(typing_context, target, width, source, row, valid):
    """Write the transpose of a square: ``target[j * width + i] = source[i * row + j]``.

    i and j count the lanes of a vector; rows from ``valid`` on are copies of the one before. The
    square is turned in the registers, in log2(lanes)
    rounds of exchanges between pairs of rows: every element is loaded and stored once.
    """
    if not (isinstance(target, Pointer) and isinstance(source, Pointer)):
        return None
    vector = full(source.dtype)
    count = vector.count
    index = ir.VectorType(ir.IntType(32), count)

    def emit(context, builder, signature, args):
        integer = ir.IntType(64)
        last = builder.sub(args[4], ir.Constant(integer, 1))

        def line(start: Any, step: Any, i: Any) -> Any:
            return builder.gep(start, [builder.mul(step, i)])

        numbers = [ir.Constant(integer, i) for i in range(count)]
        inside = [builder.select(builder.icmp_signed("<", i, last), i, last) for i in numbers]
        rows = [build.load(builder, line(args[2], args[3], i), vector) for i in inside]
        side = 1
        while side < count:  # exchange what is off the diagonal of 2 x 2 parts
            low = [i if not i & side else count + i - side for i in range(count)]
            high = [i + side if not i & side else count + i for i in range(count)]
            for i in (i for i in range(count) if not i & side):
                a, b = rows[i], rows[i + side]
                rows[i] = builder.shuffle_vector(a, b, ir.Constant(index, low))
                rows[i + side] = builder.shuffle_vector(a, b, ir.Constant(index, high))
            side *= 2
        for i, value in zip(numbers, rows, strict=True):
            build.store(builder, line(args[0], args[1], i), value, vector)
        return context.get_dummy_value()

    return types.none(target, types.intp, source, types.intp, types.intp), emit
