"""Start a process of this package that ends together with the process that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

from bench.common import environment

PARENT = "MACHBENCH_PARENT"  # number of the process that starts a child
NO_ROOM = os.EX_IOERR  # exit status of a child that found the disk full


def search_path() -> str:
    """PYTHONPATH as this process was given it, and this package's own place: an uninstalled checkout works too."""
    return os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(Path(__file__).resolve().parents[2])]))


def python(module: str, **more: str) -> tuple[list[str], dict[str, str]]:
    """Command and environment that execute a module of this package as a child."""
    env = environment.THREADS | os.environ | {"PYTHONPATH": search_path(), PARENT: str(os.getpid())}
    return [sys.executable, "-P", "-m", module], env | more


def die_with_parent() -> None:
    """Have the kernel kill this process as soon as its parent ends, and end now when that has ended already."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.environ.get(PARENT, str(os.getppid())) != str(os.getppid()):
        sys.exit("the process that started this one has ended")
