"""Unpack downloaded archives: regular files only, nothing outside the folder, bounded in size."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from bench.common.errors import DataError

MAX_BYTES = 256 << 30
CHUNK = 1 << 20


def is_archive(path: Path) -> bool:
    """Whether the file is a tar (plain or compressed) or a zip that is not itself a .npz matrix."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return not all(name.endswith(".npy") for name in archive.namelist())
    return tarfile.is_tarfile(path)


def extract(path: Path, folder: Path, max_bytes: int = MAX_BYTES) -> Path:
    """Unpack into ``folder``, which is complete or does not exist.

    Raises DataError for a damaged archive, a member that would leave the folder, a link or device, or
    contents above ``max_bytes``.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".unpacking", dir=folder.parent))
    try:
        written = 0
        for name, source in _members(path):
            parts = PurePosixPath(name.replace("\\", "/")).parts
            if not parts or ".." in parts or parts[0].startswith("/") or ":" in parts[0]:
                raise DataError(path, None, f"a member {name!r} that leaves the folder", "relative paths inside it")
            target = temporary.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                while chunk := source.read(CHUNK):
                    written += len(chunk)
                    if written > max_bytes:
                        raise DataError(path, None, "contents above the size limit", f"at most {max_bytes:,} bytes")
                    file.write(chunk)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        OSError,
    ) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise DataError(path, None, f"not unpackable ({error})", "a complete tar or zip archive") from None
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return folder


def _members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                kind = info.external_attr >> 28  # the file type that Unix zips keep in the upper bits
                if kind not in (0, 4, 8):
                    raise DataError(path, None, f"a link or device {info.filename!r}", "regular files")
                if not info.is_dir():
                    with archive.open(info) as file:
                        yield info.filename, file
        return
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isdir():
                continue
            if not member.isreg():
                raise DataError(path, None, f"a link or device {member.name!r}", "regular files")
            source = archive.extractfile(member)
            assert source is not None
            with source:
                yield member.name, source
