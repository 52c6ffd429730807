"""Exponential, logarithm and hyperbolic tangent on vectors, by polynomials of their own."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from miniattn.kernels.compile.target import SCALEF
from miniattn.kernels.registers import build
from miniattn.kernels.registers.types import Vector, count_of, integer_of, is_float

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
    magic = build.constant(vector, _MAGIC[vector.dtype])
    shifted = builder.fadd(x, magic, flags=["nsz"])
    f = builder.fsub(x, builder.fsub(shifted, magic, flags=["nsz"]), flags=["nsz"])
    return f, *_power_of_two(builder, f, shifted, vector)


def _power_of_two(builder: Any, f: Any, shifted: Any, vector: Vector) -> tuple[Any, Any]:
    """Emit (q, bits) for 2^(n + f) = 2^n (1 + f q), given shifted = n + magic."""
    integers = integer_of(vector)
    *rest, q = (build.constant(vector, c) for c in _EXP2[vector.dtype])
    for coefficient in reversed(rest):
        q = build.fma(builder, q, f, coefficient)
    bits = builder.shl(
        builder.bitcast(shifted, build.vector_type(integers)),
        build.constant(integers, _MANTISSA[vector.dtype]),
    )
    return q, bits


def _exp2_scalef(builder: Any, x: Any, vector: Vector) -> Any:
    """Emit 2^x with AVX-512's own steps: f = x - round(x), then p * 2^n, or 0 below 2^-126."""
    suffix = "ps" if vector.dtype == types.float32 else "pd"
    word, zero = ir.IntType(32), build.constant(vector, 0.0)
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
    *rest, q = (build.constant(vector, c) for c in _EXP2[vector.dtype])
    for coefficient in reversed(rest):
        q = build.fma(builder, q, f, coefficient)
    p = build.fma(builder, q, f, build.constant(vector, 1.0))
    least = build.constant(vector, _EXPONENTS[vector.dtype][0])
    kept = builder.fcmp_unordered(">=", x, least, flags=["nsz"])  # NaN stays
    return call("scalef", n, p, builder.bitcast(kept, bits))


def _exp2(builder: Any, x: Any, vector: Vector, overflow: bool) -> Any:
    """Emit 2^x: the exponent n is added to the exponent field of 1 + f q in [0.7, 1.42]."""
    if SCALEF and vector.count == count_of(vector.dtype):
        return _exp2_scalef(builder, x, vector)
    integers = build.vector_type(integer_of(vector))
    f, q, bits = _split_exp2(builder, x, vector)
    p = build.fma(builder, q, f, build.constant(vector, 1.0))
    scaled = builder.bitcast(builder.add(builder.bitcast(p, integers), bits), x.type)
    least, most = (build.constant(vector, c) for c in _EXPONENTS[vector.dtype])
    tiny = builder.fcmp_ordered("<", x, least, flags=["nsz"])
    scaled = builder.select(tiny, build.constant(vector, 0.0), scaled)
    if overflow:
        huge = builder.fcmp_ordered(">=", x, most, flags=["nsz"])
        scaled = builder.select(huge, build.constant(vector, float("inf")), scaled)
    return scaled


@intrinsic
def exp2(typing_context, v):
    """Return 2^v to 1 ulp; subnormal results are 0, NaN gives NaN; exact at -inf, 0, inf."""
    if not is_float(v):
        return None
    return v(v), lambda context, builder, signature, args: _exp2(builder, args[0], v, True)


@intrinsic
def exp2_nonpositive(typing_context, v):
    """Return `exp2` for arguments that can't overflow: one comparison less."""
    if not is_float(v):
        return None
    return v(v), lambda context, builder, signature, args: _exp2(builder, args[0], v, False)


