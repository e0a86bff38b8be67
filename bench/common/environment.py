"""The machine, the package versions and the code of a measurement, each recorded once."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.common.files import write_atomic

# How long (in loop iterations) waiting OpenMP threads spin before they sleep. Two thread pools, of torch and of the
# compiled kernels, share the cores: with the default, small training steps became about fifty times slower as soon as
# other work ran on the machine; without spinning they are half as fast on an idle machine.
THREADS = {"GOMP_SPINCOUNT": "5000"}

THREAD_VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
PACKAGES = ("machbench", "torch", "numpy", "scipy", "numba", "pandas", "matplotlib")


@cache
def describe() -> dict[str, Any]:
    """Machine, Python, package versions and thread settings; imports none of the packages."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": _gpu(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "threads": {name: value for name, value in (THREADS | os.environ).items() if name in THREAD_VARIABLES},
    }


def env_id() -> str:
    """Short hash of the environment."""
    return hashlib.sha256(json.dumps(describe(), sort_keys=True).encode()).hexdigest()[:8]


def placed() -> dict[str, Any]:
    """Host, process number and hash of the environment of this process."""
    return {"host": socket.gethostname(), "process": os.getpid(), "env_id": env_id()}


def write(results: Path) -> Path:
    """Write results/env/<env_id>.json, with the code revision of the first run that wrote it; returns the path."""
    path = results / "env" / f"{env_id()}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"env_id": env_id(), **describe(), "revision": _revision()}
        write_atomic(path, json.dumps(content, indent=1) + "\n")
    return path


def write_code(results: Path, code: str, target: str) -> Path:
    """Write results/code/<code>.json: commit, local changes as a diff, and names of untracked Python files.

    ``code`` is the hash of the code of a run (`bench.common.code_hash.code_hash`), shortened as in table.csv.
    Written by the first run of that code; outside a checkout the values are null."""
    path = results / "code" / f"{code}.json"
    if not path.exists():
        content = {
            "code": code,
            "target": target,
            "commit": _git("rev-parse", "HEAD"),
            "diff": _git("diff", "HEAD", "--", "*.py", "*.yaml"),
            "untracked": _git("ls-files", "--others", "--exclude-standard", "--", "*.py"),
        }
        write_atomic(path, json.dumps(content, indent=1) + "\n")
    return path


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _gpu() -> str | None:
    """Name, memory and driver of the GPUs as nvidia-smi reports them; None without one."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    return _first_output(command)


def _revision() -> str | None:
    """The checkout's commit, marked when there are local changes; None outside a checkout."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return f"{commit} with local changes" if changed else commit


def _git(*arguments: str) -> str | None:
    return _first_output(["git", "-C", str(Path(__file__).resolve().parents[2]), *arguments])


def _first_output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
