"""Vector instructions that the compiler does not find by itself: adding up lines of 64 bytes, and finding high bytes.

Arrays are one-dimensional and contiguous, indices are not checked. LLVM lowers the vectors to whatever the processor
has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from mach.quantise import COARSE, FINE
from mach.vectors import BYTES, I1, I8, I32, I64, LINE, PAIRS, data_of, declare, index_of, line_at, vector

AT_ONCE = 4  # repetitions that `add_four` and the like take in one pass over the labels
AHEAD = 48  # labels ahead of the current one whose lines are asked for where the table is far


def _gathering(operation: str, repetitions: int, ahead: int = 0) -> Any:
    """total[t] = total[t] ∘ table[r, lookup[r, label + t]] for ``repetitions`` rows r from ``r0``, for t < width.

    total uint8 [width · 64]; table uint8 [R · B · 64]; lookup [R · n_labels], rows ``stride`` apart; total and table
    start at a cache line. Sums saturate at 255; with r0 = 0 totals start anew. With ``ahead``, lines are asked for that
    many labels before their turn.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        combine = declare(builder, f"llvm.{operation}.v{LINE}i8", BYTES, [BYTES, BYTES])

        def take(sofar: list[Any], line: Any) -> list[Any]:
            return [builder.call(combine, [sofar[0], line])]

        neutral = ir.Constant(BYTES, [255 if operation == "umin" else 0] * LINE)
        _gather(context, builder, signature, arguments, 1, repetitions, ahead, take, neutral)
        return context.get_dummy_value()

    def typer(typingctx, total, table, lookup, label, width, stride, r0, B):  # type: ignore[no-untyped-def]
        del typingctx
        return types.void(total, table, lookup, label, width, stride, r0, B), codegen

    return vector(typer)


