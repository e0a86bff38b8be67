"""How a command ends: exit statuses and last messages."""

from __future__ import annotations

import errno
import importlib.metadata
import io
import os
import sys
import traceback
from collections.abc import Callable
from types import TracebackType

from bench.common.errors import InputError
from bench.common.files import is_full

SHORT_OF_MEMORY = (errno.ENOMEM, errno.EAGAIN)


def ended(work: Callable[[], None]) -> None:
    """Do the work. What a user can mend ends it with one line on standard error: bad input and files that cannot be
    read or written with exit status 2, a full disk and too little memory with status 1. Anything else is a defect of
    machbench: its traceback is shown, and the exit status is 1.

    Text that the terminal cannot show is printed with replacements.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        work()
    except BrokenPipeError:  # the reader of the output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        line, status = known(error)
        if not line:
            traceback.print_exc()
            line = f"this is a defect of machbench {_version()}; please report it with the lines above"
        print(f"machbench: {line}", file=sys.stderr)
        sys.exit(status)


def known(error: Exception) -> tuple[str, int]:
    """What is said of an error that a user can mend, and the exit status; no words for a defect."""
    if isinstance(error, InputError):
        return str(error), 2
    if is_full(error):
        where = getattr(error, "filename", None) or "disk"
        return (
            f"{where}: no space left there; what is finished is kept. "
            "Free some space, then the same command goes on from here."
        ), 1
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in SHORT_OF_MEMORY):
        return f"memory is short{f' ({error})' if str(error) else ''}; what is finished is kept", 1
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: cannot be read or written ({error.strerror})", 2
    if isinstance(error, UnicodeDecodeError):
        return f"found text that is not UTF-8, read in {_innermost(error.__traceback__)} ({error})", 2
    return "", 1


def _innermost(trace: TracebackType | None) -> str:
    """The last module of this package in a traceback, with its line."""
    frames = [frame for frame in traceback.extract_tb(trace) if f"{os.sep}bench{os.sep}" in frame.filename]
    return f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else "a file"


def _version() -> str:
    try:
        return importlib.metadata.version("machbench")
    except importlib.metadata.PackageNotFoundError:
        return "of this checkout"
