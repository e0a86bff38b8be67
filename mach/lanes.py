"""Vector instructions that the compiler does not find by itself: a line of 16 floats added, or compared, at once.

The scan of `mach.decode` adds lines that may alias as far as the compiler knows, so it would go float by float.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

LANES = 16  # points side by side: their scores of one bucket fill one 64-byte cache line


@intrinsic
def add_line(typingctx, total, at, table, line):  # type: ignore[no-untyped-def]
    """total[at : at + LANES] += table[line : line + LANES]; both float32 arrays [n]. Indices are not checked."""
    del typingctx

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        target = _line_pointer(context, builder, signature, arguments, 0)
        source = _line_pointer(context, builder, signature, arguments, 2)
        added = builder.fadd(builder.load(target, align=4), builder.load(source, align=4))
        builder.store(added, target, align=4)
        return context.get_dummy_value()

    return types.void(total, at, table, line), codegen


@intrinsic
def any_above(typingctx, total, at, threshold, line):  # type: ignore[no-untyped-def]
    """Whether any of total[at : at + LANES] is greater than its neighbour in threshold[line : line + LANES]."""
    del typingctx

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        left = builder.load(_line_pointer(context, builder, signature, arguments, 0), align=4)
        right = builder.load(_line_pointer(context, builder, signature, arguments, 2), align=4)
        mask = builder.bitcast(builder.fcmp_ordered(">", left, right), ir.IntType(LANES))
        return builder.icmp_unsigned("!=", mask, ir.Constant(ir.IntType(LANES), 0))

    return types.boolean(total, at, threshold, line), codegen


def _line_pointer(context, builder, signature, arguments, which):  # type: ignore[no-untyped-def]
    """Pointer to the line that starts at an index of a one-dimensional float32 array argument."""
    array_type, index_type = signature.args[which], signature.args[which + 1]
    data = context.make_array(array_type)(context, builder, arguments[which]).data
    index = context.cast(builder, arguments[which + 1], index_type, types.intp)
    first = cgutils.gep(builder, data, index)
    return builder.bitcast(first, ir.VectorType(ir.FloatType(), LANES).as_pointer())
