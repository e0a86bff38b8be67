"""Vector instructions that the compiler does not find by itself: adding up lines of 64 bytes, and finding high bytes.

Arrays are one-dimensional and contiguous, indices are not checked. LLVM lowers the vectors to whatever the processor
has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from mach.decode.cpu.simd.quantise import COARSE, FINE
from mach.decode.cpu.simd.vectors import (
    BYTES,
    I1,
    I8,
    I32,
    I64,
    LINE,
    PAIRS,
    data_of,
    declare,
    index_of,
    line_at,
    vector,
)

AT_ONCE = 4  # repetitions that `add_four` and the like take in one pass over the labels
AHEAD = 48  # labels between the prefetch of a line and its use, where the table is far


def _gathering(operation: str, repetitions: int, ahead: int = 0) -> Any:
    """total[t] = total[t] ∘ table[r, lookup[r, label + t]] for ``repetitions`` rows r from ``r0``, for t < width.

    total uint8 [width · 64]; table uint8 [R · B · 64]; lookup [R · n_labels], rows ``stride`` apart; total and table
    start at a cache line. Sums saturate at 255; with r0 = 0 totals start anew. With ``ahead``, lines are prefetched
    that many labels before their turn.
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
    """The sums of `_gathering` less drain[drain_at : drain_at + 64], and at least 0.

    A sum of 255 stays, because it is not known by how much it was above.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        drain = line_at(context, builder, signature, arguments, 8, BYTES, 1)
        take, neutral = _adding(builder)

        def finish(sofar: list[Any]) -> list[Any]:
            return [_drained(builder, sofar[0], drain)]

        _gather(context, builder, signature, arguments, 1, repetitions, ahead, take, neutral, finish)
        return context.get_dummy_value()

    def typer(typingctx, total, table, lookup, label, width, stride, r0, B, drain, drain_at):  # type: ignore[no-untyped-def]
        del typingctx
        return types.void(total, table, lookup, label, width, stride, r0, B, drain, drain_at), codegen

    return vector(typer)


def _finding(repetitions: int, ahead: int = 0) -> Any:
    """The sums of `_gathering`, drained where it takes four, written only for labels that may still reach the bar.

    A label may when its total of some point in the bits of ``present`` is at least need[0 : 64]. The columns of these
    labels go to found int32 [width]; returns how many there are.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        drain = line_at(context, builder, signature, arguments, 8, BYTES, 1)
        take, neutral = _adding(builder)

        def finish(sofar: list[Any]) -> list[Any]:
            return [_drained(builder, sofar[0], drain)] if repetitions == AT_ONCE else sofar

        search = _Search(context, builder, signature, arguments, 1, 10)
        _gather(context, builder, signature, arguments, 1, repetitions, ahead, take, neutral, finish, search.keep)
        return search.found()

    def typer(  # type: ignore[no-untyped-def]
        typingctx, total, table, lookup, label, width, stride, r0, B, drain, drain_at, need, present, found
    ):
        del typingctx
        where = total, table, lookup, label, width, stride, r0, B
        return types.int64(*where, drain, drain_at, need, present, found), codegen

    return vector(typer)


