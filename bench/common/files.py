"""Files: written whole or not at all, hashed, read as JSON."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from bench.common.errors import DataError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# the longer marks first: that of UTF-32 begins like that of UTF-16
_FOREIGN_MARKS = (
    (b"\xff\xfe\0\0", "UTF-32"), (b"\0\0\xfe\xff", "UTF-32"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"),
)  # fmt: skip


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file in the folder of ``path``; when the block ends well, fsync it and rename it to ``path``.

    The previous content of ``path`` stays until the new content is safely on disk, so that neither a reader nor a crash
    meets half a file. Folders are made as needed. Raises OSError naming ``path`` (disk full, not permitted); the
    temporary file is removed after every error.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process number alone is not enough: two machines that share the folder may have processes of one number.
    aside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with aside.open("wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        aside.replace(path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            aside.unlink()
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    sync(path.parent)  # the rename itself is durable only once the folder is


def write_atomic(path: Path | str, data: bytes | str) -> Path:
    """Replace the content of ``path`` by ``data`` (text as UTF-8) as `replacing` does; returns the path."""
    path = Path(path)
    with replacing(path) as f:
        f.write(data.encode("utf-8") if isinstance(data, str) else data)
    return path


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are safely on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of_file(path: Path) -> str:
    """Hex sha256 of a file's content, read in pieces."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; DataError for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(path, getattr(error, "lineno", None), f"no JSON ({error})", "a JSON object") from None
    if not isinstance(content, dict):
        raise DataError(path, 1, f"a JSON {type(content).__name__}", "a JSON object")
    return content


def without_mark(path: Path, start: bytes) -> bytes:
    """The first bytes of a text file without its UTF-8 byte-order mark. DataError for the marks of other encodings."""
    for mark, encoding in _FOREIGN_MARKS:
        if start.startswith(mark):
            raise DataError(path, 1, f"{encoding} text", "UTF-8 text")
    return start.removeprefix(BYTE_ORDER_MARK)


def is_full(error: BaseException) -> bool:
    """Whether the error is a full disk or an exhausted quota."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
