"""The matrix unit of Intel processors (AMX), and float32 products on it. Emits LLVM IR.

The unit has eight registers (Intel calls them tiles) of 16 x 16 words of 32 bits: a *square*. One
instruction multiplies a square of pairs of bfloat16 numbers by another and adds to a square of
float32: 16 times the multiply-adds of the vector registers. bfloat16 is the upper half of
float32, with 8 bits of precision, and three of them make up the 24 of a float32 number exactly::

    x = x1 + x2 + x3        |x2| <= 2^-8 |x|        |x3| <= 2^-15 |x|

    x y = x1 y1 + (x1 y2 + x2 y1) + (x1 y3 + x2 y2 + x3 y1) + less than 2^-22 |x y|

So six products of parts give one product in float32. What they leave out is below the last bit of
x y but for the unluckiest of numbers, and sums are kept in float32 by either unit.

What the three parts cannot hold are numbers near either end of float32: the unit takes numbers
below 2^-126 for 0, and the parts of infinity and NaN are no good. `fits` says what may be split.

Operands of a product are laid out in squares of 16 x 16 pairs, one for each part, side by side:
`PARTS` words for 16 rows (of A) or columns (of B) and 32 terms of the sum. The terms of a pair are
16 apart, so that the pairs of 16 numbers are made from two vectors, with no exchange of lanes::

    A: word t of row m      holds  a[m, 32 c + t]  and  a[m, 32 c + 16 + t]
    B: word n of row t      holds  b[32 c + t, n]  and  b[32 c + 16 + t, n]

Whether the unit is used says the environment variable ``MINIATTN_AMX``: see `compile.target`.
``emulate`` puts vector registers in its place. They do one instruction after the other as the
unit's manual says, to the same bits, so that everything built on these instructions can be
tested anywhere.

References
----------
Intel. "Architecture Instruction Set Extensions Programming Reference", chapter 3 (AMX).
Henry, Tang, Heinecke. "Leveraging the bfloat16 Artificial Intelligence Datatype For
Higher-Precision Computations" (2019).
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from miniattn.kernels.compile.target import UNIT
from miniattn.kernels.registers import Pointer, Vector, build

__all__ = [
    "CHUNK",
    "EMULATED",
    "PARTS",
    "SIDE",
    "STEPS",
    "add_squares",
    "configure",
    "release",
    "store_parts",
    "store_squares",
    "zero_squares",
]

SIDE = 16  # rows of a square, and words in each
CHUNK = 2 * SIDE  # terms of the sum that one instruction adds up
PARTS = 3 * SIDE * SIDE  # words of the squares of three parts

EMULATED = UNIT.emulated  # a part of the cache's keys

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_ANYTHING = _I8.as_pointer()


def _instruction(builder: Any, name: str, *args: Any) -> None:
    """Emit an instruction of the unit, or what stands for it; an int names a register."""
    if EMULATED:
        _EMULATION[name](builder, *args)
        return
    values = [ir.Constant(_I8, a) if isinstance(a, int) else a for a in args]
    kind = ir.FunctionType(ir.VoidType(), [v.type for v in values])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}")
    builder.call(function, values)


@intrinsic
def configure(typing_context):
    """Set the unit up: eight registers of 16 rows of 64 bytes. Each thread does so for itself."""

    def emit(context, builder, signature, args):
        # Palette 1, then 14 bytes of zeros; bytes of a row, as 16 numbers of 16 bits; rows.
        layout = bytes([1]) + bytes(15) + bytes([64, 0] * 8 + [0] * 16) + bytes([16] * 8 + [0] * 8)
        kind = ir.ArrayType(_I8, len(layout))
        place = cgutils.global_constant(builder, "tiles", ir.Constant(kind, bytearray(layout)))
        _instruction(builder, "ldtilecfg", builder.bitcast(place, _ANYTHING))
        return context.get_dummy_value()

    return types.none(), emit


@intrinsic
def release(typing_context):
    """Give the unit back, so that its registers needn't be saved when threads are switched."""

    def emit(context, builder, signature, args):
        _instruction(builder, "tilerelease")
        return context.get_dummy_value()

    return types.none(), emit


