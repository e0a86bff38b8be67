"""Named tensors and JSON values in one safetensors file, read straight into the tensors that they belong to."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

VALUES = "values"  # key of the file's metadata
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> str:
    """Write aside, fsync, rename; returns the SHA-256 of the file. Tensors on the host are not copied.

    Whatever is raised (disk full, a value that is no JSON), no unfinished file stays behind.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(ready, aside, metadata={VALUES: json.dumps(values)})
        with aside.open("rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        aside.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            aside.unlink()
        raise
    return digest


class TensorFile:
    """A file that `write_tensors` wrote. Not mapped into memory: mapped pages count as memory of the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(length))
        self.values: dict[str, Any] = json.loads(header.pop("__metadata__")[VALUES])
        self._start, self._entries = 8 + length, header

    @property
    def names(self) -> list[str]:
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._entries[name]["shape"])

    def dtype(self, name: str) -> torch.dtype:
        return DTYPES[self._entries[name]["dtype"]]

    def read(self, name: str) -> Tensor:
        """A tensor of its own, on the host."""
        tensor = torch.empty(self.shape(name), dtype=self.dtype(name))
        self.read_into(name, tensor)
        return tensor

    @torch.no_grad()
    def read_into(self, name: str, target: Tensor) -> None:
        """Fill a tensor of the same shape and dtype; ValueError for another, or one that the file does not have."""
        if name not in self._entries:
            raise ValueError(f"{self.path.name}: no tensor {name!r}")
        found, expected = (self.shape(name), self.dtype(name)), (tuple(target.shape), target.dtype)
        if found != expected:
            raise ValueError(f"{self.path.name}, {name}: found {found}; expected {expected}")
        if target.is_cuda or not target.is_contiguous():
            target.copy_(self.read(name))
            return
        with self.path.open("rb") as file:
            file.seek(self._start + self._entries[name]["data_offsets"][0])
            file.readinto(target.detach().reshape(-1).view(torch.uint8).numpy().data)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file. OSError when it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