def _finding_halves(repetitions: int, ahead: int) -> Any:
    """The same for the sums of `_gathering_halves`: need [128], present uint64 [2]."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        take, neutral = _adding_halves(builder)
        search = _Search(context, builder, signature, arguments, 2, 9)
        _gather(context, builder, signature, arguments, 2, repetitions, ahead, take, neutral, list, search.keep)
        return search.found()

    def typer(  # type: ignore[no-untyped-def]
        typingctx, total, upper, table, lookup, label, width, stride, r0, B, need, present, found
    ):
        del typingctx
        where = total, upper, table, lookup, label, width, stride, r0, B
        return types.int64(*where, need, present, found), codegen

    return vector(typer)


class _Search:
    """Which labels may still reach the bar; the arguments are need, present and found, from ``which`` on."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any, sides: int, which: int) -> None:
        self.builder = builder
        need, present, self.places = (data_of(context, builder, signature, arguments, which + i) for i in range(3))
        self.needs, self.present = [], []
        for side in range(sides):
            line = builder.bitcast(builder.gep(need, [I64(side * LINE)]), BYTES.as_pointer())
            self.needs.append(builder.load(line, align=1))
            self.present.append(builder.load(builder.gep(present, [I64(side)])))
        self.count = cgutils.alloca_once_value(builder, I64(0))

    def keep(self, t: Any, values: list[Any], write: Callable[[], None]) -> None:
        builder, hits = self.builder, I64(0)
        for value, need, present in zip(values, self.needs, self.present, strict=True):
            reached = builder.bitcast(builder.icmp_unsigned(">=", value, need), I64)
            hits = builder.or_(hits, builder.and_(reached, present))
        with builder.if_then(builder.icmp_unsigned("!=", hits, I64(0)), likely=False):
            write()
            count = builder.load(self.count)
            builder.store(builder.trunc(t, I32), builder.gep(self.places, [count]))
            builder.store(builder.add(count, I64(1)), self.count)

    def found(self) -> Any:
        return self.builder.load(self.count)


def _adding(builder: Any) -> tuple[Callable[[list[Any], Any], list[Any]], Any]:
    """How `_gather` adds one more line to a sum, and the sum that it starts from."""
    add = declare(builder, f"llvm.uadd.sat.v{LINE}i8", BYTES, [BYTES, BYTES])

    def take(sofar: list[Any], line: Any) -> list[Any]:
        return [builder.call(add, [sofar[0], line])]

    return take, ir.Constant(BYTES, [0] * LINE)


def _drained(builder: Any, total: Any, drain: Any) -> Any:
    """A total less ``drain``; 255 stays."""
    less = declare(builder, f"llvm.usub.sat.v{LINE}i8", BYTES, [BYTES, BYTES])
    full = ir.Constant(BYTES, [255] * LINE)
    return builder.select(builder.icmp_unsigned("==", total, full), full, builder.call(less, [total, drain]))


