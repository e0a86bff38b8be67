"""Source `files`: train and test files on disk in any known format, or one file of all points and a file of splits."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.common.errors import DataError, InputError
from bench.common.files import sha256_of_file, write_atomic
from bench.common.paths import cache_root
from bench.data.cache import SPLITS, CacheWriter
from bench.data.formats import detect
from bench.data.formats.splits import divide, train_mask
from bench.data.formats.streams import text_lines
from bench.data.formats.widths import limit
from bench.data.sources import Progress

MAX_POINTS_PER_BYTE = 2000  # blank lines, compressed: memory for splits is taken before points are read
VERSION = detect.PARSER_VERSION
DEFAULTS: Mapping[str, Any] = {
    "train": None,
    "test": None,
    "train_labels": None,  # second file of a pair when it is not found by its name
    "test_labels": None,
    "all": None,  # instead of train and test: all points in one file, and which of them are train
    "splits": None,
    "split": None,  # which of the splits; the first when nothing is said
    "train_filter": None,
    "test_filter": None,
    "label_names": None,  # text file, name of label i on line i
    "format": "auto",
    "label_offset": 0,
    "feature_offset": 0,
    "n_features": None,  # declared widths, for formats without a header
    "n_labels": None,
}
FILES = (
    "train", "test", "train_labels", "test_labels", "all", "splits", "train_filter", "test_filter", "label_names",
)  # fmt: skip


def complete(parameters: Mapping[str, Any]) -> bool:
    """Whether all points are given: a train and a test file, or one file of all points with its splits."""
    return all(parameters.get(key) for key in ("train", "test")) or all(
        parameters.get(key) for key in ("all", "splits")
    )


def checked(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with a definite split. Raises InputError when the files do not belong together."""
    whole = [key for key in ("all", "splits") if parameters.get(key)]
    parts = [key for key in ("train", "test", "train_labels", "test_labels") if parameters.get(key)]
    if whole and parts:
        raise InputError(f"files {', '.join(whole + parts)}: expected train and test, or all and splits, not both")
    if len(whole) == 1:
        raise InputError(f"file {whole[0]!r} by itself; expected all (every point) and splits (which are train)")
    split = parameters.get("split")
    if not whole and split is not None:
        raise InputError(f"split: found {split!r}; expected none, since the data are a train and a test file")
    if whole and any(parameters.get(f"{name}_filter") for name in SPLITS):
        raise InputError("filter files name points of one train and test file; expected none beside all and splits")
    if split is not None and (isinstance(split, bool) or not isinstance(split, int) or split < 0):
        raise InputError(f"split: found {split!r}; expected a whole number, 0 for the first")
    return {**parameters, "split": (split or 0) if whole else None}


def identity(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """Content hashes of the files: a changed file is another dataset, a moved one is not."""
    found: dict[str, Any] = dict.fromkeys(FILES)
    for which in ("all",) if parameters.get("all") else SPLITS:
        path = _path(parameters, which)
        found[which] = file_sha256(path)
        labels = parameters.get(f"{which}_labels") or detect.labels_beside(path)
        if labels and Path(labels).is_file():
            found[f"{which}_labels"] = file_sha256(Path(labels))
    for key in ("splits", "train_filter", "test_filter", "label_names"):
        if parameters.get(key):
            found[key] = file_sha256(Path(parameters[key]))
    return found


def build(parameters: Mapping[str, Any], out: CacheWriter, progress: Progress) -> None:
    """Parse the files; when train and test differ in a width, the larger counts and a note says so."""
    out.shape(parameters["n_features"] or 0, parameters["n_labels"] or 0)
    if parameters["all"]:
        _build_split(parameters, out, progress)
    else:
        _build_pair(parameters, out, progress)
    for split in SPLITS:
        if parameters[f"{split}_filter"]:
            path = Path(parameters[f"{split}_filter"])
            out.filter(split, detect.read_filter(path, out.points(split), out.n_labels))
    if parameters["label_names"]:
        names = text_lines(Path(parameters["label_names"]))
        while len(names) > out.n_labels and not names[-1].strip():  # blank lines after the last name
            names.pop()
        if len(names) != out.n_labels:
            raise DataError(parameters["label_names"], None, f"{len(names)} lines", f"{out.n_labels} label names")
        out.label_names(names)


def _build_pair(parameters: Mapping[str, Any], out: CacheWriter, progress: Progress) -> None:
    widths = {}
    for split in SPLITS:
        reading = _reading(parameters, split, progress)
        reading.believed = (out.n_features, out.n_labels)  # what the card declares, then what train has
        for block in reading.blocks():
            out.append(split, block)
        _warn(reading, out, progress)
        widths[split] = (reading.n_features, reading.n_labels)
        out.shape(*widths[split])
        headerless = reading.n_points is None
        out.note(f"{split}: {reading.format}" + (", no header: widths from the ids" if headerless else ""))
        _declared(parameters, reading)
    if widths["train"] != widths["test"]:
        out.note(
            "train and test disagree on (features, labels): "
            f"{widths['train']} and {widths['test']}; the larger of each is used"
        )


def _build_split(parameters: Mapping[str, Any], out: CacheWriter, progress: Progress) -> None:
    reading = _reading(parameters, "all", progress)
    if reading.n_points is None:
        raise DataError(reading.path, 1, f"{reading.format} text, which has no header", "a file that counts its points")
    size = reading.path.stat().st_size
    if reading.n_points > max(limit("point", 0), MAX_POINTS_PER_BYTE * size):
        found = f"a header of {reading.n_points} points in a file of {size} bytes"
        raise DataError(reading.path, 1, found, "the number of points in the file")
    train = train_mask(_path(parameters, "splits"), parameters["split"], reading.n_points)
    at = 0
    for block in reading.blocks():
        here = train[at : at + len(block.x_lengths)]
        for split, part in divide(block, here):
            out.append(split, part)
        at += len(here)
    _warn(reading, out, progress)
    out.shape(reading.n_features, reading.n_labels)
    out.note(f"all points: {reading.format}; split {parameters['split']}, counted from 0")
    _declared(parameters, reading)


def _warn(reading: detect.Reading, out: CacheWriter, progress: Progress) -> None:
    for remark in reading.wide():
        out.note(remark)
        progress(f"warning: {remark}")


def _reading(parameters: Mapping[str, Any], which: str, progress: Progress) -> detect.Reading:
    labels = parameters.get(f"{which}_labels")
    reading = detect.open_data(
        _path(parameters, which),
        Path(labels) if labels else None,
        parameters["format"],
        parameters["label_offset"],
        parameters["feature_offset"],
    )
    progress(f"reading {reading.path} ({reading.format})")
    return reading


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
    digest = sha256_of_file(path)
    if time.time_ns() - state.st_mtime_ns > 2_000_000_000:  # a file just written may change within its time stamp
        write_atomic(memo, f"{stamp}\n{digest}")
    return digest


def _declared(parameters: Mapping[str, Any], reading: detect.Reading) -> None:
    for key, found in (("n_features", reading.n_features), ("n_labels", reading.n_labels)):
        if (declared := parameters[key]) is not None and found > declared:
            raise DataError(reading.path, None, f"{found} {key[2:]}", f"at most {declared}, as the card declares")


def _path(parameters: Mapping[str, Any], which: str) -> Path:
    if not parameters.get(which):
        raise InputError(f"data source 'files' needs the parameter {which!r}: the path of the {which} file")
    return Path(parameters[which]).expanduser()