@intrinsic
def store_parts(typing_context, p, low, high):
    """Write a row of squares: its pairs are of ``low`` and ``high``, its parts ``SIDE**2`` apart.

    ``low`` and ``high`` are float32 vectors of finite numbers.
    """
    vector = Vector(types.float32, SIDE)
    if not (isinstance(p, Pointer) and low == vector and high == vector):
        return None
    floats, words = ir.VectorType(ir.FloatType(), SIDE), ir.VectorType(_I32, SIDE)

    def constant(n: int) -> ir.Constant:
        return ir.Constant(words, [ir.Constant(_I32, n)] * SIDE)

    upper, half, sixteen = constant(0xFFFF0000), constant(0x8000), constant(16)

    def parts(builder: Any, x: Any) -> tuple[Any, Any, Any]:
        """Emit x1, rounded; x2, cut off; and x3, the rest: all exact, all in the upper half."""
        bits = builder.bitcast(x, words)
        first = builder.and_(builder.add(bits, half), upper)
        rest = builder.fsub(x, builder.bitcast(first, floats), flags=["nsz"])
        second = builder.and_(builder.bitcast(rest, words), upper)
        third = builder.fsub(rest, builder.bitcast(second, floats), flags=["nsz"])
        return first, second, builder.bitcast(third, words)

    def emit(context, builder, signature, args):
        lows, highs = (parts(builder, x) for x in args[1:])
        for n, (a, b) in enumerate(zip(lows, highs, strict=True)):
            pairs = builder.or_(builder.lshr(a, sixteen), builder.and_(b, upper))
            place = builder.gep(args[0], [ir.Constant(_I64, n * SIDE * SIDE)])
            builder.store(pairs, builder.bitcast(place, words.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.none(p, low, high), emit


# Which parts of A and of B are multiplied, the smallest first. From one product to the next only
# one of the two has to be loaded.
_PRODUCTS = ((0, 2), (0, 1), (1, 1), (1, 0), (2, 0), (0, 0))
STEPS = len(_PRODUCTS)
_A, _B = 4, 6  # registers of A and of B, two each; those before are of C


def _squares(rows: Any, columns: Any) -> list[tuple[int, int, int]] | None:
    """Return the row, the column and the register of the squares of C; sizes are constants."""
    if not all(isinstance(t, types.IntegerLiteral) for t in (rows, columns)):
        return None
    return [
        (m, n, 2 * m + n) for m in range(rows.literal_value) for n in range(columns.literal_value)
    ]


@intrinsic(prefer_literal=True)
def zero_squares(typing_context, rows, columns):
    """Begin a product ``C = A B`` of ``rows * SIDE`` by ``columns * SIDE`` numbers of C.

    ``rows`` and ``columns`` are 1 or 2; up to four squares of C stay in the unit's registers.
    """
    squares = _squares(rows, columns)
    if squares is None:
        return None

    def emit(context, builder, signature, args):
        for _, _, register in squares:
            _instruction(builder, "tilezero", register)
        return context.get_dummy_value()

    return types.none(rows, columns), emit


@intrinsic(prefer_literal=True)
def add_squares(typing_context, rows, columns, start, stop, a, b):
    """Add the products of 32 terms of the sum: the steps ``start`` to ``stop`` of six.

    Parameters
    ----------
    rows, columns, start, stop
        Integer constants. Steps are taken in order, and by the same squares.
    a, b
        `Lines` of packed squares: where those of A and of B lie, and how far behind them those of
        the next row of squares (of A) or column (of B).
    """
    squares = _squares(rows, columns)
    if squares is None or not all(isinstance(t, types.IntegerLiteral) for t in (start, stop)):
        return None
    first, last = start.literal_value, stop.literal_value

    def emit(context, builder, signature, args):
        (a0, a_stride), (b0, b_stride) = (cgutils.unpack_tuple(builder, x) for x in args[4:])
        row = ir.Constant(_I64, 4 * SIDE)

        def load(register: int, base: Any, stride: Any, i: int, part: int) -> None:
            away = builder.mul(stride, ir.Constant(_I64, i))
            place = builder.gep(base, [builder.add(away, ir.Constant(_I64, part * SIDE * SIDE))])
            _instruction(builder, "tileloadd64", register, builder.bitcast(place, _ANYTHING), row)

        for step in range(first, last):
            part_a, part_b = _PRODUCTS[step]
            before_a, before_b = _PRODUCTS[step - 1] if step else (None, None)
            for m in range(rows.literal_value if part_a != before_a else 0):
                load(_A + m, a0, a_stride, m, part_a)
            for n in range(columns.literal_value if part_b != before_b else 0):
                load(_B + n, b0, b_stride, n, part_b)
            for m, n, register in squares:
                _instruction(builder, "tdpbf16ps", register, _A + m, _B + n)
        return context.get_dummy_value()

    return types.none(rows, columns, start, stop, a, b), emit


@intrinsic(prefer_literal=True)
def store_squares(typing_context, rows, columns, c):
    """Write the squares of C to the rows of `Lines`."""
    squares = _squares(rows, columns)
    if squares is None:
        return None

    def emit(context, builder, signature, args):
        start, step = cgutils.unpack_tuple(builder, args[2])
        bytes_apart = builder.mul(step, ir.Constant(_I64, 4))
        for m, n, register in squares:
            down = builder.mul(step, ir.Constant(_I64, m * SIDE))
            place = builder.gep(start, [builder.add(down, ir.Constant(_I64, n * SIDE))])
            place = builder.bitcast(place, _ANYTHING)
            _instruction(builder, "tilestored64", register, place, bytes_apart)
        return context.get_dummy_value()

    return types.none(rows, columns, c), emit


# --- The unit, emulated --------------------------------------------------------------------------

_ROW = ir.VectorType(_I32, SIDE)
_FLOATS = ir.VectorType(ir.FloatType(), SIDE)
_SQUARE = ir.ArrayType(_ROW, SIDE)
_REGISTERS = 8


def _register(builder: Any, number: int) -> Any:
    """Emit the place of a register: on the stack of the function that is being compiled.

    So a product has to begin and to end in one function, as it does.
    """
    function = builder.function
    if not hasattr(function, "unit_registers"):
        with builder.goto_entry_block():
            function.unit_registers = builder.alloca(ir.ArrayType(_SQUARE, _REGISTERS))
        function.unit_registers.align = 64
    return builder.gep(function.unit_registers, [ir.Constant(_I64, 0), ir.Constant(_I64, number)])


def _row_of(builder: Any, square: Any, row: Any) -> Any:
    return builder.gep(square, [ir.Constant(_I64, 0), row])


def _each(builder: Any) -> Any:
    """Emit a loop over the rows of a square, or over the words of a row."""
    return cgutils.for_range(builder, ir.Constant(_I64, SIDE))


def _in_memory(builder: Any, place: Any, stride: Any, row: Any) -> Any:
    """Emit the place of a row of a square in memory, whose rows are ``stride`` bytes apart."""
    return builder.bitcast(builder.gep(place, [builder.mul(row, stride)]), _ROW.as_pointer())


def _zero(builder: Any, register: int) -> None:
    square = _register(builder, register)
    with _each(builder) as loop:
        builder.store(ir.Constant(_ROW, [0] * SIDE), _row_of(builder, square, loop.index))


def _load(builder: Any, register: int, place: Any, stride: Any) -> None:
    square = _register(builder, register)
    with _each(builder) as loop:
        words = builder.load(_in_memory(builder, place, stride, loop.index), align=4)
        builder.store(words, _row_of(builder, square, loop.index))


def _save(builder: Any, register: int, place: Any, stride: Any) -> None:
    square = _register(builder, register)
    with _each(builder) as loop:
        words = builder.load(_row_of(builder, square, loop.index))
        builder.store(words, _in_memory(builder, place, stride, loop.index), align=4)


def _multiply(builder: Any, c: int, a: int, b: int) -> None:
    """Emit ``C += A B`` as a call: it is long, and it is wanted often."""
    squares = [_register(builder, n) for n in (c, a, b)]
    kind = ir.FunctionType(ir.VoidType(), [square.type for square in squares])
    function = cgutils.get_or_insert_function(builder.module, kind, "miniattn.tdpbf16ps")
    if function.is_declaration:
        function.linkage = "linkonce_odr"
        function.attributes.add("noinline")
        _define_product(function)
    builder.call(function, squares)


def _define_product(function: Any) -> None:
    """Write the function ``C += A B`` of squares.

    The first numbers of pairs and the second are added up apart, then one to the other, and that to
    C. Products of two bfloat16 numbers are exact.
    """
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    c, a, b = function.args
    sums = [builder.alloca(_FLOATS) for _ in range(2)]
    with _each(builder) as rows:
        for place in sums:
            builder.store(ir.Constant(_FLOATS, [0.0] * SIDE), place)
        with _each(builder) as terms:
            word = builder.extract_element(
                builder.load(_row_of(builder, a, rows.index)), terms.index
            )
            left = _halves(builder, build.repeat(builder, word, SIDE))
            right = _halves(builder, builder.load(_row_of(builder, b, terms.index)))
            for place, x, y in zip(sums, left, right, strict=True):
                total = builder.fadd(builder.load(place), builder.fmul(x, y))
                builder.store(_flushed(builder, total), place)
        row = builder.bitcast(_row_of(builder, c, rows.index), _FLOATS.as_pointer())
        first, second = (builder.load(place) for place in sums)
        both = _flushed(builder, builder.fadd(first, second))
        builder.store(_flushed(builder, builder.fadd(builder.load(row), both)), row)
    builder.ret_void()


def _halves(builder: Any, words: Any) -> list[Any]:
    """Emit the two bfloat16 numbers of each word as float32."""
    upper = ir.Constant(_ROW, [0xFFFF0000] * SIDE)
    both = builder.shl(words, ir.Constant(_ROW, [16] * SIDE)), builder.and_(words, upper)
    return [_flushed(builder, builder.bitcast(bits, _FLOATS)) for bits in both]


def _flushed(builder: Any, numbers: Any) -> Any:
    """Emit numbers with 0 for those below 2^-126, as the unit reads and writes them."""
    zero = ir.Constant(_ROW, [0] * SIDE)
    bits = builder.bitcast(numbers, _ROW)
    exponents = builder.and_(bits, ir.Constant(_ROW, [0x7F800000] * SIDE))
    tiny = builder.icmp_unsigned("==", exponents, zero)
    return builder.bitcast(builder.select(tiny, zero, bits), _FLOATS)


def _nothing(builder: Any, *args: Any) -> None:
    """Set up and give back what is on the stack anyway."""


_EMULATION: dict[str, Callable[..., None]] = {
    "ldtilecfg": _nothing,
    "tilerelease": _nothing,
    "tilezero": _zero,
    "tileloadd64": _load,
    "tilestored64": _save,
    "tdpbf16ps": _multiply,
}
