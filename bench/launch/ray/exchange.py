"""Files exchanged through a URL, for machines that share no folder (docs/cluster.md).

Each machine works in a folder of its own; what other machines need is copied to the URL, and from there.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.common.errors import InputError
from bench.common.files import sync

LAST = ("record.json", ".json")  # copied last: they say that the rest is complete


class Exchange:
    """Files under a URL that fsspec knows: ``s3://bucket/folder``, ``gs://...``, ``file:///...``."""

    def __init__(self, url: str) -> None:
        """InputError for a URL of an unknown kind, or whose library is not installed."""
        self.url = url.rstrip("/")
        try:
            import fsspec

            self._files: Any
            self._files, root = fsspec.core.url_to_fs(self.url, skip_instance_cache=True)
        except (ImportError, ValueError) as error:
            raise InputError(f"--exchange {url}: {error}; expected a URL that fsspec can open") from error
        self._root = str(root).rstrip("/")

    def check(self) -> None:
        """Write, read and remove a file. InputError where that fails: better now than after an hour of training."""
        path = f"{self._root}/.machbench-{secrets.token_hex(4)}"
        try:
            if "file" in self._files.protocol:  # elsewhere it would make a bucket out of a typo
                self._files.makedirs(self._root, exist_ok=True)
            self._files.pipe_file(path, b"machbench")
            found = self._files.cat_file(path)
            self._files.rm_file(path)
        except Exception as error:  # each service raises classes of its own
            raise InputError(
                f"--exchange {self.url}: {type(error).__name__}: {error}; expected to write and read there"
            ) from error
        if found != b"machbench":
            raise InputError(f"--exchange {self.url}: found {found!r} where b'machbench' had been written")

    def names(self, folder: str) -> set[str]:
        """Names of the files in a folder; none where there is no such folder."""
        path = f"{self._root}/{folder}"
        self._files.invalidate_cache()
        try:
            return {Path(str(name)).name for name in self._files.ls(path, detail=False)}
        except FileNotFoundError:
            return set()

    def push(self, local: Path, folder: str) -> None:
        """Copy a file into a folder of the URL."""
        self._files.makedirs(f"{self._root}/{folder}", exist_ok=True)
        self._files.put_file(str(local), f"{self._root}/{folder}/{local.name}")

    def push_all(self, local: Path, folder: str, new_only: bool = False) -> None:
        """Copy the files of a folder (``new_only``: those whose names are not at the URL), those of `LAST` last."""
        there = self.names(folder) if new_only else set()
        for path in sorted(local.iterdir(), key=_copy_order):
            if path.is_file() and not path.name.startswith(".") and path.name not in there:
                self.push(path, folder)

    def pull(self, name: str, folder: str, local: Path) -> bool:
        """Copy a file into a local folder, under another name until it is complete; False where there is none."""
        local.mkdir(parents=True, exist_ok=True)
        aside = local / f".{name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
        try:
            self._files.get_file(f"{self._root}/{folder}/{name}", str(aside))
        except FileNotFoundError:
            aside.unlink(missing_ok=True)
            return False
        sync(aside)
        aside.replace(local / name)
        return True

    def pull_all(self, folder: str, local: Path, new_only: bool = False) -> None:
        """Copy the files of a folder (``new_only``: those that are not here) into a local one, those of `LAST` last."""
        for path in sorted((Path(name) for name in self.names(folder)), key=_copy_order):
            if not (new_only and (local / path.name).exists()):
                self.pull(path.name, folder, local)

    def remove(self, names: Iterable[str], folder: str) -> None:
        """Remove files, as far as they exist."""
        there = self.names(folder)
        for name in names:
            if name in there:
                self._files.rm_file(f"{self._root}/{folder}/{name}")


def fetch_folder(exchange: Exchange, folder: str, local: Path) -> None:
    """Replace a local folder by the one at the URL."""
    shutil.rmtree(local, ignore_errors=True)
    exchange.pull_all(folder, local)


def _copy_order(path: Path) -> tuple[int, str]:
    ranks = [rank for rank, end in enumerate(reversed(LAST), start=1) if path.name.endswith(end)]
    return max(ranks, default=0), path.name
