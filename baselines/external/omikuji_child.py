"""omikuji inside its environment, started by ``child.py``.

The library is imported inside the functions, because the harness imports this file for its path and so that the hash
of a run's code covers it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

CHUNK = 4096  # points held as Python objects at a time


def fit(folder: Path, job: dict[str, Any], clock: Any) -> None:
    """Train on ``train.txt``. The library has no other input, so the time of fitting includes reading that text."""
    import omikuji

    chosen = omikuji.Model.default_hyper_param()
    for name, value in job["settings"]["hyper_parameters"].items():
        setattr(chosen, name, value)
    with clock:
        model = omikuji.Model.train_on_data(str(folder / "train.txt"), chosen, n_threads=job["threads"])
    model.save(str(folder / "model"))


def predict(folder: Path, job: dict[str, Any], clock: Any) -> Iterator[tuple[list[int], list[int], list[float]]]:
    """Rankings of ``test.npz``; the library takes one point per call, and its threads share the work of a point."""
    import omikuji

    settings = job["settings"]
    model = omikuji.Model.load(str(folder / "model"))
    model.init_prediction_thread_pool(job["threads"])
    model.densify_weights(settings["max_sparse_density"])
    with np.load(folder / "test.npz", allow_pickle=False) as kept:
        indptr, indices, data = kept["indptr"], kept["indices"], kept["data"]
    for low in range(0, len(indptr) - 1, CHUNK):
        bounds = indptr[low : low + CHUNK + 1].tolist()
        points = [
            list(zip(indices[start:stop].tolist(), data[start:stop].tolist(), strict=True))
            for start, stop in itertools.pairwise(bounds)
        ]
        with clock:
            found = [model.predict(point, beam_size=settings["beam_size"], top_k=job["k"]) for point in points]
        pairs = [pair for point in found for pair in point]
        yield [len(point) for point in found], [label for label, _ in pairs], [score for _, score in pairs]


def parameters(folder: Path) -> int:
    """Non-zero weights of all trees' classifiers; one node at a time is in memory."""
    import cbor2

    total = 0

    def count(_: Any, node: dict[str, Any]) -> None:
        nonlocal total
        if "data" in node:
            total += len(node["data"]) - node["data"].count(0.0)

    for path in sorted((folder / "model").glob("tree*.cbor")):
        with path.open("rb") as tree:
            cbor2.load(tree, object_hook=count)  # called for every complete mapping, which it replaces by None
    return total
