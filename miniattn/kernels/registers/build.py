"""LLVM instructions on whole vectors, as the intrinsics of this folder put them together.

These functions run while a kernel is compiled: they take a builder and values of LLVM.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from miniattn.kernels.registers.types import Vector, is_float, llvm_type


def vector_type(vector: Vector) -> ir.VectorType:
    """Return LLVM's type of a register."""
    return ir.VectorType(llvm_type(vector.dtype), vector.count)


def constant(vector: Vector, value: float) -> ir.Constant:
    """Return a register whose lanes all hold a constant."""
    return ir.Constant(
        vector_type(vector), [ir.Constant(llvm_type(vector.dtype), value)] * vector.count
    )


def repeat(builder: Any, scalar: Any, count: int) -> Any:
    """Emit a vector whose lanes all hold ``scalar``."""
    start = ir.Constant(ir.VectorType(scalar.type, count), ir.Undefined)
    one = builder.insert_element(start, scalar, ir.Constant(ir.IntType(32), 0))
    pattern = ir.Constant(ir.VectorType(ir.IntType(32), count), [0] * count)
    return builder.shuffle_vector(one, start, pattern)


def call(builder: Any, name: str, result: Any, args: list[Any], overload: Any = None) -> Any:
    """Emit a call of the LLVM intrinsic ``name``, overloaded on one vector type."""
    kind = result if overload is None else overload
    letter = {"float": "f32", "double": "f64"}.get(str(kind.element), str(kind.element))
    mangled = f"{name}.v{kind.count}{letter}"
    function_type = ir.FunctionType(result, [a.type for a in args])
    function = cgutils.get_or_insert_function(builder.module, function_type, mangled)
    return builder.call(function, args)


def fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Emit ``a * b + c`` with one rounding."""
    return call(builder, "llvm.fma", a.type, [a, b, c])


def load(builder: Any, address: Any, vector: Vector) -> Any:
    """Emit a load from any address of a whole number of elements."""
    typed = builder.bitcast(address, vector_type(vector).as_pointer())
    return builder.load(typed, align=vector.dtype.bitwidth // 8)


def store(builder: Any, address: Any, value: Any, vector: Vector) -> Any:
    """Emit a store to such an address."""
    typed = builder.bitcast(address, vector_type(vector).as_pointer())
    return builder.store(value, typed, align=vector.dtype.bitwidth // 8)


def cast(context: Any, builder: Any, value: Any, kind: types.Type, vector: Any) -> Any:
    """Emit ``value`` as a ``vector``: itself, or a scalar cast to its dtype and repeated."""
    if isinstance(kind, Vector):
        return value
    return repeat(builder, context.cast(builder, value, kind, vector.dtype), vector.count)


def arithmetic(float_name: str, integer_name: str) -> Callable[..., Any]:
    """Return what emits an operation, by its names for floats and for integers."""

    def emit(builder: Any, a: Any, b: Any, vector: Vector) -> Any:
        if is_float(vector):
            # As written, in this order; only a multiply-add may be fused.
            return getattr(builder, float_name)(a, b, flags=["nsz", "contract"])
        return getattr(builder, integer_name)(a, b)

    return emit


def compare(symbol: str) -> Callable[..., Any]:
    """Return what emits a comparison."""

    def emit(builder: Any, a: Any, b: Any, vector: Vector) -> Any:
        if not is_float(vector):
            signed = getattr(vector.dtype, "signed", False)
            return (builder.icmp_signed if signed else builder.icmp_unsigned)(symbol, a, b)
        # != is true for NaN, every other comparison false: as in NumPy.
        ordered = builder.fcmp_unordered if symbol == "!=" else builder.fcmp_ordered
        return ordered(symbol, a, b, flags=["nsz"])

    return emit
