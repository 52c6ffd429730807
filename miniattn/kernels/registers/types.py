"""The two types of registers: `Vector`, numbers in one register, and `Pointer`, an address.

The lane count is a property of Numba's target; see `LANES`.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import models, register_model

from miniattn.kernels.compile.target import LANES


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


FLOATS = (types.float32, types.float64)


def llvm_type(dtype: types.Type) -> ir.Type:
    """Return LLVM's type of one number."""
    if dtype == types.float32:
        return ir.FloatType()
    if dtype == types.float64:
        return ir.DoubleType()
    return ir.IntType(1 if dtype == types.boolean else dtype.bitwidth)


@register_model(Pointer)
class _PointerModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Pointer) -> None:
        super().__init__(manager, fe_type, llvm_type(fe_type.dtype).as_pointer())


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Vector) -> None:
        super().__init__(manager, fe_type, ir.VectorType(llvm_type(fe_type.dtype), fe_type.count))


def count_of(dtype: types.Type) -> int:
    """Lanes of a full register of ``dtype``."""
    return LANES * 32 // int(dtype.bitwidth)


def full(dtype: types.Type) -> Vector:
    """Return the type of a full register."""
    return Vector(dtype, count_of(dtype))


def mask_of(vector: Vector) -> Vector:
    """Return the type of what comparisons of such vectors give."""
    return Vector(types.boolean, vector.count)


def integer_of(vector: Vector) -> Vector:
    """The unsigned integers of the same width."""
    return Vector(types.uint32 if vector.dtype.bitwidth == 32 else types.uint64, vector.count)


def is_float(vector: types.Type) -> bool:
    """Return whether a type is a vector of floating-point numbers."""
    return isinstance(vector, Vector) and vector.dtype in FLOATS


def common(a: types.Type, b: types.Type) -> Vector | None:
    """The vector type of ``a op b``, or None where this file has nothing to say."""
    if isinstance(a, Vector) and (a == b or isinstance(b, types.Number | types.Boolean)):
        return a
    if isinstance(b, Vector) and isinstance(a, types.Number | types.Boolean):
        return b
    return None
