"""Processes of this package that end together with the process that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

from bench.common import environment

PARENT = "MACHBENCH_PARENT"  # id of the process that starts a child
DISK_FULL = os.EX_IOERR  # exit status of a child that found the disk full


def search_path() -> str:
    """The PYTHONPATH of this process, and the folder of this package, so that an uninstalled checkout works too."""
    return os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(Path(__file__).resolve().parents[2])]))


def python(module: str, **variables: str) -> tuple[list[str], dict[str, str]]:
    """Command and environment, with further variables, that execute a module of this package as a child."""
    env = environment.THREADS | os.environ | {"PYTHONPATH": search_path(), PARENT: str(os.getpid())}
    return [sys.executable, "-P", "-m", module], env | variables


def die_with_parent() -> None:
    """Have the kernel kill this process as soon as its parent ends; end it now if the parent has ended already."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.environ.get(PARENT, str(os.getppid())) != str(os.getppid()):
        sys.exit("the process that started this one has ended")
