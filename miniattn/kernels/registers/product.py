"""One panel of a matrix product, which stays in the registers from its first term to its last.

This is the LLVM IR that a panel of one row and two vectors of 16 float32 becomes, without the
arithmetic of addresses::

    entry:
        br i1 %some, label %loop, label %end            ; depth > 0
    loop:
        %k = phi i64 [0, %entry], [%next, %loop]
        %t0 = phi <16 x float> [zeroinitializer, %entry], [%s0, %loop]
        %t1 = phi <16 x float> [zeroinitializer, %entry], [%s1, %loop]
        %b0 = load <16 x float>, <16 x float>* %B_k     ; a row of B: two vectors
        %b1 = load <16 x float>, <16 x float>* %B_k_16
        %a = load float, float* %A_k                    ; an element of A, in all lanes
        %a0 = insertelement <16 x float> undef, float %a, i32 0
        %r = shufflevector <16 x float> %a0, <16 x float> undef, <16 x i32> zeroinitializer
        %s0 = call <16 x float> @llvm.fma.v16f32(%r, %b0, %t0)
        %s1 = call <16 x float> @llvm.fma.v16f32(%r, %b1, %t1)
        %next = add nsw i64 %k, 1
        br i1 %more, label %loop, label %end            ; next < depth
    end:
        %e0 = phi <16 x float> [zeroinitializer, %entry], [%s0, %loop]
        %e1 = phi <16 x float> [zeroinitializer, %entry], [%s1, %loop]
        br i1 %accumulate, label %add, label %done
    add:
        %c0 = load <16 x float>, <16 x float>* %C       ; what C held
        %d0 = fadd <16 x float> %c0, %e0
        %c1 = load <16 x float>, <16 x float>* %C_16
        %d1 = fadd <16 x float> %c1, %e1
        br label %done
    done:
        %f0 = phi <16 x float> [%e0, %end], [%d0, %add]
        %f1 = phi <16 x float> [%e1, %end], [%d1, %add]
        store <16 x float> %f0, <16 x float>* %C
        store <16 x float> %f1, <16 x float>* %C_16

With six rows and four vectors there are 24 sums, each in a register of the processor, and 24
multiply-adds for 10 loads. A test compares this with what is emitted.
"""

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from miniattn.kernels.registers import build
from miniattn.kernels.registers.types import Pointer, Vector, full


@intrinsic(prefer_literal=True)
def product(typing_context, rows, columns, c, a, b, extent, accumulate):
    """Compute one panel of a matrix product: ``C = A B``, or ``C += A B``.

    ``C[m, n] = sum_k A[m, k] * B[k, n]`` for ``m < rows`` and ``n < columns * lanes``. All ``rows *
    columns`` registers of C stay in the processor over the loop on ``k < extent.depth``: an element
    of A is broadcast, a row of B is loaded as ``columns`` vectors.

    Parameters
    ----------
    rows, columns
        The panel in rows and vectors; integer constants.
    c, a, b
        C and B by `Lines` of contiguous rows, A by a `Grid`: either of its axes may be contiguous.
    extent
        How many terms each sum has, and how many rows of A exist: rows past those read the last
        again, so that C is written in whole panels while nothing past the end of A is touched.
    accumulate
        Whether what C held is added.
    """
    if not all(isinstance(t, types.IntegerLiteral) for t in (rows, columns)):
        return None
    if not all(isinstance(t, types.BaseTuple) for t in (c, a, b, extent)):
        return None
    panel = Panel(rows.literal_value, columns.literal_value, full(c.types[0].dtype))
    kinds = c, a, b, extent

    def emit(context, builder, signature, args):
        numbers = [
            part
            for kind, value in zip(kinds, args[2:6], strict=True)
            for part in _fields(context, builder, kind, value)
        ]
        emit_panel(builder, panel, Operands._make([*numbers, args[6]]))
        return context.get_dummy_value()

    return types.none(rows, columns, *kinds, types.boolean), emit


class Panel(NamedTuple):
    """So many rows of so many registers."""

    height: int
    width: int
    vector: Vector


class Operands(NamedTuple):
    """What `product` is told, as values of LLVM: of c, a, b and extent, one field after another."""

    c: Any
    c_step: Any
    a: Any
    a_down: Any
    a_across: Any
    b: Any
    b_step: Any
    rows: Any
    depth: Any
    accumulate: Any


