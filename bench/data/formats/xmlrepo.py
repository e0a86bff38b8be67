"""Parse lines ``l1,l2 f:v f:v`` into blocks: a plain reference parser, and a fast one with the same results.

A point without labels starts with a space (or directly with a feature); a point without features ends
after its labels; an empty line is a point with neither where the file counts its points, and no point where it does
not. Labels given twice count once, features given twice are summed, ids may come in any order.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import DataError
from bench.data.formats.csr_blocks import FLOAT32_LIMIT, Block
from bench.data.formats.streams import line_blocks

SMALL_BYTES = 1 << 18  # below this, compiling or loading the fast parser costs more than it saves


class Bad(Exception):
    """A line is malformed; ``found`` and ``expected`` say how."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(found)
        self.found, self.expected = found[:80], expected


@dataclass(frozen=True)
class Dialect:
    """How text differs from that of the XML Repository. Ids must lie below the two counts *after* the offsets.

    ``remarks`` removes the remarks of a block of text and keeps all line ends. Where it is given, blank lines are no
    points, and neither are lines that held nothing but a remark.
    """

    n_features: int
    n_labels: int
    remarks: Callable[[bytes], bytes] | None = None
    prepare: Callable[[bytes], bytes | None] | None = None  # rewrites a block for the fast parser, if it can
    parse: Callable[[str, Dialect], tuple[list[int], list[int], list[float]]] | None = None  # reference for a line
    feature_offset: int = 0
    label_offset: int = 0


def read_blocks(
    path: Path,
    dialect: Dialect,
    skip_lines: int = 0,
    n_points: int | None = None,
    threads: int = 2,
    fast: bool | None = None,
) -> Iterator[Block]:
    """Yield points in order. With ``n_points`` the file must hold exactly that many (blank lines after
    are ignored).

    ``fast``: None chooses by size. Raises DataError naming file and 1-based line.
    """
    seen, before = 0, skip_lines  # points and lines before the current block
    for text, block in _parsed(path, dialect, skip_lines, threads, fast):
        if isinstance(block, _Fault):
            raise DataError(path, before + block.line, block.bad.found, block.bad.expected)
        if n_points is not None and seen + len(block.x_lengths) > n_points:
            for at, line in enumerate(text.split(b"\n")[:-1], 1):
                if seen + at > n_points and line.strip():
                    expected = f"{n_points} points, as the header says"
                    raise DataError(path, before + at, f"point {n_points + 1}", expected)
            block = block.first(n_points - seen)
        seen += len(block.x_lengths)
        before += text.count(b"\n") if dialect.remarks else len(block.x_lengths)
        yield block
    if n_points is not None and seen != n_points:
        found = f"the end after {seen} points"
        raise DataError(path, skip_lines + seen, found, f"{n_points}, as the header says")


def parse_line(line: str, dialect: Dialect) -> tuple[list[int], list[int], list[float]]:
    """Reference: labels, feature ids and values of one line; raises Bad."""
    head, _, tail = line.partition(" ")
    if ":" in head:
        head, tail = "", line
    labels = [whole(token, dialect.n_labels, "label") for token in head.split(",")] if head else []
    features, values = [], []
    for token in tail.split():
        index, colon, value = token.partition(":")
        if not colon:
            raise Bad(repr(token), "`feature:value`")
        features.append(whole(index, dialect.n_features, "feature"))
        values.append(number_value(value))
    return labels, features, values


def whole(token: str, count: int, kind: str) -> int:
    """A whole number from 0 to count - 1; raises Bad."""
    if not (token.isascii() and token.isdigit()):
        raise Bad(f"{kind} {token!r}", f"a whole number from 0 to {count - 1}")
    if (number := int(token[:20])) >= count or len(token) > 20:
        raise Bad(f"{kind} {token}", f"a {kind} from 0 to {count - 1}")
    return number


def number_value(token: str) -> float:
    """A finite number that single precision can hold; raises Bad."""
    try:
        value = float(token) if token.isascii() and "_" not in token else math.nan
    except ValueError:
        value = math.nan
    if not abs(value) < FLOAT32_LIMIT:
        raise Bad(f"value {token!r}", "a finite number")
    return value


@dataclass(frozen=True)
class _Fault:
    line: int  # 1-based within the block
    bad: Bad


Outcome = Block | _Fault