@intrinsic
def exp2_product(typing_context, v, high, low):
    """Return 2^(v (high + low)) for products that can't overflow, and without rounding them.

    ``high + low`` is a constant such as log2(e) in twice the precision: e^v to 1 ulp for any v,
    where rounding ``v * log2(e)`` first would cost |v| / 2 ulp. As fast as a product and `exp2`.
    """
    if not is_float(v):
        return None

    def emit(context, builder, signature, args):
        h, l = (build.cast(context, builder, args[i], signature.args[i], v) for i in (1, 2))
        integers = build.vector_type(integer_of(v))
        magic = build.constant(v, _MAGIC[v.dtype])
        shifted = build.fma(builder, args[0], h, magic)
        n = builder.fsub(shifted, magic, flags=["nsz"])
        f = build.fma(builder, args[0], l, build.fma(builder, args[0], h, builder.fneg(n)))
        q, bits = _power_of_two(builder, f, shifted, v)
        p = build.fma(builder, q, f, build.constant(v, 1.0))
        scaled = builder.bitcast(builder.add(builder.bitcast(p, integers), bits), n.type)
        tiny = builder.fcmp_ordered(
            "<", n, build.constant(v, _EXPONENTS[v.dtype][0] + 1), flags=["nsz"]
        )
        return builder.select(tiny, build.constant(v, 0.0), scaled)

    return v(v, high, low), emit


@intrinsic
def log(typing_context, v):
    """Return the natural logarithm of positive normal numbers to 2 ulp; log 0 = -inf, NaN stays.

    v = 2^k m with m in [sqrt(1/2), sqrt(2)), and log m = 2 atanh(t) = 2 t (1 + t^2/3 + t^4/5 + ...)
    for t = (m - 1) / (m + 1), |t| < 0.172.
    """
    if not is_float(v):
        return None

    def emit(context, builder, signature, args):
        flags, kind = ["nsz"], args[0].type
        integer = integer_of(v)
        integers = build.vector_type(integer)
        mantissa = build.constant(integer, _MANTISSA[v.dtype])
        root = builder.bitcast(build.constant(v, 0.5**0.5), integers)
        one = build.constant(v, 1.0)
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
        series = build.constant(v, 1 / (2 * terms - 1))
        for i in reversed(range(1, terms - 1)):
            series = build.fma(builder, series, square, build.constant(v, 1 / (2 * i + 1)))
        double = builder.fadd(t, t, flags=flags)
        tail = builder.fmul(double, builder.fmul(series, square, flags=flags), flags=flags)
        log_m = builder.fadd(double, tail, flags=flags)
        k = builder.sitofp(shift, kind)
        value = build.fma(builder, k, build.constant(v, 0.6931471805599453), log_m)
        zero = builder.fcmp_ordered("==", args[0], build.constant(v, 0.0), flags=flags)
        value = builder.select(zero, build.constant(v, -float("inf")), value)
        bad = builder.fcmp_unordered("uno", args[0], args[0])
        return builder.select(bad, args[0], value)

    return v(v), emit


@intrinsic
def tanh(typing_context, v):
    """Return tanh(v) = m / (m + 2), m = e^(2|v|) - 1, with v's sign; relative error 4 ulp."""
    if not is_float(v):
        return None

    def emit(context, builder, signature, args):
        flags = ["nsz"]
        integers = build.vector_type(integer_of(v))
        size = build.call(builder, "llvm.fabs", args[0].type, [args[0]])
        # tanh is 1 to the last bit from here on; NaN passes the comparison's other side.
        bound = build.constant(v, 10.0 if v.dtype == types.float32 else 20.0)
        size = builder.select(builder.fcmp_ordered(">", size, bound, flags=flags), bound, size)
        x = builder.fmul(size, build.constant(v, 2.8853900817779268), flags=flags)  # 2 log2(e)
        f, q, bits = _split_exp2(builder, x, v)
        one = builder.bitcast(build.constant(v, 1.0), integers)
        power = builder.bitcast(builder.add(one, bits), x.type)  # 2^n
        # e^(2|v|) - 1 = 2^n f q + (2^n - 1): no cancellation where n = 0.
        less = builder.fsub(power, build.constant(v, 1.0), flags=flags)
        m = build.fma(builder, power, builder.fmul(f, q, flags=flags), less)
        t = builder.fdiv(m, builder.fadd(m, build.constant(v, 2.0), flags=flags), flags=flags)
        return build.call(builder, "llvm.copysign", t.type, [t, args[0]])

    return v(v), emit