def _gathering_drained(repetitions: int, ahead: int = 0) -> Any:
    """The sums of `_gathering` from which drain[drain_at : drain_at + 64] is then taken, down to 0 at least.

    What has reached 255 stays there, as nobody knows by how much it was above.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        add = declare(builder, f"llvm.uadd.sat.v{LINE}i8", BYTES, [BYTES, BYTES])
        less = declare(builder, f"llvm.usub.sat.v{LINE}i8", BYTES, [BYTES, BYTES])
        full = ir.Constant(BYTES, [255] * LINE)
        drain = line_at(context, builder, signature, arguments, 8, BYTES, 1)

        def take(sofar: list[Any], line: Any) -> list[Any]:
            return [builder.call(add, [sofar[0], line])]

        def finish(sofar: list[Any]) -> list[Any]:
            drained = builder.call(less, [sofar[0], drain])
            return [builder.select(builder.icmp_unsigned("==", sofar[0], full), full, drained)]

        neutral = ir.Constant(BYTES, [0] * LINE)
        _gather(context, builder, signature, arguments, 1, repetitions, ahead, take, neutral, finish)
        return context.get_dummy_value()

    def typer(typingctx, total, table, lookup, label, width, stride, r0, B, drain, drain_at):  # type: ignore[no-untyped-def]
        del typingctx
        return types.void(total, table, lookup, label, width, stride, r0, B, drain, drain_at), codegen

    return vector(typer)


def _gathering_halves(repetitions: int, ahead: int) -> Any:
    """The sums of 128 points: ``total`` of the lower halves of the lines' bytes, ``upper`` of the upper halves.

    A half h stands for min(h, FINE) + COARSE · max(h − FINE, 0) units, see `quantise_halves`.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        add = declare(builder, f"llvm.uadd.sat.v{LINE}i8", BYTES, [BYTES, BYTES])
        beyond = declare(builder, f"llvm.usub.sat.v{LINE}i8", BYTES, [BYTES, BYTES])
        low, fine = (ir.Constant(BYTES, [value] * LINE) for value in (15, FINE))

        def units(half: Any) -> Any:
            over = builder.call(beyond, [half, fine])
            for _ in range(COARSE - 1):
                half = builder.add(half, over)
            return half

        def take(sofar: list[Any], line: Any) -> list[Any]:
            # There is no shift of bytes; what comes over from the neighbour is masked out.
            pairs = builder.bitcast(line, PAIRS)
            upper = builder.bitcast(builder.lshr(pairs, ir.Constant(PAIRS, [4] * (LINE // 2))), BYTES)
            halves = (builder.and_(line, low), builder.and_(upper, low))
            return [builder.call(add, [s, units(half)]) for s, half in zip(sofar, halves, strict=True)]

        _gather(context, builder, signature, arguments, 2, repetitions, ahead, take, ir.Constant(BYTES, [0] * LINE))
        return context.get_dummy_value()

    def typer(typingctx, total, upper, table, lookup, label, width, stride, r0, B):  # type: ignore[no-untyped-def]
        del typingctx
        return types.void(total, upper, table, lookup, label, width, stride, r0, B), codegen

    return vector(typer)


def _gather(
    context: Any,
    builder: Any,
    signature: Any,
    arguments: Any,
    n_totals: int,
    repetitions: int,
    ahead: int,
    take: Callable[[list[Any], Any], list[Any]],
    neutral: Any,
    finish: Callable[[list[Any]], list[Any]] = list,
) -> None:
    """The loop over labels: ``take`` brings a label's totals and one more of its lines together."""
    *totals, table, lookup = (data_of(context, builder, signature, arguments, at) for at in range(n_totals + 2))
    rest = range(n_totals + 2, n_totals + 7)
    label, width, stride, r0, B = (index_of(context, builder, signature, arguments, at) for at in rest)
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
            at = builder.mul(loop.index, I64(LINE))
            places = [builder.bitcast(builder.gep(total, [at]), BYTES.as_pointer()) for total in totals]
            sofar = [start or builder.load(place, align=LINE) for place in places]
            if ahead:
                later = builder.add(loop.index, I64(ahead))
                later = builder.select(builder.icmp_signed("<", later, last), later, last)
                for u in range(repetitions):
                    _ask_for(builder, line(u, later))
            for u in range(repetitions):
                here = builder.bitcast(line(u, loop.index), BYTES.as_pointer())
                sofar = take(sofar, builder.load(here, align=LINE))
            for value, place in zip(finish(sofar), places, strict=True):
                builder.store(value, place, align=LINE)

    with builder.if_else(builder.icmp_signed("==", r0, I64(0))) as (first, later):
        with first:  # nothing to read
            every_label(neutral)
        with later:
            every_label(None)


add_four, add_one = _gathering_drained(AT_ONCE), _gathering("uadd.sat", 1)
add_four_far, add_one_far = _gathering_drained(AT_ONCE, AHEAD), _gathering("uadd.sat", 1, AHEAD)
least_of_four, least_of_one = _gathering("umin", AT_ONCE), _gathering("umin", 1)
least_of_four_far, least_of_one_far = _gathering("umin", AT_ONCE, AHEAD), _gathering("umin", 1, AHEAD)
add_four_halves, add_one_halves = _gathering_halves(AT_ONCE, AHEAD), _gathering_halves(1, AHEAD)


@vector
def next_reaching(typingctx, total, label, width, limit, limit_at):  # type: ignore[no-untyped-def]
    """The first label from ``label`` on, before ``width``, of whose 64 bytes in total any is at least that in
    limit[limit_at : ]; ``width`` where there is none."""
    del typingctx

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = data_of(context, builder, signature, arguments, 0)
        start, end = (index_of(context, builder, signature, arguments, which) for which in (1, 2))
        bar = line_at(context, builder, signature, arguments, 3, BYTES, 1)
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


@vector
def reaching(typingctx, total, at, limit, limit_at):  # type: ignore[no-untyped-def]
    """The points, as bits of a uint64, whose byte in total[at : at + 64] is at least that in limit[limit_at : ]."""
    del typingctx

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        left, right = (line_at(context, builder, signature, arguments, at, BYTES, LINE) for at in (0, 2))
        return builder.bitcast(builder.icmp_unsigned(">=", left, right), I64)

    return types.uint64(total, at, limit, limit_at), codegen


@vector
def first_bit(typingctx, bits):  # type: ignore[no-untyped-def]
    """Number of the lowest bit that is set in a uint64 other than 0."""
    del typingctx

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        return builder.cttz(arguments[0], I1(1))

    return types.int64(bits), codegen


@vector
def ask_for(typingctx, array, at):  # type: ignore[no-untyped-def]
    """Ask the cache for array[at], which will be read soon."""
    del typingctx

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = data_of(context, builder, signature, arguments, 0)
        place = builder.gep(data, [index_of(context, builder, signature, arguments, 1)])
        _ask_for(builder, builder.bitcast(place, I8.as_pointer()))
        return context.get_dummy_value()

    return types.void(array, at), codegen


def _ask_for(builder: Any, place: Any) -> None:
    prefetch = declare(builder, "llvm.prefetch.p0", ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
    builder.call(prefetch, [place, I32(0), I32(3), I32(1)])  # to read, to the nearest cache, data