def emit_panel(builder: Any, panel: Panel, of: Operands) -> None:
    """Emit the product: what stands at the top of this file."""
    names = ("loop", "end", "add", "done")
    loop, end, add, done = (builder.append_basic_block(f"product.{name}") for name in names)
    a_rows, c_places = _rows_of_a(builder, panel, of), _places_of_c(builder, panel, of)
    zero = build.constant(panel.vector, 0.0)
    entry = builder.block
    builder.cbranch(builder.icmp_signed(">", of.depth, _integer(0)), loop, end)

    builder.position_at_end(loop)
    k = builder.phi(ir.IntType(64))
    totals = [builder.phi(zero.type) for _ in c_places]
    sums = _add_terms(builder, panel, of, a_rows, k, totals)
    following = builder.add(k, _integer(1), flags=["nsw"])
    k.add_incoming(_integer(0), entry)
    k.add_incoming(following, loop)
    for total, new in zip(totals, sums, strict=True):
        total.add_incoming(zero, entry)
        total.add_incoming(new, loop)
    builder.cbranch(builder.icmp_signed("<", following, of.depth), loop, end)

    builder.position_at_end(end)
    results = [_either(builder, (zero, entry), (new, loop)) for new in sums]
    builder.cbranch(of.accumulate, add, done)

    # What C held is added last: a chain of additions is as long as one panel, not as the sum of all
    # panels, and its rounding errors grow with that length.
    builder.position_at_end(add)
    with_c = [
        builder.fadd(build.load(builder, place, panel.vector), result)
        for place, result in zip(c_places, results, strict=True)
    ]
    builder.branch(done)

    builder.position_at_end(done)
    pairs = zip(results, with_c, strict=True)
    values = [_either(builder, (result, end), (added, add)) for result, added in pairs]
    for place, value in zip(c_places, values, strict=True):
        build.store(builder, place, value, panel.vector)


def _add_terms(
    builder: Any, panel: Panel, of: Operands, a_rows: list[Any], k: Any, totals: list[Any]
) -> list[Any]:
    """Emit ``total + A[m, k] * B[k, n]`` for all registers of C."""
    count, width = panel.vector.count, panel.width
    b_row = builder.gep(of.b, [builder.mul(k, of.b_step)])
    line = [
        build.load(builder, builder.gep(b_row, [_integer(n * count)]), panel.vector)
        for n in range(width)
    ]
    offset = builder.mul(k, of.a_across)
    sums = []
    for m, row in enumerate(a_rows):
        element = builder.load(builder.gep(row, [offset]))
        repeated = build.repeat(builder, element, count)
        sums += [build.fma(builder, repeated, line[n], totals[m * width + n]) for n in range(width)]
    return sums


def _rows_of_a(builder: Any, panel: Panel, of: Operands) -> list[Any]:
    """Emit where the rows of A begin; in the place of those past its end stands the last."""
    last = builder.sub(of.rows, _integer(1))
    places = []
    for m in range(panel.height):
        existing = builder.select(builder.icmp_signed("<", _integer(m), last), _integer(m), last)
        places.append(builder.gep(of.a, [builder.mul(existing, of.a_down)]))
    return places


def _places_of_c(builder: Any, panel: Panel, of: Operands) -> list[Any]:
    """Emit where the registers of C are written to, row by row."""
    starts = [builder.gep(of.c, [builder.mul(_integer(m), of.c_step)]) for m in range(panel.height)]
    steps = [_integer(n * panel.vector.count) for n in range(panel.width)]
    return [builder.gep(start, [step]) for start in starts for step in steps]


def _either(builder: Any, *cases: tuple[Any, Any]) -> Any:
    """Emit a value that depends on the basic block that one comes from."""
    phi = builder.phi(cases[0][0].type)
    for value, block in cases:
        phi.add_incoming(value, block)
    return phi


def _integer(n: int) -> ir.Constant:
    return ir.Constant(ir.IntType(64), n)


def _fields(context: Any, builder: Any, kind: Any, value: Any) -> list[Any]:
    """Emit what a NamedTuple holds: pointers as they are, numbers as 64 bits."""
    parts = zip(kind.types, cgutils.unpack_tuple(builder, value), strict=True)
    return [
        part if isinstance(t, Pointer) else context.cast(builder, part, t, types.intp)
        for t, part in parts
    ]
