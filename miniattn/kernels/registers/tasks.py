"""What threads need of the processor: a call by address, and a counter that nobody can split."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from miniattn.kernels.registers.types import Pointer


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
def ask(typing_context, function, a, b, c, d, e):
    """Call a compiled loop by its address with five pointers; return 0, or not where it raised."""
    pointers = (a, b, c, d, e)
    if not (isinstance(function, types.Integer) and all(isinstance(p, Pointer) for p in pointers)):
        return None

    def emit(context, builder, signature, args):
        anything = ir.IntType(8).as_pointer()
        given = [builder.bitcast(p, anything) for p in args[1:]]
        places = [cgutils.alloca_once(builder, anything) for _ in range(2)]
        kind = ir.FunctionType(ir.IntType(32), [p.type for p in places] + [anything] * 5)
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), [*places, *given])

    return types.int32(function, *pointers), emit


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
