"""Text files as blocks of whole lines, decompressed while they are read: plain, gzip, bzip2, or a zip of one file.

All readers of text take their bytes from here, so that all treat compression, byte-order marks and remarks alike.
"""

from __future__ import annotations

import bz2
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from bench.common.errors import DataError, InputError
from bench.common.files import without_mark

BLOCK_BYTES = 1 << 22
MAX_LINE_BYTES = 256 << 20
HEAD_BYTES = 1 << 16


class Broken(Exception):
    """A compressed stream is damaged or cut short; the reader that counts lines turns it into a DataError."""


def line_blocks(path: Path, block_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Yield the decompressed file in blocks that end with a line feed (one is added to an unfinished last
    line).

    Raises InputError when there is no such file and DataError when its compression is damaged: the error
    names the line on which the data stop.
    """
    carry = b""
    try:
        for chunk in chunks(path, block_bytes):
            if cut := chunk.rfind(b"\n") + 1:
                yield carry + chunk[:cut]
                carry = chunk[cut:]
            else:
                carry += chunk
                if len(carry) > MAX_LINE_BYTES:
                    raise DataError(path, None, f"a line above {MAX_LINE_BYTES} bytes", "lines of text")
    except Broken as error:
        # counted only now, in a second pass, so that sound files do not pay for it
        raise DataError(path, _lines_until_break(path) + 1, str(error), "a complete compressed file") from None
    if carry:
        yield carry + b"\n"


def text_lines(path: Path) -> list[str]:
    """All lines of a text file, packed or plain, without their ends. Raises DataError for bytes that are not UTF-8."""
    lines = b"".join(line_blocks(path)).split(b"\n")[:-1]
    out = []
    for number, line in enumerate(lines, start=1):
        try:
            out.append(line.removesuffix(b"\r").decode("utf-8"))
        except UnicodeDecodeError:
            raise DataError(path, number, f"{line[:40]!r}, which is not text", "UTF-8 text") from None
    return out


def data_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file that are neither blank nor remarks (`#` first), each with its number, from 1.

    For files whose lines hold numbers only: a label's name may begin with `#`. Raises what `text_lines` raises.
    """
    for number, line in enumerate(text_lines(path), start=1):
        if (bare := line.strip()) and not bare.startswith("#"):
            yield number, line


def first_data_line(path: Path) -> tuple[int, bytes]:
    """Number and bytes of the first line that is neither blank nor a remark; (0, b"") when there is none."""
    start = head(path)
    number, line = _first_of(start)
    if number or len(start) < HEAD_BYTES:
        return number, line
    before = 0
    for text in line_blocks(path):  # a long preamble
        number, line = _first_of(text)
        if number:
            return before + number, line
        before += text.count(b"\n")
    return 0, b""


def _first_of(text: bytes) -> tuple[int, bytes]:
    for number, line in enumerate(text.split(b"\n"), start=1):
        if (bare := line.strip()) and not bare.startswith(b"#"):
            return number, line
    return 0, b""


def _lines_until_break(path: Path) -> int:
    lines = 0
    try:
        for chunk in chunks(path):
            lines += chunk.count(b"\n")
    except Broken:
        pass
    return lines


def chunks(path: Path, size: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Yield the decompressed bytes of a text file, about ``size`` at a time, without a byte-order mark. Compression is
    recognised by content, not by name. Raises InputError when there is no such file, DataError for UTF-16 and UTF-32,
    `Broken` for damaged compression."""
    start: bytes | None = b""  # until the first bytes are complete
    for chunk in _unpacked(path, size):
        if start is None:
            yield chunk
        elif len(start := start + chunk) >= 4:
            begin, start = without_mark(path, start), None
            if begin:
                yield begin
    if start and (begin := without_mark(path, start)):
        yield begin


def _unpacked(path: Path, size: int) -> Iterator[bytes]:
    if not path.is_file():
        raise InputError(f"data file {path} does not exist")
    with path.open("rb") as file:
        magic = file.read(4)
    if magic[:2] == b"\x1f\x8b":
        yield from _gzip(path, size)
    elif magic[:3] == b"BZh":
        yield from _bzip2(path, size)
    elif magic == b"PK\x03\x04":
        yield from _zip(path, size)
    else:
        with path.open("rb") as file:
            while chunk := file.read(size):
                yield chunk


def head(path: Path, size: int = HEAD_BYTES) -> bytes:
    """The first bytes of the decompressed file, as many as can be read."""
    found = b""
    try:
        for chunk in chunks(path, size):
            found += chunk
            if len(found) >= size:
                break
    except Broken:
        pass  # reading the whole file will report where it breaks
    return found[:size]


def _gzip(path: Path, size: int) -> Iterator[bytes]:
    """zlib directly: it decompresses without the interpreter's lock, so that another thread can parse
    meanwhile."""
    member, fed = zlib.decompressobj(31), False
    with path.open("rb") as file:
        data = file.read(1 << 20)
        while data:
            if member.eof:  # another member, or zero padding as tape tools leave it
                data = data.lstrip(b"\0")
                if data and data[:2] != b"\x1f\x8b"[: len(data)]:
                    raise Broken("bytes after the end of the gzip data")
                member, fed = zlib.decompressobj(31), False
            try:
                while data and not member.eof:
                    fed = True
                    if out := member.decompress(data, size):
                        yield out
                    data = member.unconsumed_tail
            except zlib.error as error:
                raise Broken(f"broken gzip data ({error})") from None
            data = (member.unused_data if member.eof else b"") or file.read(1 << 20)
    if fed and not member.eof:
        if rest := member.flush():
            yield rest
        raise Broken("broken gzip data (cut short)")


def _bzip2(path: Path, size: int) -> Iterator[bytes]:
    stream = bz2.BZ2Decompressor()
    with path.open("rb") as file:
        data = file.read(1 << 20)
        while data:
            if stream.eof:
                stream = bz2.BZ2Decompressor()
            try:
                out = stream.decompress(data, size)
                while out:
                    yield out
                    out = b"" if stream.eof or stream.needs_input else stream.decompress(b"", size)
            except OSError as error:
                raise Broken(f"broken bzip2 data ({error})") from None
            data = (stream.unused_data if stream.eof else b"") or file.read(1 << 20)
    if not stream.eof:
        raise Broken("broken bzip2 data (cut short)")


def _zip(path: Path, size: int) -> Iterator[bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
            if len(names) != 1:
                raise DataError(path, None, f"a zip archive of {len(names)} files", "one file; unpack it first")
            with archive.open(names[0]) as file:
                while chunk := file.read(size):
                    yield chunk
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise Broken(f"broken zip data ({error})") from None
