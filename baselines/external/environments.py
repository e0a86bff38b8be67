"""A Python environment for each external method, made on first use from exact versions and kept in the cache.

Wheels only, and without dependencies: exactly the listed packages are installed. pip uses the machine's configuration;
no index is named here.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path


def cache_root() -> Path:
    """The harness's cache: ``$MACHBENCH_CACHE``, else ``machbench`` in the XDG cache. Not created here."""
    if override := os.environ.get("MACHBENCH_CACHE"):
        return Path(override)
    xdg = os.environ.get("XDG_CACHE_HOME")
    return (Path(xdg) if xdg else Path.home() / ".cache") / "machbench"


def python_of(name: str, requirements: Sequence[str]) -> Path:
    """The interpreter of an environment that holds ``requirements`` (as ``package==version``) and nothing else.

    It is identified by the requirements and by the Python that runs this. It is built in a temporary folder and renamed
    when complete; one process builds, others wait. Raises NotImplementedError with pip's message when it cannot be
    made, because no index can be reached or there is no wheel for this Python or platform.
    """
    identity = "\n".join([sys.version, sys.base_prefix, *requirements])
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    folder = (cache_root() / "environments" / f"{name}-{digest}").absolute()
    python = folder / "bin" / "python"
    if python.exists():
        return python
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not python.exists():
            _build(name, folder, requirements)
    return python


def has_pip() -> bool:
    """Whether the interpreter that runs this can install packages itself."""
    return importlib.util.find_spec("pip") is not None


def isolated(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables without those that would let this process's Python packages into another's."""
    return {key: value for key, value in environment.items() if not key.startswith("PYTHON")}


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file ``path``; other processes wait for it."""
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield  # closing the file releases the lock, also when the process is killed


def _build(name: str, folder: Path, requirements: Sequence[str]) -> None:
    """Make the environment at ``folder``; the caller holds its lock, so folders of earlier attempts are not in use."""
    for leftover in folder.parent.glob(f".{folder.name}.*.building"):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)  # an environment whose base interpreter has gone
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".building", dir=folder.parent))
    try:
        # -I: no packages from PYTHONPATH or the user's own; pip still reads its PIP_* variables and files.
        # This interpreter's pip can install into other environments, which saves the seconds to install pip in each.
        venv, inside = [sys.executable, "-I", "-m", "venv", str(aside)], str(aside / "bin" / "python")
        if has_pip():
            _call(name, [*venv, "--without-pip"])
            pip = [sys.executable, "-I", "-m", "pip", "--python", inside]
        else:
            _call(name, venv)
            pip = [inside, "-I", "-m", "pip"]
        if requirements:
            _call(name, [*pip, "install", "--no-input", "--no-deps", "--only-binary", ":all:", *requirements])
        aside.rename(folder)  # only its interpreter is used, which finds its own folder
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _call(name: str, command: list[str]) -> None:
    done = subprocess.run(
        command,
        env=isolated(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        raise NotImplementedError(f"the environment of {name} cannot be made here: {_why(done.stdout)}")


def _why(output: str) -> str:
    """The last error among a tool's lines, else its last line; and whether an index could not be reached."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    why = (errors or lines or ["no output"])[-1].removeprefix("ERROR:").strip()
    unreached = any("connection broken" in line for line in lines)
    return f"{why} (a package index could not be reached)" if unreached else why
