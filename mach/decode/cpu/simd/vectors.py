"""Vector types, and access to the arguments of compiled code, for the intrinsics of this room.

A *line* is 64 bytes, one cache line: the quantised scores of 64 points for one bucket of one repetition, or of 128
points with half a byte each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

LINE = 64  # points whose bytes fill one cache line
BLOCK = 16  # buckets, and points, that `quantise` transposes at a time

I1, I8, I16, I32, I64, F32 = (
    ir.IntType(1),
    ir.IntType(8),
    ir.IntType(16),
    ir.IntType(32),
    ir.IntType(64),
    ir.FloatType(),
)
BYTES = ir.VectorType(I8, LINE)
PAIRS = ir.VectorType(I16, LINE // 2)
FLOATS = ir.VectorType(F32, BLOCK)
WORDS = ir.VectorType(I32, BLOCK)
NARROW = ir.VectorType(I8, BLOCK)


def vector(typer: Callable[..., Any]) -> Any:
    """An intrinsic; compiled code calls it without the first argument, which type checkers cannot know."""
    return intrinsic(typer)


def spread(builder: Any, value: Any, vector: Any) -> Any:
    """A vector that holds ``value`` in every lane."""
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, I32(0))
    lanes = ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), lanes)


def declare(builder: Any, name: str, result: Any, parameters: list[Any]) -> Any:
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, parameters), name)


def data_of(context: Any, builder: Any, signature: Any, arguments: Any, which: int) -> Any:
    return context.make_array(signature.args[which])(context, builder, arguments[which]).data


def index_of(context: Any, builder: Any, signature: Any, arguments: Any, which: int) -> Any:
    return context.cast(builder, arguments[which], signature.args[which], types.int64)


def line_at(context: Any, builder: Any, signature: Any, arguments: Any, which: int, vector: Any, align: int) -> Any:
    """The vector at the index that follows an array among the arguments."""
    data = data_of(context, builder, signature, arguments, which)
    first = builder.gep(data, [index_of(context, builder, signature, arguments, which + 1)])
    return builder.load(builder.bitcast(first, vector.as_pointer()), align=align)
