"""Memory-mapped cache of parsed datasets: raw little-endian arrays, described by a ``meta.json``.

A cache folder is complete or absent: it is written under a temporary name, synced and renamed. When it is loaded, the
size of every array is compared with the meta file: an incomplete folder, or one of another layout, is built again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from bench.common.files import sync
from bench.common.locks import hold
from bench.data.formats.csr_blocks import Block

LAYOUT = 2  # raise when the files of a cache folder change meaning
SPLITS = ("train", "test")
Describe = Callable[[Mapping[str, csr_matrix]], dict[str, Any]]
_PARTS = {"X_indices": "<i4", "X_data": "<f4", "Y_indices": "<i4"}


class CacheWriter:
    """Writes blocks of points one after the other; needs memory for one block, whatever the size of the dataset."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.n_features = self.n_labels = 0
        self.notes: list[str] = []
        self._files: dict[str, IO[bytes]] = {}
        self._lengths: dict[str, list[np.ndarray]] = {f"{s}_{m}": [] for s in SPLITS for m in "XY"}
        for split in SPLITS:
            for part in _PARTS:
                self._files[f"{split}_{part}"] = (folder / f"{split}_{part}.bin").open("wb")

    def shape(self, n_features: int, n_labels: int) -> None:
        """Declare the numbers of features and labels; of several declarations (train and test) the largest count."""
        self.n_features, self.n_labels = max(self.n_features, n_features), max(self.n_labels, n_labels)

    def append(self, split: str, block: Block) -> None:
        """Add points to ``split`` ("train" or "test") in order."""
        block = block.canonical()
        for part, array in (
            ("X_indices", block.x_indices),
            ("X_data", block.x_values),
            ("Y_indices", block.y_indices),
        ):
            self._files[f"{split}_{part}"].write(np.ascontiguousarray(array, dtype=_PARTS[part]).data)
        self._lengths[f"{split}_X"].append(np.asarray(block.x_lengths, dtype=np.int64))
        self._lengths[f"{split}_Y"].append(np.asarray(block.y_lengths, dtype=np.int64))

    def label_names(self, names: list[str]) -> None:
        """Keep the names of the labels, line i for label i."""
        (self.folder / "labels.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")

    def points(self, split: str) -> int:
        """Points written so far."""
        return sum(len(lengths) for lengths in self._lengths[f"{split}_X"])

    def filter(self, split: str, pairs: NDArray[np.int64]) -> None:
        """Keep (point, label) pairs [n, 2] that evaluation must ignore (reciprocal pairs of LF datasets)."""
        np.save(self.folder / f"{split}_filter.npy", pairs, allow_pickle=False)

    def note(self, text: str) -> None:
        """Keep a remark on how the data were read (shown by `data show`)."""
        if text not in self.notes:
            self.notes.append(text)

    def finish(self, meta: Mapping[str, Any], describe: Describe) -> None:
        """Write index pointers and ``meta.json``, and sync everything to disk."""
        self.close()
        arrays: dict[str, dict[str, Any]] = {}
        for split in SPLITS:
            for matrix in "XY":
                lengths = self._lengths[f"{split}_{matrix}"]
                counts = np.concatenate(lengths) if lengths else np.zeros(0, dtype=np.int64)
                indptr = np.zeros(len(counts) + 1, dtype=np.int64)
                np.cumsum(counts, out=indptr[1:])
                # scipy needs one integer type for both index arrays
                wide = int(indptr[-1]) > np.iinfo(np.int32).max
                kind = "<i8" if wide else "<i4"
                indptr.astype(kind).tofile(self.folder / f"{split}_{matrix}_indptr.bin")
                if wide:
                    _widen(self.folder / f"{split}_{matrix}_indices.bin")
                if matrix == "Y":
                    _write_ones(self.folder / f"{split}_Y_data.bin", int(indptr[-1]))
                for part, dtype in (("indptr", kind), ("indices", kind), ("data", "<f4")):
                    path = self.folder / f"{split}_{matrix}_{part}.bin"
                    arrays[path.stem] = {"dtype": dtype, "nbytes": path.stat().st_size}
        full = {
            "layout": LAYOUT,
            "n_features": self.n_features,
            "n_labels": self.n_labels,
            "arrays": arrays,
            "notes": self.notes,
            **meta,
        }
        matrices = open_matrices(self.folder, full)
        full |= {"fingerprint": _fingerprint(matrices), **describe(matrices)}
        (self.folder / "meta.json").write_text(json.dumps(full, indent=1, sort_keys=True), encoding="utf-8")
        for path in self.folder.iterdir():
            sync(path)

    def close(self) -> None:
        """Close the array files (also after an error)."""
        for file in self._files.values():
            file.close()


