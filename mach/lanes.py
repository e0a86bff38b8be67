"""Vector instructions that the compiler does not find by itself: 64 points side by side, a byte each.

A *line* is 64 bytes, one cache line: the quantised scores of 64 points for one bucket of one repetition. Arrays are
one-dimensional and contiguous, indices are not checked. LLVM lowers the vectors to whatever the processor has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

LINE = 64  # points whose bytes fill one cache line
BLOCK = 16  # buckets, and points, that `quantise` turns around at a time
AT_ONCE = 4  # repetitions that `add_four` and the like take in one pass over the labels
AHEAD = 48  # labels ahead of the current one whose lines are asked for where the table is far

I1, I8, I32, I64, F32 = ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
BYTES = ir.VectorType(I8, LINE)
FLOATS = ir.VectorType(F32, BLOCK)
WORDS = ir.VectorType(I32, BLOCK)
NARROW = ir.VectorType(I8, BLOCK)
ABSOLUTE = 0x7FFFFFFF  # the bits of a float without its sign; as integers they order as the magnitudes do
NOT_FINITE = 0x7F800000  # these bits and above: infinite or NaN


def _vector(typer: Callable[..., Any]) -> Any:
    """An intrinsic; compiled code calls it without the first argument, which type checkers cannot know."""
    return intrinsic(typer)


def _gathering(operation: str, repetitions: int, ahead: int = 0) -> Any:
    """total[t] = total[t] ∘ table[r, lookup[r, label + t]] for ``repetitions`` rows r from ``r0``, for t < width.

    total uint8 [width · 64]; table uint8 [R · B · 64]; lookup [R · n_labels], rows ``stride`` apart; total and table
    start at a cache line. Sums saturate at 255; with r0 = 0 totals start anew. With ``ahead``, lines are asked for that
    many labels before their turn.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        total, table, lookup = (_data(context, builder, signature, arguments, at) for at in (0, 1, 2))
        label, width, stride, r0, B = (_index(context, builder, signature, arguments, at) for at in (3, 4, 5, 6, 7))
        combine = _declare(builder, f"llvm.{operation}.v{LINE}i8", BYTES, [BYTES, BYTES])
        buckets, lines = [], []
        for u in range(repetitions):
            r = builder.add(r0, I64(u))
            buckets.append(builder.gep(lookup, [builder.add(builder.mul(r, stride), label)]))
            lines.append(builder.gep(table, [builder.mul(builder.mul(r, B), I64(LINE))]))
        last = builder.sub(width, I64(1))

        def line(u: int, t: Any) -> Any:
            bucket = builder.zext(builder.load(builder.gep(buckets[u], [t])), I64)
            return builder.gep(lines[u], [builder.mul(bucket, I64(LINE))])

        def every_label(start: Any) -> None:
            with cgutils.for_range(builder, width, intp=I64) as loop:
                place = builder.bitcast(builder.gep(total, [builder.mul(loop.index, I64(LINE))]), BYTES.as_pointer())
                sofar = start or builder.load(place, align=LINE)
                if ahead:
                    later = builder.add(loop.index, I64(ahead))
                    later = builder.select(builder.icmp_signed("<", later, last), later, last)
                    for u in range(repetitions):
                        _ask_for(builder, line(u, later))
                for u in range(repetitions):
                    here = builder.bitcast(line(u, loop.index), BYTES.as_pointer())
                    sofar = builder.call(combine, [sofar, builder.load(here, align=LINE)])
                builder.store(sofar, place, align=LINE)

        neutral = ir.Constant(BYTES, [255 if operation == "umin" else 0] * LINE)
        with builder.if_else(builder.icmp_signed("==", r0, I64(0))) as (first, later):
            with first:  # nothing to read
                every_label(neutral)
            with later:
                every_label(None)
        return context.get_dummy_value()

    def typer(typingctx, total, table, lookup, label, width, stride, r0, B):  # type: ignore[no-untyped-def]
        del typingctx
        return types.void(total, table, lookup, label, width, stride, r0, B), codegen

    return _vector(typer)


add_four, add_one = _gathering("uadd.sat", AT_ONCE), _gathering("uadd.sat", 1)
add_four_far, add_one_far = _gathering("uadd.sat", AT_ONCE, AHEAD), _gathering("uadd.sat", 1, AHEAD)
least_of_four, least_of_one = _gathering("umin", AT_ONCE), _gathering("umin", 1)
least_of_four_far, least_of_one_far = _gathering("umin", AT_ONCE, AHEAD), _gathering("umin", 1, AHEAD)


