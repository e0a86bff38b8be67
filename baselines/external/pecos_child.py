"""PECOS inside its environment, started by ``child.py``; the library is imported inside the functions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def fit(folder: Path, job: dict[str, Any], clock: Any) -> None:
    """Cluster the labels of ``train_X.npz`` and ``train_Y.npz`` by their points' features, then train the rankers."""
    import scipy.sparse as sp
    from pecos.xmc import Indexer, LabelEmbeddingFactory
    from pecos.xmc.xlinear.model import XLinearModel

    settings, threads = job["settings"], job["threads"]
    X, Y = sp.load_npz(folder / "train_X.npz"), sp.load_npz(folder / "train_Y.npz")
    with clock:
        chain = Indexer.gen(
            LabelEmbeddingFactory.create(Y, X, method="pifa"),
            indexer_type="hierarchicalkmeans",
            nr_splits=settings["nr_splits"],
            max_leaf_size=settings["max_leaf_size"],
            seed=job["seed"],
            threads=threads,
        )
        model = XLinearModel.train(
            X,
            Y,
            C=chain,
            Cp=settings["cost"],
            Cn=settings["cost"],
            negative_sampling_scheme=settings["negative_sampling"],
            threshold=settings["threshold"],
            threads=threads,
        )
    model.save(str(folder / "model"))
    weights = sum(int(np.count_nonzero(layer.W.data)) for layer in model.model.model_chain)
    (folder / "parameters.json").write_text(json.dumps(weights))


def predict(folder: Path, job: dict[str, Any], clock: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Rankings of ``test_X.npz`` by beam search."""
    import scipy.sparse as sp
    from pecos.xmc.xlinear.model import XLinearModel

    X = sp.load_npz(folder / "test_X.npz")
    model = XLinearModel.load(str(folder / "model"), is_predict_only=True)
    with clock:
        found = model.predict(X, only_topk=job["k"], beam_size=job["settings"]["beam_size"], threads=job["threads"])
    yield np.diff(found.indptr), found.indices, found.data


def parameters(folder: Path) -> int:
    """Non-zero weights of all layers, as counted after training."""
    return int(json.loads((folder / "parameters.json").read_text()))
