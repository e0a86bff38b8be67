"""Source `files`: a train and a test file on disk, read in whatever known format they are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.data import formats
from bench.data.cache import SPLITS, CacheWriter
from bench.data.sources import Progress
from bench.errors import InputError

VERSION = formats.PARSER_VERSION
DEFAULTS: Mapping[str, Any] = {"train": None, "test": None}


def identity(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """Content hashes of the files: a changed file is another dataset, a moved one is not."""
    return {split: file_sha256(_path(parameters, split)) for split in SPLITS}


def build(parameters: Mapping[str, Any], out: CacheWriter, progress: Progress) -> None:
    """Parse both files; when their headers disagree on a width, the larger counts and a note says so."""
    widths = {}
    for split in SPLITS:
        path = _path(parameters, split)
        progress(f"reading {path}")
        widths[split] = formats.read_header(path)[1:]
        out.shape(*widths[split])
        for block in formats.read_blocks(path):
            out.append(split, block)
    if widths["train"] != widths["test"]:
        out.note(
            "train and test headers disagree on (features, labels): "
            f"{widths['train']} and {widths['test']}; the larger of each was taken"
        )


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's content. Raises InputError when there is no such file."""
    if not path.is_file():
        raise InputError(f"data file {path} does not exist")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _path(parameters: Mapping[str, Any], split: str) -> Path:
    if not parameters.get(split):
        raise InputError(f"data source 'files' needs the parameter {split!r}: the path of the {split} file")
    return Path(parameters[split]).expanduser()