def _gathering_halves(repetitions: int, ahead: int) -> Any:
    """The sums of 128 points: ``total`` of the lower halves of the lines' bytes, ``upper`` of the upper halves."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        take, neutral = _adding_halves(builder)
        _gather(context, builder, signature, arguments, 2, repetitions, ahead, take, neutral)
        return context.get_dummy_value()

    def typer(typingctx, total, upper, table, lookup, label, width, stride, r0, B):  # type: ignore[no-untyped-def]
        del typingctx
        return types.void(total, upper, table, lookup, label, width, stride, r0, B), codegen

    return vector(typer)


def _adding_halves(builder: Any) -> tuple[Callable[[list[Any], Any], list[Any]], Any]:
    """`_adding` for both sides. A half h stands for min(h, FINE) + COARSE · max(h − FINE, 0) units, see
    `quantise_halves`."""
    add = declare(builder, f"llvm.uadd.sat.v{LINE}i8", BYTES, [BYTES, BYTES])
    beyond = declare(builder, f"llvm.usub.sat.v{LINE}i8", BYTES, [BYTES, BYTES])
    low, fine = (ir.Constant(BYTES, [value] * LINE) for value in (15, FINE))

    def units(half: Any) -> Any:
        over = builder.call(beyond, [half, fine])
        for _ in range(COARSE - 1):
            half = builder.add(half, over)
        return half

    def take(sofar: list[Any], line: Any) -> list[Any]:
        # There is no shift of bytes; the bits that come from the next byte are masked out.
        pairs = builder.bitcast(line, PAIRS)
        upper = builder.bitcast(builder.lshr(pairs, ir.Constant(PAIRS, [4] * (LINE // 2))), BYTES)
        halves = (builder.and_(line, low), builder.and_(upper, low))
        return [builder.call(add, [s, units(half)]) for s, half in zip(sofar, halves, strict=True)]

    return take, ir.Constant(BYTES, [0] * LINE)


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
    keep: Callable[[Any, list[Any], Any], None] | None = None,
) -> None:
    """The loop over labels: ``take`` adds one more line to a label's totals; ``keep``, called with the label's column,
    its totals and the function that writes them, decides whether they are written."""
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
                    _prefetch(builder, line(u, later))
            for u in range(repetitions):
                here = builder.bitcast(line(u, loop.index), BYTES.as_pointer())
                sofar = take(sofar, builder.load(here, align=LINE))
            values = finish(sofar)

            def write(values: list[Any] = values, places: list[Any] = places) -> None:
                for value, place in zip(values, places, strict=True):
                    builder.store(value, place, align=LINE)

            if keep:
                keep(loop.index, values, write)
            else:
                write()

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
find_four, find_two = _finding(AT_ONCE), _finding(2)
find_four_far, find_two_far = _finding(AT_ONCE, AHEAD), _finding(2, AHEAD)
find_four_halves, find_two_halves = _finding_halves(AT_ONCE, AHEAD), _finding_halves(2, AHEAD)


@vector
def add_line(typingctx, total, at, table, line, drain, drain_at):  # type: ignore[no-untyped-def]
    """total[at : at + 64] grows by table[line : line + 64] and is drained, all as in `_gathering_drained`."""
    del typingctx

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first = data_of(context, builder, signature, arguments, 0)
        at = index_of(context, builder, signature, arguments, 1)
        place = builder.bitcast(builder.gep(first, [at]), BYTES.as_pointer())
        take, _ = _adding(builder)
        more = line_at(context, builder, signature, arguments, 2, BYTES, LINE)
        total = take([builder.load(place, align=LINE)], more)[0]
        drain = line_at(context, builder, signature, arguments, 4, BYTES, 1)
        builder.store(_drained(builder, total, drain), place, align=LINE)
        return context.get_dummy_value()

    return types.void(total, at, table, line, drain, drain_at), codegen


@vector
def add_line_halves(typingctx, total, upper, at, table, line):  # type: ignore[no-untyped-def]
    """The same for both sides of 128 points, without a drain."""
    del typingctx

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        at = index_of(context, builder, signature, arguments, 2)
        places = [
            builder.bitcast(
                builder.gep(data_of(context, builder, signature, arguments, side), [at]), BYTES.as_pointer()
            )
            for side in (0, 1)
        ]
        take, _ = _adding_halves(builder)
        more = line_at(context, builder, signature, arguments, 3, BYTES, LINE)
        sums = take([builder.load(place, align=LINE) for place in places], more)
        for value, place in zip(sums, places, strict=True):
            builder.store(value, place, align=LINE)
        return context.get_dummy_value()

    return types.void(total, upper, at, table, line), codegen


@vector
def next_reaching(typingctx, total, label, width, limit, limit_at):  # type: ignore[no-untyped-def]
    """The first label in label..width with any of its 64 bytes in total at least that in limit[limit_at : ]; ``width``
    where there is none."""
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
def prefetch(typingctx, array, at):  # type: ignore[no-untyped-def]
    """Prefetch array[at], which will be read soon."""
    del typingctx

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = data_of(context, builder, signature, arguments, 0)
        place = builder.gep(data, [index_of(context, builder, signature, arguments, 1)])
        _prefetch(builder, builder.bitcast(place, I8.as_pointer()))
        return context.get_dummy_value()

    return types.void(array, at), codegen


def _prefetch(builder: Any, place: Any) -> None:
    intrinsic = declare(builder, "llvm.prefetch.p0", ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
    builder.call(intrinsic, [place, I32(0), I32(3), I32(1)])  # to read, to the nearest cache, data
