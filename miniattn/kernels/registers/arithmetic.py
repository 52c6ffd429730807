"""Arithmetic on vectors: operators, multiply-add, comparison and selection, rounding, bits."""

import operator
from collections.abc import Callable
from typing import Any

from numba import types
from numba.extending import intrinsic, lower_builtin, type_callable

from miniattn.kernels.registers import build
from miniattn.kernels.registers.memory import _indices
from miniattn.kernels.registers.types import (
    Vector,
    common,
    count_of,
    full,
    integer_of,
    is_float,
    mask_of,
)


def _operator(symbols: tuple[Any, ...], emit: Callable[..., Any], compares: bool = False) -> None:
    """Give the operators ``symbols`` a meaning on vectors (and a vector beside a scalar)."""

    def typing(context: Any) -> Callable[..., Any]:
        def typer(a: types.Type, b: types.Type) -> types.Type | None:
            vector = common(a, b)
            return mask_of(vector) if vector is not None and compares else vector

        return typer

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = common(*signature.args)
        a, b = (
            build.cast(context, builder, value, kind, vector)
            for value, kind in zip(args, signature.args, strict=True)
        )
        return emit(builder, a, b, vector)

    for symbol in symbols:
        type_callable(symbol)(typing)
        for pair in ((Vector, Vector), (Vector, types.Any), (types.Any, Vector)):
            lower_builtin(symbol, *pair)(lower)


_operator((operator.add, operator.iadd), build.arithmetic("fadd", "add"))


_operator((operator.sub, operator.isub), build.arithmetic("fsub", "sub"))


_operator((operator.mul, operator.imul), build.arithmetic("fmul", "mul"))


_operator((operator.truediv, operator.itruediv), build.arithmetic("fdiv", "udiv"))


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
    _operator((_function,), build.compare(_symbol), compares=True)


def _unary(symbol: Any, accepts: Callable[[types.Type], bool], emit: Callable[..., Any]) -> None:
    @type_callable(symbol)
    def typing(context: Any) -> Callable[..., Any]:
        return lambda a: a if accepts(a) else None

    @lower_builtin(symbol, Vector)
    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return emit(builder, args[0])


_unary(operator.neg, is_float, lambda builder, a: builder.fneg(a))


_unary(
    operator.invert,
    lambda a: isinstance(a, Vector) and not is_float(a),
    lambda builder, a: builder.not_(a),
)


@intrinsic
def splat(typing_context, x, like):
    """Return the scalar ``x``, cast to ``like``'s dtype, in every lane."""
    vector = like if isinstance(like, Vector) else full(like.dtype)

    def emit(context, builder, signature, args):
        return build.cast(context, builder, args[0], x, vector)

    return vector(x, like), emit


@intrinsic
def iota(typing_context, like, dtype):
    """Return the integers 0, 1, 2, ... of ``dtype``, as many as ``like``'s dtype has lanes."""
    if not isinstance(dtype, types.NumberClass):
        return None
    count = like.count if isinstance(like, Vector) else count_of(like.dtype)
    vector = Vector(dtype.dtype, count)
    return vector(like, dtype), lambda context, builder, signature, args: _indices(
        builder, count, vector.dtype.bitwidth
    )


@intrinsic
def fma(typing_context, a, b, c):
    """Return ``a * b + c`` with one rounding; any of them may be a scalar."""
    vector = next((t for t in (a, b, c) if isinstance(t, Vector)), None)
    if vector is None or not is_float(vector):
        return None

    def emit(context, builder, signature, args):
        cast = [
            build.cast(context, builder, x, t, vector) for x, t in zip(args, (a, b, c), strict=True)
        ]
        return build.fma(builder, *cast)

    return vector(a, b, c), emit


@intrinsic
def select(typing_context, mask, a, b):
    """Return ``a`` where ``mask`` is true, else ``b``; one of the two may be a scalar."""
    vector = a if isinstance(a, Vector) else b
    if not (isinstance(vector, Vector) and mask == mask_of(vector)):
        return None

    def emit(context, builder, signature, args):
        x, y = (build.cast(context, builder, args[i], signature.args[i], vector) for i in (1, 2))
        return builder.select(args[0], x, y)

    return vector(mask, a, b), emit


def _extremum(symbol: str) -> Callable[..., Any]:
    def typed(typing_context: Any, a: Any, b: Any) -> Any:
        vector = common(a, b)
        if vector is None:
            return None

        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            x, y = (
                build.cast(context, builder, v, t, vector)
                for v, t in zip(args, (a, b), strict=True)
            )
            return builder.select(build.compare(symbol)(builder, x, y, vector), x, y)

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
    def typed(typing_context: Any, v: Any) -> Any:
        if not is_float(v):
            return None
        return v(v), lambda context, builder, signature, args: build.call(
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
    result = integer_of(v)
    return result(v), lambda context, builder, signature, args: builder.bitcast(
        args[0], build.vector_type(result)
    )


@intrinsic
def to_float(typing_context, v, like):
    """Return integers (read as signed) as floats of ``like``'s dtype, of the same width."""
    vector = Vector(like.dtype, v.count)
    return vector(v, like), lambda context, builder, signature, args: builder.sitofp(
        args[0], build.vector_type(vector)
    )
