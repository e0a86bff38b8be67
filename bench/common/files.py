"""Writing a file so that a reader, a crash or a full disk never meets half of it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from pathlib import Path
from typing import Any

from bench.common.errors import DataError


def write_atomic(path: Path | str, data: bytes | str) -> Path:
    """Write ``data`` (text as UTF-8) aside in the same folder, fsync it, then rename it over ``path``.

    What stood at ``path`` before stays until the new content is safely on disk. Folders are made as needed.
    Raises OSError naming ``path`` (disk full, not permitted); the unfinished file is then removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two machines that share the folder may have processes of one number.
    aside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with aside.open("wb") as f:
            f.write(data.encode("utf-8") if isinstance(data, str) else data)
            f.flush()
            os.fsync(f.fileno())
        aside.replace(path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            aside.unlink()
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    sync(path.parent)  # the rename itself is durable only once the folder is
    return path


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are safely on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; DataError for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(path, getattr(error, "lineno", None), f"no JSON ({error})", "a JSON object") from None
    if not isinstance(content, dict):
        raise DataError(path, 1, f"a JSON {type(content).__name__}", "a JSON object")
    return content


def is_full(error: BaseException) -> bool:
    """Whether an error says that there is no room left: a full disk, or a quota that is used up."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
