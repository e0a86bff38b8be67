"""The machine of a measurement, from ``results/env/<env_id>.json``: its name for captions, its memory for figures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.common.errors import DataError
from bench.common.files import read_json_object

GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """The record of an environment; None for what it does not state. ``gpu_bytes`` is the memory of one GPU."""

    cpu: str | None
    cores: int | None
    memory_bytes: int | None
    gpu: str | None
    gpu_bytes: int | None

    def words(self, gpu: bool) -> str:
        """The machine in words, with its GPU where runs used it; "" when the record does not name the CPU."""
        if self.cpu is None:
            return ""
        cores = f"{self.cores} core{'s' * (self.cores != 1)}" if self.cores else ""
        memory = f"{self.memory_bytes / GIB:.1f} GiB" if self.memory_bytes else ""
        own = [self.cpu, cores, memory]
        if gpu and self.gpu:
            own += [f"GPU {self.gpu}", f"{self.gpu_bytes / GIB:.1f} GiB" if self.gpu_bytes else ""]
        return ", ".join(word for word in own if word)

    def capacity(self, gpu: bool) -> int | None:
        """Bytes of memory for a run: of the GPU where it ran on one, else of the host."""
        return self.gpu_bytes if gpu else self.memory_bytes


Machines = Mapping[str, Machine]


def read_machines(folder: Path, env_ids: Iterable[str | None]) -> dict[str, Machine]:
    """The machine of each environment that has its file in ``folder``; others are left out.

    Raises DataError for a file that holds no JSON object or a value of the wrong type.
    """
    found: dict[str, Machine] = {}
    for env_id in dict.fromkeys(e for e in env_ids if e):
        path = folder / f"{env_id}.json"
        if Path(env_id).name == env_id and path.is_file():
            found[env_id] = _machine(path)
    return found


def _machine(path: Path) -> Machine:
    content = read_json_object(path)
    gpu: str | None = _value(path, content, "gpu", str)  # a line of nvidia-smi each: name, memory in MiB, driver
    size = re.search(r"(\d+) MiB", gpu or "")
    return Machine(
        cpu=_value(path, content, "cpu", str),
        cores=_value(path, content, "cores", int),
        memory_bytes=_value(path, content, "memory_bytes", int),
        gpu=gpu.split(",")[0].strip() if gpu else None,
        gpu_bytes=int(size[1]) * 2**20 if size else None,
    )


def _value(path: Path, content: dict[str, Any], key: str, kind: type) -> Any:
    value = content.get(key)
    if value is not None and not isinstance(value, kind):
        raise DataError(path, None, f"{value!r} under {key!r}", f"{kind.__name__} or null")
    return value


def on_gpu(rows: Iterable[Mapping[str, Any]]) -> bool:
    """Whether any of the rows ran on a GPU."""
    return any((row.get("device") or "cpu").startswith("cuda") for row in rows)
