"""Scores become bytes, or halves of bytes, that bound them from above: vector instructions for 16 × 16 of them.

Arrays are one-dimensional and contiguous, indices are not checked; see `mach.decode.cpu.simd.lanes`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from mach.decode.cpu.simd.vectors import (
    BLOCK,
    F32,
    FLOATS,
    I32,
    I64,
    LINE,
    NARROW,
    WORDS,
    data_of,
    declare,
    index_of,
    spread,
    vector,
)

FINE, COARSE = 8, 3  # half a byte counts units up to FINE one by one, and beyond it COARSE at a time
MOST = FINE + COARSE * (15 - FINE)  # units that half a byte can count
ABSOLUTE = 0x7FFFFFFF  # the bits of a float without its sign; as integers they order as the magnitudes do
NOT_FINITE = 0x7F800000  # these bits and above: infinite or NaN


@vector
def quantise(typingctx, scores, rows, at, table, table_at, low, per_unit, point, highest, row):  # type: ignore[no-untyped-def]
    """Bytes that bound 16 buckets' scores of 16 points from above, written with the points side by side.

    scores float32: those of lane i start at rows[point + i] + at; rows int64 [64]. low and per_unit float32 [64]. A
    score s becomes 0 if s ≤ low, else min(255, ⌊(s − low)·per_unit⌋ + 1), so low + byte/per_unit ≥ s for bytes below
    255. Bucket j goes to table[table_at + 64·j + i]; highest[row · 64 + point + i], uint8, becomes the highest of a
    lane's bytes if that is higher. Returns the largest |score| as the bits of a float32 (uint32): at or above
    `NOT_FINITE` when a score is infinite or NaN.
    """
    del typingctx

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows = _Rows(context, builder, signature, arguments)
        counts = [rows.counted(rows.above_low(i, 254.0)) for i in range(BLOCK)]
        columns = rows.store([builder.trunc(count, NARROW) for count in counts])
        rows.raise_highest(context, signature, arguments, columns, 1, 0)
        return rows.largest()

    return types.uint32(scores, rows, at, table, table_at, low, per_unit, point, highest, row), codegen


@vector
def quantise_halves(typingctx, scores, rows, at, table, table_at, low, per_unit, point, highest, row, most):  # type: ignore[no-untyped-def]
    """The same for points ``point``.. in the lower halves of the bytes and 64 points on in the upper halves.

    rows int64, low and per_unit float32 [128]. A score s that is x = (s − low)·per_unit units above low becomes 0 if
    s ≤ low, else the least h in 1..15 that stands for more than x, where h stands for h units up to FINE and
    FINE + COARSE·(h − FINE) beyond. That bounds s as long as x is below MOST; most float32 [1] becomes the largest x if
    that is larger than it is. highest[row · 128 + 64 · side + point + i] becomes the highest h of a lane.
    """
    del typingctx

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows = _Rows(context, builder, signature, arguments)
        highest = context.make_array(signature.args[10])(context, builder, arguments[10]).data
        larger = declare(builder, f"llvm.maxnum.v{BLOCK}f32", FLOATS, [FLOATS, FLOATS])
        zero, fine, share, top = (
            ir.Constant(FLOATS, [value] * BLOCK) for value in (0.0, float(FINE), 1.0 - 1.0 / COARSE, MOST - 1.0)
        )
        least = declare(builder, f"llvm.minnum.v{BLOCK}f32", FLOATS, [FLOATS, FLOATS])
        seen = zero
        bytes_ = []
        for i in range(BLOCK):
            halves = []
            for lane in (i, i + LINE):
                positive, units = rows.above_low(lane, None)
                seen = builder.call(larger, [seen, units])
                units = builder.call(least, [units, top])
                over = builder.call(larger, [builder.fsub(units, fine), zero])
                halves.append(rows.counted((positive, builder.fsub(units, builder.fmul(over, share)))))
            upper = builder.shl(halves[1], ir.Constant(WORDS, [4] * BLOCK))
            bytes_.append(builder.trunc(builder.or_(halves[0], upper), NARROW))
        columns = rows.store(bytes_)
        low_half = ir.Constant(NARROW, [15] * BLOCK)
        lower = [builder.and_(column, low_half) for column in columns]
        upper = [builder.lshr(column, ir.Constant(NARROW, [4] * BLOCK)) for column in columns]
        for side, halves in enumerate((lower, upper)):
            rows.raise_highest(context, signature, arguments, halves, 2, side)
        reduce = declare(builder, f"llvm.vector.reduce.fmax.v{BLOCK}f32", F32, [FLOATS])
        found = builder.call(reduce, [seen])
        before = builder.load(highest)
        builder.store(builder.select(builder.fcmp_ordered(">", found, before), found, before), highest)
        return rows.largest()

    return types.uint32(scores, rows, at, table, table_at, low, per_unit, point, highest, row, most), codegen


class _Rows:
    """16 scores in a row of a point, on their way to 16 lines; the arguments are those of `quantise`."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        self.builder = builder
        self.source, self.starts, self.target = (
            data_of(context, builder, signature, arguments, at) for at in (0, 1, 3)
        )
        self.lows, self.scales = (data_of(context, builder, signature, arguments, at) for at in (5, 6))
        self.start, self.place, self.first = (index_of(context, builder, signature, arguments, at) for at in (2, 4, 7))
        self._largest = ir.Constant(WORDS, [0] * BLOCK)

    def above_low(self, lane: int, most: float | None) -> tuple[Any, Any]:
        """Whether the scores are above low, and how many units, at most ``most``; 0 where they are not or are NaN."""
        builder, at = self.builder, self.builder.add(self.first, I64(lane))
        row = builder.gep(self.source, [builder.add(self.start, builder.load(builder.gep(self.starts, [at])))])
        values = builder.load(builder.bitcast(row, FLOATS.as_pointer()), align=4)
        larger = declare(builder, f"llvm.umax.v{BLOCK}i32", WORDS, [WORDS, WORDS])
        magnitude = builder.and_(builder.bitcast(values, WORDS), ir.Constant(WORDS, [ABSOLUTE] * BLOCK))
        self._largest = builder.call(larger, [self._largest, magnitude])
        low, scale = (
            spread(builder, builder.load(builder.gep(array, [at])), FLOATS) for array in (self.lows, self.scales)
        )
        units = builder.fmul(builder.fsub(values, low), scale)
        if most is not None:
            least = declare(builder, f"llvm.minnum.v{BLOCK}f32", FLOATS, [FLOATS, FLOATS])
            units = builder.call(least, [units, ir.Constant(FLOATS, [most] * BLOCK)])
        # A NaN would be undefined as an integer; the comparison drops it, and the caller reports it.
        positive = builder.fcmp_ordered(">", values, low)
        return positive, builder.select(positive, units, ir.Constant(FLOATS, [0.0] * BLOCK))

    def counted(self, scores: tuple[Any, Any]) -> Any:
        """⌊units⌋ + 1 of scores above low, 0 of the others, as integers."""
        positive, units = scores
        counted = self.builder.add(self.builder.fptosi(units, WORDS), ir.Constant(WORDS, [1] * BLOCK))
        return self.builder.select(positive, counted, ir.Constant(WORDS, [0] * BLOCK))

    def store(self, rows: list[Any]) -> list[Any]:
        """Transpose the bytes of 16 points and write them to the lines of 16 buckets; returns the written vectors."""
        columns = _transposed(self.builder, rows)
        for j, column in enumerate(columns):
            to = self.builder.gep(self.target, [self.builder.add(self.place, I64(LINE * j))])
            self.builder.store(column, self.builder.bitcast(to, NARROW.as_pointer()), align=1)
        return columns

    def raise_highest(
        self, context: Any, signature: Any, arguments: Any, columns: list[Any], sides: int, side: int
    ) -> None:
        """Raise ``highest``, at ``row``, to the highest byte of each lane."""
        builder = self.builder
        row = index_of(context, builder, signature, arguments, 9)
        at = builder.add(builder.mul(row, I64(sides * LINE)), builder.add(self.first, I64(side * LINE)))
        place = builder.gep(data_of(context, builder, signature, arguments, 8), [at])
        place = builder.bitcast(place, NARROW.as_pointer())
        higher = declare(builder, f"llvm.umax.v{BLOCK}i8", NARROW, [NARROW, NARROW])
        highest = builder.load(place, align=1)
        for column in columns:
            highest = builder.call(higher, [highest, column])
        builder.store(highest, place, align=1)

    def largest(self) -> Any:
        """The largest |score| seen, as the bits of a float32."""
        reduce = declare(self.builder, f"llvm.vector.reduce.umax.v{BLOCK}i32", I32, [WORDS])
        return self.builder.call(reduce, [self._largest])