def build_once(
    folder: Path,
    key: Mapping[str, Any],
    write: Callable[[CacheWriter], Mapping[str, Any]],
    describe: Describe,
) -> Path:
    """Return ``folder``, built by ``write`` (which returns further content of the meta file) unless a complete cache
    with the same ``key`` is already there.

    One process builds, others wait for a lock beside the folder. No incomplete folder stays after an error.
    """
    if read_meta(folder, key) is not None:
        return folder
    with hold(folder.with_name(folder.name + ".lock"), wait=True):
        if read_meta(folder, key) is not None:
            return folder
        _sweep(folder)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".building", dir=folder.parent))
        try:
            writer = CacheWriter(temporary)
            try:
                extra = write(writer)
                writer.finish({"key": dict(key), **extra}, describe)
            finally:
                writer.close()
            if folder.exists():  # incomplete or of another layout: see read_meta above
                shutil.rmtree(folder)
            temporary.rename(folder)
            sync(folder.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return folder


def read_meta(folder: Path, key: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """The meta file of a complete cache; None when it is absent, incomplete, or of another layout or key."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if meta["layout"] != LAYOUT or (key is not None and meta["key"] != json.loads(json.dumps(dict(key)))):
            return None
        for name, array in meta["arrays"].items():
            if (folder / f"{name}.bin").stat().st_size != array["nbytes"]:
                return None
        if not {f"{s}_{m}_{p}" for s in SPLITS for m in "XY" for p in ("indptr", "indices", "data")} <= set(
            meta["arrays"]
        ):
            return None
        return meta if isinstance(meta["fingerprint"], str) and isinstance(meta["stats"], dict) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def open_matrices(folder: Path, meta: Mapping[str, Any]) -> dict[str, csr_matrix]:
    """``train_X train_Y test_X test_Y`` as CSR over read-only memory maps (float32 data, int32 indices if
    they are large enough)."""
    out = {}
    for split in SPLITS:
        for matrix, columns in (("X", meta["n_features"]), ("Y", meta["n_labels"])):
            parts = {}
            for part in ("data", "indices", "indptr"):
                spec = meta["arrays"][f"{split}_{matrix}_{part}"]
                path = folder / f"{split}_{matrix}_{part}.bin"
                empty = spec["nbytes"] == 0  # an empty file cannot be mapped
                parts[part] = np.zeros(0, spec["dtype"]) if empty else np.memmap(path, dtype=spec["dtype"], mode="r")
            shape = (len(parts["indptr"]) - 1, columns)
            csr = csr_matrix((parts["data"], parts["indices"], parts["indptr"]), shape=shape, copy=False)
            csr.has_sorted_indices = csr.has_canonical_format = True  # the writer ensures it; saves scipy a pass
            out[f"{split}_{matrix}"] = csr
    return out


def _fingerprint(matrices: Mapping[str, csr_matrix]) -> str:
    """sha256 over shapes, row lengths, ids and values of the four matrices; independent of the integer width."""
    digest = hashlib.sha256()
    for name in ("train_X", "train_Y", "test_X", "test_Y"):
        csr = matrices[name]
        digest.update(f"{name} {csr.shape[0]} {csr.shape[1]} {csr.nnz};".encode())
        for array, kind in ((csr.indptr, "<i8"), (csr.indices, "<i8"), (csr.data, "<f4")):
            for start in range(0, len(array), 1 << 20):
                digest.update(np.ascontiguousarray(array[start : start + (1 << 20)], dtype=kind).data)
    return digest.hexdigest()


def _widen(path: Path) -> None:
    wide = path.with_suffix(".wide")
    with path.open("rb") as source, wide.open("wb") as target:
        while chunk := source.read(1 << 24):
            np.frombuffer(chunk, dtype="<i4").astype("<i8").tofile(target)
    wide.rename(path)


def _write_ones(path: Path, count: int) -> None:
    ones = np.ones(min(count, 1 << 20), dtype="<f4")
    with path.open("wb") as file:
        for start in range(0, count, 1 << 20):
            file.write(ones[: count - start].data)


def _sweep(folder: Path) -> None:
    """Remove what killed processes left of this folder; the caller holds its lock, so none of them is alive."""
    for leftover in folder.parent.glob(f".{folder.name}.*.building"):
        shutil.rmtree(leftover, ignore_errors=True)