@_vector
def next_reaching(typingctx, total, label, width, limit, limit_at):  # type: ignore[no-untyped-def]
    """The first label from ``label`` on, before ``width``, of whose 64 bytes in total any is at least that in
    limit[limit_at : ]; ``width`` where there is none."""
    del typingctx

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = _data(context, builder, signature, arguments, 0)
        start, end = (_index(context, builder, signature, arguments, which) for which in (1, 2))
        bar = _line(context, builder, signature, arguments, 3, BYTES, 1)
        before = builder.block
        look, go_on, done = (builder.append_basic_block(name) for name in ("look", "go_on", "done"))
        builder.cbranch(builder.icmp_signed("<", start, end), look, done)
        builder.position_at_end(look)
        t = builder.phi(I64)
        t.add_incoming(start, before)
        place = builder.bitcast(builder.gep(data, [builder.mul(t, I64(LINE))]), BYTES.as_pointer())
        hits = builder.bitcast(builder.icmp_unsigned(">=", builder.load(place, align=LINE), bar), I64)
        builder.cbranch(builder.icmp_unsigned("!=", hits, I64(0)), done, go_on)
        builder.position_at_end(go_on)
        following = builder.add(t, I64(1))
        t.add_incoming(following, go_on)
        builder.cbranch(builder.icmp_signed("<", following, end), look, done)
        builder.position_at_end(done)
        found = builder.phi(I64)
        for value, source in ((end, before), (t, look), (end, go_on)):
            found.add_incoming(value, source)
        return found

    return types.int64(total, label, width, limit, limit_at), codegen


@_vector
def reaching(typingctx, total, at, limit, limit_at):  # type: ignore[no-untyped-def]
    """The points, as bits of a uint64, whose byte in total[at : at + 64] is at least that in limit[limit_at : ]."""
    del typingctx

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        left, right = (_line(context, builder, signature, arguments, at, BYTES, LINE) for at in (0, 2))
        return builder.bitcast(builder.icmp_unsigned(">=", left, right), I64)

    return types.uint64(total, at, limit, limit_at), codegen


@_vector
def first_bit(typingctx, bits):  # type: ignore[no-untyped-def]
    """Number of the lowest bit that is set in a uint64 other than 0."""
    del typingctx

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        return builder.cttz(arguments[0], I1(1))

    return types.int64(bits), codegen


@_vector
def quantise(typingctx, scores, rows, at, table, table_at, low, per_unit, point):  # type: ignore[no-untyped-def]
    """Bytes that bound 16 buckets' scores of 16 points from above, written with the points side by side.

    scores float32: those of lane i start at rows[point + i] + at; rows int64 [64]. low and per_unit float32 [64]. A
    score s becomes 0 if s ≤ low, else min(255, ⌊(s − low)·per_unit⌋ + 1), so low + byte/per_unit ≥ s for bytes below
    255. Bucket j goes to table[table_at + 64·j + i]. Returns the largest |score| as the bits of a float32 (uint32): at
    or above `NOT_FINITE` when a score is infinite or NaN.
    """
    del typingctx

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, starts, target = (_data(context, builder, signature, arguments, at) for at in (0, 1, 3))
        lows, scales = (_data(context, builder, signature, arguments, at) for at in (5, 6))
        start, place, first = (_index(context, builder, signature, arguments, at) for at in (2, 4, 7))
        largest_of = _declare(builder, f"llvm.umax.v{BLOCK}i32", WORDS, [WORDS, WORDS])
        least_of = _declare(builder, f"llvm.minnum.v{BLOCK}f32", FLOATS, [FLOATS, FLOATS])
        zero, top = ir.Constant(WORDS, [0] * BLOCK), ir.Constant(FLOATS, [254.0] * BLOCK)
        one, sign = ir.Constant(WORDS, [1] * BLOCK), ir.Constant(WORDS, [ABSOLUTE] * BLOCK)
        largest, bytes_ = zero, []
        for i in range(BLOCK):
            begin = builder.load(builder.gep(starts, [builder.add(first, I64(i))]))
            row = builder.gep(source, [builder.add(start, begin)])
            values = builder.load(builder.bitcast(row, FLOATS.as_pointer()), align=4)
            largest = builder.call(largest_of, [largest, builder.and_(builder.bitcast(values, WORDS), sign)])
            low_, scale = (
                _spread(builder, builder.load(builder.gep(array, [builder.add(first, I64(i))])), FLOATS)
                for array in (lows, scales)
            )
            units = builder.call(least_of, [builder.fmul(builder.fsub(values, low_), scale), top])
            # A NaN would be undefined as an integer; the comparison drops it, and the caller reports it.
            positive = builder.fcmp_ordered(">", values, low_)
            safe = builder.select(positive, units, ir.Constant(FLOATS, [0.0] * BLOCK))
            counted = builder.add(builder.fptosi(safe, WORDS), one)
            bytes_.append(builder.trunc(builder.select(positive, counted, zero), NARROW))
        for j, column in enumerate(_transposed(builder, bytes_)):
            to = builder.gep(target, [builder.add(place, I64(LINE * j))])
            builder.store(column, builder.bitcast(to, NARROW.as_pointer()), align=1)
        reduce = _declare(builder, f"llvm.vector.reduce.umax.v{BLOCK}i32", I32, [WORDS])
        return builder.call(reduce, [largest])

    return types.uint32(scores, rows, at, table, table_at, low, per_unit, point), codegen


