"""napkinXC inside its environment, started by ``child.py``; the library is imported inside the functions."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHUNK = 8192  # points whose rankings are held as Python objects at a time


def model_of(folder: Path, job: dict[str, Any]) -> Any:
    """The library's model object, which lives in ``folder/model``."""
    from napkinxc.models import PLT

    return PLT(str(folder / "model"), seed=job["seed"], threads=job["threads"], verbose=0, **job["settings"])


def fit(folder: Path, job: dict[str, Any], clock: Any) -> None:
    """Train on ``train_X.npz`` and ``train_Y.npz``. The library writes its model while it fits."""
    import scipy.sparse as sp

    X, Y = sp.load_npz(folder / "train_X.npz"), sp.load_npz(folder / "train_Y.npz")
    model = model_of(folder, job)
    with clock:
        model.fit(X, Y)


def predict(folder: Path, job: dict[str, Any], clock: Any) -> Iterator[tuple[list[int], list[int], list[float]]]:
    """Rankings of ``test_X.npz`` by probability."""
    import scipy.sparse as sp

    X = sp.csr_matrix(sp.load_npz(folder / "test_X.npz"))
    model = model_of(folder, job)
    model.load()
    for low in range(0, X.shape[0], CHUNK):
        points = X[low : low + CHUNK]
        with clock:
            found = model.predict_proba(points, top_k=job["k"])
        pairs = [pair for point in found for pair in point]
        yield [len(point) for point in found], [label for label, _ in pairs], [score for _, score in pairs]


def parameters(folder: Path) -> int | None:
    """Non-zero weights of all nodes; None when a weights file is not laid out as version 0.7.2 writes it.

    After the number of nodes (int32), each node has its number of classes, its first class and its loss (int32 each).
    A node with more than one class goes on: the vector's size and non-zeros (uint64 each, twice), whether it is sparse
    (a byte), its values (float32, with an int32 index each if sparse), and a byte that is 0 in a finished model.
    """
    total = 0
    for path in sorted((folder / "model").rglob("*weights.bin")):
        with path.open("rb") as file:
            try:
                for _ in range(*struct.unpack("<i", file.read(4))):
                    classes, _, _ = struct.unpack("<iii", file.read(12))
                    if classes > 1:
                        size, filled, *again, is_sparse = struct.unpack("<QQQQ?", file.read(33))
                        file.seek(filled * 8 if is_sparse else size * 4, 1)
                        if again != [size, filled] or file.read(1) != b"\0":
                            return None
                        total += filled
            except struct.error:  # the file ends too early
                return None
            if file.read(1):
                return None
    return total