@vector
def survey(typingctx, scores, at, blocks, cut, masks):  # type: ignore[no-untyped-def]
    """Which of the 16 · blocks scores from scores[at] on are greater than ``cut``: a bit each of masks uint16 [blocks].

    Returns the largest |score| as the bits of a float32 (uint32), at or above `NOT_FINITE` for infinity and NaN.
    """
    del typingctx

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, target = (data_of(context, builder, signature, arguments, which) for which in (0, 4))
        start, count = (index_of(context, builder, signature, arguments, which) for which in (1, 2))
        bar = spread(builder, arguments[3], FLOATS)
        largest_of = declare(builder, f"llvm.umax.v{BLOCK}i32", WORDS, [WORDS, WORDS])
        sign = ir.Constant(WORDS, [ABSOLUTE] * BLOCK)
        largest = cgutils.alloca_once_value(builder, ir.Constant(WORDS, [0] * BLOCK))
        with cgutils.for_range(builder, count, intp=I64) as loop:
            place = builder.gep(source, [builder.add(start, builder.mul(loop.index, I64(BLOCK)))])
            values = builder.load(builder.bitcast(place, FLOATS.as_pointer()), align=4)
            magnitude = builder.and_(builder.bitcast(values, WORDS), sign)
            builder.store(builder.call(largest_of, [builder.load(largest), magnitude]), largest)
            mask = builder.bitcast(builder.fcmp_ordered(">", values, bar), ir.IntType(BLOCK))
            builder.store(mask, builder.gep(target, [loop.index]))
        reduce = declare(builder, f"llvm.vector.reduce.umax.v{BLOCK}i32", I32, [WORDS])
        return builder.call(reduce, [builder.load(largest)])

    return types.uint32(scores, at, blocks, cut, masks), codegen


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """16 vectors of 16 bytes transposed: riffle the first half with the second, four times."""
    half = BLOCK // 2
    riffled = [side * half + pair // 2 + BLOCK * (pair % 2) for side in (0, 1) for pair in range(BLOCK)]
    masks = [ir.Constant(ir.VectorType(I32, BLOCK), riffled[side * BLOCK :][:BLOCK]) for side in (0, 1)]
    for _ in range(4):
        rows = [builder.shuffle_vector(rows[i], rows[i + half], masks[side]) for i in range(half) for side in (0, 1)]
    return rows
