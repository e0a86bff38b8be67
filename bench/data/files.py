"""Source `files`: a train and a test file on disk, read in whatever known format they are."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.data import formats
from bench.data.cache import SPLITS, CacheWriter
from bench.data.sources import Progress
from bench.data.streams import text_lines
from bench.errors import DataError, InputError
from bench.paths import cache_root

VERSION = formats.PARSER_VERSION
DEFAULTS: Mapping[str, Any] = {
    "train": None,
    "test": None,
    "train_labels": None,  # second file of a pair when it is not found by its name
    "test_labels": None,
    "train_filter": None,
    "test_filter": None,
    "label_names": None,  # text file, name of label i on line i
    "format": "auto",
    "label_offset": 0,
    "feature_offset": 0,
    "n_features": None,  # declared widths, for formats without a header
    "n_labels": None,
}
FILES = ("train", "test", "train_labels", "test_labels", "train_filter", "test_filter", "label_names")


def identity(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """Content hashes of the files: a changed file is another dataset, a moved one is not."""
    found: dict[str, Any] = dict.fromkeys(FILES)
    for split in SPLITS:
        path = _path(parameters, split)
        found[split] = file_sha256(path)
        labels = parameters.get(f"{split}_labels") or formats.labels_beside(path)
        if labels and Path(labels).is_file():
            found[f"{split}_labels"] = file_sha256(Path(labels))
    for key in ("train_filter", "test_filter", "label_names"):
        if parameters.get(key):
            found[key] = file_sha256(Path(parameters[key]))
    return found


def build(parameters: Mapping[str, Any], out: CacheWriter, progress: Progress) -> None:
    """Parse both files; when they disagree on a width, the larger counts and a note says so."""
    widths = {}
    out.shape(parameters["n_features"] or 0, parameters["n_labels"] or 0)
    for split in SPLITS:
        labels = parameters[f"{split}_labels"]
        reading = formats.open_data(
            _path(parameters, split),
            Path(labels) if labels else None,
            parameters["format"],
            parameters["label_offset"],
            parameters["feature_offset"],
        )
        progress(f"reading {reading.path} ({reading.format})")
        for block in reading.blocks():
            out.append(split, block)
        widths[split] = (reading.n_features, reading.n_labels)
        out.shape(*widths[split])
        out.note(f"{split}: {reading.format}" + ("" if reading.n_points else ", no header: widths from the ids"))
        _declared(parameters, reading)
    if widths["train"] != widths["test"]:
        out.note(
            "train and test disagree on (features, labels): "
            f"{widths['train']} and {widths['test']}; the larger of each was taken"
        )
    for split in SPLITS:
        if parameters[f"{split}_filter"]:
            path = Path(parameters[f"{split}_filter"])
            out.filter(split, formats.read_filter(path, out.points(split), out.n_labels))
    if parameters["label_names"]:
        names = text_lines(Path(parameters["label_names"]))
        if len(names) != out.n_labels:
            raise DataError(parameters["label_names"], None, f"{len(names)} lines", f"{out.n_labels} label names")
        out.label_names(names)


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's content. Raises InputError when there is no such file.

    Kept in the cache folder for as long as size and time stamp stay the same: hashing tens of gigabytes
    at every load would take longer than loading.
    """
    if not path.is_file():
        raise InputError(f"data file {path} does not exist")
    state = path.stat()
    stamp = f"{state.st_size} {state.st_mtime_ns}"
    memo = cache_root() / "hashes" / hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    try:
        noted, _, digest = memo.read_text().partition("\n")
        if noted == stamp and len(digest) == 64:
            return digest
    except (OSError, UnicodeDecodeError):
        pass
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time_ns() - state.st_mtime_ns > 2_000_000_000:  # a file just written may change within its time stamp
        memo.parent.mkdir(parents=True, exist_ok=True)
        temporary = memo.with_name(f"{memo.name}.{os.getpid()}")
        temporary.write_text(f"{stamp}\n{digest}")
        temporary.rename(memo)
    return digest


def _declared(parameters: Mapping[str, Any], reading: formats.Reading) -> None:
    for key, found in (("n_features", reading.n_features), ("n_labels", reading.n_labels)):
        if (declared := parameters[key]) is not None and found > declared:
            raise DataError(reading.path, None, f"{found} {key[2:]}", f"at most {declared}, as the card declares")


def _path(parameters: Mapping[str, Any], split: str) -> Path:
    if not parameters.get(split):
        raise InputError(f"data source 'files' needs the parameter {split!r}: the path of the {split} file")
    return Path(parameters[split]).expanduser()
