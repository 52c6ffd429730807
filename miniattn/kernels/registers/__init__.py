"""Vector registers for Numba: NumPy on 16 numbers at a time. Emits LLVM IR, as nothing else does.

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
otherwise 4; float64 half as many), or from the environment: see `compile.target`.

Notes
-----
Vector arithmetic is done as written: its instructions carry their own (harmless) fast-math flags,
which keeps Numba from adding ``reassoc`` to them. Compensated sums work; ``a * b + c`` may be
fused.
"""

from miniattn.kernels.compile.target import LANES
from miniattn.kernels.registers.arithmetic import (
    absolute,
    as_integer,
    floor,
    fma,
    iota,
    maximum,
    minimum,
    rint,
    select,
    splat,
    sqrt,
    to_float,
)
from miniattn.kernels.registers.arrays import WORDS, guarded_views, views
from miniattn.kernels.registers.lanes import (
    any_true,
    bits_of,
    horizontal_max,
    horizontal_maxima,
    horizontal_sum,
    horizontal_sums,
    lookup,
    mask_of_bits,
    transpose,
)
from miniattn.kernels.registers.maths import exp2, exp2_nonpositive, exp2_product, log, tanh
from miniattn.kernels.registers.memory import (
    address,
    aligned,
    drain,
    first,
    gather,
    keep,
    lanes,
    load,
    load_doubles,
    load_first,
    pointer,
    prefetch,
    registers,
    store,
    store_doubles,
    store_first,
    store_streaming,
    to_boundary,
)
from miniattn.kernels.registers.product import product
from miniattn.kernels.registers.tasks import ask, call, fetch_and_add
from miniattn.kernels.registers.types import Pointer, Vector

__all__ = [
    "LANES",
    "WORDS",
    "Pointer",
    "Vector",
    "absolute",
    "address",
    "aligned",
    "any_true",
    "as_integer",
    "ask",
    "bits_of",
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
    "guarded_views",
    "horizontal_max",
    "horizontal_maxima",
    "horizontal_sum",
    "horizontal_sums",
    "iota",
    "keep",
    "lanes",
    "load",
    "load_doubles",
    "load_first",
    "log",
    "lookup",
    "mask_of_bits",
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
    "store_doubles",
    "store_first",
    "store_streaming",
    "tanh",
    "to_boundary",
    "to_float",
    "transpose",
    "views",
]
