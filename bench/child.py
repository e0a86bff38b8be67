"""The process of one run from its first moment: it ends with the process that started it, however that ends.

    python -m bench.child RUN_DIR     (see `bench.execute`, and `bench.follow` for others of a run in several processes)

Nothing heavy is imported before that is settled: a launcher killed while its child still loads torch leaves no orphan.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

from bench import environment
from bench.files import is_full

PARENT = "MACHBENCH_PARENT"  # number of the process that starts a child
NO_ROOM = os.EX_IOERR  # exit status of a child that found the disk full


def search_path() -> str:
    """PYTHONPATH as this process was given it, and this package's own place: an uninstalled checkout works too."""
    return os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(Path(__file__).resolve().parents[1])]))


def python(module: str, **more: str) -> tuple[list[str], dict[str, str]]:
    """Command and environment that execute a module of this package as a child."""
    env = environment.THREADS | os.environ | {"PYTHONPATH": search_path(), PARENT: str(os.getpid())}
    return [sys.executable, "-P", "-m", module], env | more


def die_with_parent() -> None:
    """Have the kernel kill this process as soon as its parent ends, and end now when that has ended already."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.environ.get(PARENT, str(os.getppid())) != str(os.getppid()):
        sys.exit("the process that started this one has ended")


def main(path: str) -> int:
    """Execute the run in a folder. Exit status NO_ROOM where not even its failure could be written."""
    die_with_parent()
    from bench.follower import Place

    try:
        if place := Place.from_env(os.environ):
            from bench.follow import main as follow

            return follow(path, place)
        from bench.execute import main as execute

        return execute(path)
    except OSError as error:
        if not is_full(error):
            raise
        return NO_ROOM


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