@_vector
def survey(typingctx, scores, at, blocks, cut, masks):  # type: ignore[no-untyped-def]
    """Which of the 16 · blocks scores from scores[at] on are greater than ``cut``: a bit each of masks uint16 [blocks].

    Returns the largest |score| as the bits of a float32 (uint32), at or above `NOT_FINITE` for infinity and NaN.
    """
    del typingctx

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, target = (_data(context, builder, signature, arguments, which) for which in (0, 4))
        start, count = (_index(context, builder, signature, arguments, which) for which in (1, 2))
        bar = _spread(builder, arguments[3], FLOATS)
        largest_of = _declare(builder, f"llvm.umax.v{BLOCK}i32", WORDS, [WORDS, WORDS])
        sign = ir.Constant(WORDS, [ABSOLUTE] * BLOCK)
        largest = cgutils.alloca_once_value(builder, ir.Constant(WORDS, [0] * BLOCK))
        with cgutils.for_range(builder, count, intp=I64) as loop:
            place = builder.gep(source, [builder.add(start, builder.mul(loop.index, I64(BLOCK)))])
            values = builder.load(builder.bitcast(place, FLOATS.as_pointer()), align=4)
            magnitude = builder.and_(builder.bitcast(values, WORDS), sign)
            builder.store(builder.call(largest_of, [builder.load(largest), magnitude]), largest)
            mask = builder.bitcast(builder.fcmp_ordered(">", values, bar), ir.IntType(BLOCK))
            builder.store(mask, builder.gep(target, [loop.index]))
        reduce = _declare(builder, f"llvm.vector.reduce.umax.v{BLOCK}i32", I32, [WORDS])
        return builder.call(reduce, [builder.load(largest)])

    return types.uint32(scores, at, blocks, cut, masks), codegen


@_vector
def ask_for(typingctx, array, at):  # type: ignore[no-untyped-def]
    """Ask the cache for array[at], which will be read soon."""
    del typingctx

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = _data(context, builder, signature, arguments, 0)
        place = builder.gep(data, [_index(context, builder, signature, arguments, 1)])
        _ask_for(builder, builder.bitcast(place, I8.as_pointer()))
        return context.get_dummy_value()

    return types.void(array, at), codegen


def _ask_for(builder: Any, place: Any) -> None:
    prefetch = _declare(builder, "llvm.prefetch.p0", ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
    builder.call(prefetch, [place, I32(0), I32(3), I32(1)])  # to read, to the nearest cache, data


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """16 vectors of 16 bytes turned around: riffle the first half with the second, four times."""
    half = BLOCK // 2
    riffled = [side * half + pair // 2 + BLOCK * (pair % 2) for side in (0, 1) for pair in range(BLOCK)]
    masks = [ir.Constant(ir.VectorType(I32, BLOCK), riffled[side * BLOCK :][:BLOCK]) for side in (0, 1)]
    for _ in range(4):
        rows = [builder.shuffle_vector(rows[i], rows[i + half], masks[side]) for i in range(half) for side in (0, 1)]
    return rows


def _spread(builder: Any, value: Any, vector: Any) -> Any:
    """A vector that holds ``value`` in every lane."""
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, I32(0))
    lanes = ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), lanes)


def _declare(builder: Any, name: str, result: Any, parameters: list[Any]) -> Any:
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, parameters), name)


def _data(context: Any, builder: Any, signature: Any, arguments: Any, which: int) -> Any:
    return context.make_array(signature.args[which])(context, builder, arguments[which]).data


def _index(context: Any, builder: Any, signature: Any, arguments: Any, which: int) -> Any:
    return context.cast(builder, arguments[which], signature.args[which], types.int64)


def _line(context: Any, builder: Any, signature: Any, arguments: Any, which: int, vector: Any, align: int) -> Any:
    """The vector at the index that follows an array among the arguments."""
    data = _data(context, builder, signature, arguments, which)
    first = builder.gep(data, [_index(context, builder, signature, arguments, which + 1)])
    return builder.load(builder.bitcast(first, vector.as_pointer()), align=align)