def _parsed(
    path: Path, dialect: Dialect, skip_lines: int, threads: int, fast: bool | None
) -> Iterator[tuple[bytes, Outcome]]:
    """Blocks of text and what they parse to, in order; a few at a time on the threads."""
    if fast is None:
        fast = path.stat().st_size >= SMALL_BYTES
    parse = _parse_fast if fast else parse_reference
    texts = _after(line_blocks(path), skip_lines)
    if threads < 2 or not fast:
        for text in texts:
            yield text, parse(text, dialect)
        return
    waiting: deque[tuple[bytes, Future[Outcome]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for text in texts:
                waiting.append((text, pool.submit(parse, text, dialect)))
                if len(waiting) > threads:
                    done, future = waiting.popleft()
                    yield done, future.result()
            # the whole file was read; after an error in it the blocks parsed so far are of no use
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def _after(texts: Iterator[bytes], skip_lines: int) -> Iterator[bytes]:
    for text in texts:
        while skip_lines and text:
            text = text[text.index(b"\n") + 1 :]
            skip_lines -= 1
        if text:
            yield text


def parse_reference(text: bytes, dialect: Dialect) -> Outcome:
    """Plain parser: a line at a time into lists."""
    parse = dialect.parse or parse_line
    if dialect.remarks:
        text = dialect.remarks(text)
    x_lengths, x_indices, x_values, y_lengths, y_indices = [], [], [], [], []
    for at, raw in enumerate(text.split(b"\n")[:-1]):
        try:
            if not raw.isascii() or b"\0" in raw:
                raise Bad("bytes that are not text", "text, plain or compressed")
            if (blank := not raw.strip()) and dialect.remarks:
                continue
            line = "" if blank else raw.decode("ascii").removesuffix("\r")
            labels, features, values = parse(line, dialect)
        except Bad as bad:
            return _Fault(at + 1, bad)
        y_lengths.append(len(labels))
        y_indices += labels
        x_lengths.append(len(features))
        x_indices += features
        x_values += values
    return Block(
        np.array(x_lengths, dtype=np.int32),
        np.array(x_indices, dtype=np.int32),
        np.array(x_values, dtype=np.float64).astype(np.float32),
        np.array(y_lengths, dtype=np.int32),
        np.array(y_indices, dtype=np.int32),
    )


_thread = threading.local()


def _scratch(size: int) -> tuple[NDArray[Any], ...]:
    """Arrays large enough for ``size`` bytes of text, kept per thread: new memory pages cost more than the parsing.

    "0:1 " is four bytes, "0," two, an empty line one.
    """
    if getattr(_thread, "size", -1) < size:
        quarter = size // 4 + 2
        _thread.size = size
        _thread.arrays = (
            np.empty(size, np.int32),
            np.empty(quarter, np.int32),
            np.empty(quarter, np.float32),
            np.empty(size, np.int32),
            np.empty(size // 2 + 2, np.int32),
            np.empty((quarter, 3), np.int64),
        )
    arrays: tuple[NDArray[Any], ...] = _thread.arrays
    return arrays


def _parse_fast(text: bytes, dialect: Dialect) -> Outcome:
    """Compiled parser; what it cannot read, the reference parser reads or reports."""
    from bench.data.formats.xmlrepo_kernel import parse_lines

    bare = dialect.remarks(text) if dialect.remarks else text
    prepared = dialect.prepare(bare) if dialect.prepare else bare
    if prepared is None:
        return parse_reference(text, dialect)
    x_lengths, x_indices, x_values, y_lengths, y_indices, slow = _scratch(len(prepared))
    points, features, labels, left, rising, well = parse_lines(
        np.frombuffer(prepared, np.uint8),
        dialect.n_features + dialect.feature_offset,
        dialect.n_labels + dialect.label_offset,
        x_lengths,
        x_indices,
        x_values,
        y_lengths,
        y_indices,
        slow,
    )
    if not well:
        return parse_reference(text, dialect)
    for begin, end, at in slow[:left].tolist():
        value = float(prepared[begin:end])
        if not abs(value) < FLOAT32_LIMIT:
            return parse_reference(text, dialect)
        x_values[at] = value
    kept: slice | NDArray[np.bool_] = slice(points)
    if dialect.remarks:
        kept = (x_lengths[:points] > 0) | (y_lengths[:points] > 0)
    block = Block(
        x_lengths[:points][kept].copy(),
        x_indices[:features].copy(),
        x_values[:features].copy(),
        y_lengths[:points][kept].copy(),
        y_indices[:labels].copy(),
        rising=bool(rising),
    )
    if dialect.feature_offset or dialect.label_offset:
        moved = replace(
            block,
            x_indices=block.x_indices - np.int32(dialect.feature_offset),
            y_indices=block.y_indices - np.int32(dialect.label_offset),
        )
        if moved.x_indices.min(initial=0) < 0 or moved.y_indices.min(initial=0) < 0:
            return parse_reference(text, dialect)
        return moved
    return block
