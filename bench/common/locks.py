"""Locks between processes: the kernel releases a lock when its holders have ended, for any reason."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.common.errors import InputError


@contextmanager
def hold(path: Path, shared: bool = False, wait: bool = False) -> Iterator[int | None]:
    """Hold the lock on the file ``path``; yields its descriptor, None when another process holds it.

    ``shared``: several processes may hold it shared, or one exclusively. ``wait``: until it is free. The file stays,
    because otherwise two processes could lock two files of one name. A process that inherits the descriptor holds the
    lock too: it is free once all its holders have ended.

    Raises InputError where the file system keeps no locks, OSError where the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        yield descriptor if _locked(descriptor, path, shared, wait) else None
    finally:
        os.close(descriptor)


def held(path: Path) -> bool:
    """Whether some process holds the lock exclusively. Makes no file and delays no other process."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not _locked(descriptor, path, shared=True, wait=False)
    finally:
        os.close(descriptor)


def _locked(descriptor: int, path: Path, shared: bool, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        expected = "expected a file system that keeps locks (flock)"
        raise InputError(f"{path}: cannot be locked ({error.strerror}); {expected}") from error
    return True
