"""A hint to fetch a row of a table into the cache while the row before it is worked on.

The rows that a batch touches lie all over a table much larger than the cache, so a loop over them waits for memory at
the start of each; the processor foresees the rest of a row, but not where the next one is.
"""

from __future__ import annotations

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

LINE = 16  # floats in a cache line of 64 bytes


@intrinsic
def _prefetch(typingctx, table, row, column):  # type: ignore[no-untyped-def]
    """Ask for the cache line of table[row, column]; table is float32 [n, m] in C order. Indices are not checked."""
    del typingctx

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        _, width = cgutils.unpack_tuple(builder, array.shape)
        row, column = (
            context.cast(builder, argument, kind, types.intp)
            for argument, kind in zip(arguments[1:], signature.args[1:], strict=True)
        )
        place = builder.gep(array.data, [builder.add(builder.mul(row, width), column)])
        i32, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, i32, i32, i32])
        hint = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
        read, keep_near, data = ir.Constant(i32, 0), ir.Constant(i32, 2), ir.Constant(i32, 1)
        builder.call(hint, [builder.bitcast(place, pointer), read, keep_near, data])
        return context.get_dummy_value()

    return types.void(table, row, column), codegen


@numba.njit(inline="always")
def prefetch_row(table, row, low, high):  # type: ignore[no-untyped-def]
    """Ask for table[row, low:high], table float32 [n, m] in C order."""
    for column in range(low, high, LINE):
        _prefetch(table, row, column)  # type: ignore[call-arg]
