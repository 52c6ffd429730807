"""One panel of a matrix product, which stays in the registers from its first term to its last."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from miniattn.kernels.registers import build
from miniattn.kernels.registers.types import Pointer, full


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
    height, width = rows.literal_value, columns.literal_value
    vector = full(c.types[0].dtype)
    count = vector.count
    kinds = (rows, columns, c, a, b, extent, types.boolean)

    def emit(context, builder, signature, args):
        c0, c_step = _fields(context, builder, c, args[2])
        a0, a_stride, a_inner = _fields(context, builder, a, args[3])
        b0, b_inner = _fields(context, builder, b, args[4])
        n_valid, n_depth = _fields(context, builder, extent, args[5])
        again = args[6]
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
        zero = build.constant(vector, 0.0)
        entry = builder.block
        names = ("loop", "end", "add", "done")
        loop, end, add, done = (builder.append_basic_block(f"product.{name}") for name in names)
        builder.cbranch(builder.icmp_signed(">", n_depth, ir.Constant(integer, 0)), loop, end)

        builder.position_at_end(loop)
        k = builder.phi(integer)
        totals = [[builder.phi(zero.type) for _ in range(width)] for _ in range(height)]
        b_row = builder.gep(b0, [builder.mul(k, b_inner)])
        line_b = [
            build.load(builder, builder.gep(b_row, [ir.Constant(integer, n * count)]), vector)
            for n in range(width)
        ]
        offset = builder.mul(k, a_inner)
        sums = []
        for m in range(height):
            element = builder.load(builder.gep(a_places[m], [offset]))
            repeated = build.repeat(builder, element, count)
            sums.append(
                [build.fma(builder, repeated, line_b[n], totals[m][n]) for n in range(width)]
            )
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

        # What C held is added last: a chain of additions is as long as one panel, not as the sum of
        # all panels, and its rounding errors grow with that length.
        builder.position_at_end(add)
        sums_with_c = [
            builder.fadd(build.load(builder, c, vector), result) for c, result in results
        ]
        builder.branch(done)

        builder.position_at_end(done)
        values = [builder.phi(zero.type) for _ in results]
        for (place, result), with_c, value in zip(results, sums_with_c, values, strict=True):
            value.add_incoming(result, end)
            value.add_incoming(with_c, add)
            build.store(builder, place, value, vector)
        return context.get_dummy_value()

    return types.none(*kinds), emit


def _fields(context, builder, kind, value):
    """Emit what a NamedTuple holds: pointers as they are, numbers as 64 bits."""
    parts = zip(kind.types, cgutils.unpack_tuple(builder, value), strict=True)
    return [
        part if isinstance(t, Pointer) else context.cast(builder, part, t, types.intp)
        for t, part in parts
    ]
