"""Reading a dataset's text: the compiled parser beside scikit-learn's svmlight reader, for `machbench speed parse`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from bench.common.errors import InputError
from bench.data import load_dataset
from bench.data.formats.detect import read_matrices
from bench.data.formats.export import write_xmlrepo

SCALE = 0.05
Arrays = list[np.ndarray]


def parse() -> dict[str, Callable[[], Arrays]]:
    """Readers of points in the style of Amazon-670K, from one text file into CSR arrays; the reference first.

    Raises InputError when scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_svmlight_file
    except ImportError:
        raise InputError("`speed parse` compares with scikit-learn; run `pip install scikit-learn`") from None
    data = load_dataset("amazon670k-style", scale=SCALE)
    folder = tempfile.TemporaryDirectory()  # lives as long as the functions that read from it
    ours, theirs = Path(folder.name) / "points.txt", Path(folder.name) / "points.svm"
    write_xmlrepo(ours, data.train.X, data.train.Y)
    theirs.write_bytes(ours.read_bytes().split(b"\n", 1)[1])  # scikit-learn knows no header

    def sklearn() -> Arrays:
        X, Y = load_svmlight_file(
            f"{folder.name}/{theirs.name}",
            n_features=data.train.X.shape[1],
            dtype=np.float32,
            multilabel=True,
            zero_based=True,
        )
        labels = np.array([label for labels in Y for label in labels], dtype=np.int64)
        return [X.indptr, X.indices, X.data, labels]

    def own(threads: int, fast: bool) -> Arrays:
        matrices: tuple[csr_matrix, csr_matrix] = read_matrices(ours, threads=threads, fast=fast)
        X, Y = matrices
        return [X.indptr, X.indices, X.data, Y.indices]

    return {
        "sklearn load_svmlight_file": sklearn,
        "reference, plain Python": lambda: own(1, fast=False),
        "compiled, 1 thread": lambda: own(1, fast=True),
        "compiled, 2 threads": lambda: own(2, fast=True),
    }
