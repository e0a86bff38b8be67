"""Reading a dataset's text: the compiled parser beside scikit-learn's svmlight reader on the same points."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from bench.data.dataset import load_dataset
from bench.data.export import write_xmlrepo
from bench.data.formats import read_matrices
from bench.errors import InputError

WHAT = "parse"


def measure_parse(scale: float = 0.05, repeats: int = 3) -> list[dict[str, Any]]:
    """Median seconds to read points in the style of Amazon-670K from text into CSR, and the ratio to
    sklearn's.

    Rows: ``what``, ``variant``, ``median_s``, ``ratio`` (how many times faster than scikit-learn),
    ``megabytes``. Values are compared first: a wrong fast parser is an error, not a row. Variants take
    turns, so that a busy machine is busy for all. Raises InputError when scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_svmlight_file
    except ImportError:
        raise InputError("`speed parse` compares with scikit-learn; run `pip install scikit-learn`") from None
    data = load_dataset("amazon670k-style", scale=scale)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "points.txt", Path(folder) / "points.svm"
        write_xmlrepo(ours, data.train.X, data.train.Y)
        theirs.write_bytes(ours.read_bytes().split(b"\n", 1)[1])  # sklearn knows no header

        def sklearn() -> tuple[csr_matrix, Any]:
            X, Y = load_svmlight_file(
                str(theirs),
                n_features=data.train.X.shape[1],
                dtype=np.float32,
                multilabel=True,
                zero_based=True,
            )
            return X, Y

        _must_equal(read_matrices(ours, threads=2, fast=True), sklearn())
        variants: dict[str, Callable[[], Any]] = {
            "sklearn load_svmlight_file": sklearn,
            "reference, plain Python": lambda: read_matrices(ours, threads=1, fast=False),
            "compiled, 1 thread": lambda: read_matrices(ours, threads=1, fast=True),
            "compiled, 2 threads": lambda: read_matrices(ours, threads=2, fast=True),
        }
        seconds: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(repeats):
            for name, read in variants.items():
                start = time.perf_counter()
                read()
                seconds[name].append(time.perf_counter() - start)
        megabytes = ours.stat().st_size / 1e6
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    reference = medians["sklearn load_svmlight_file"]
    return [
        {
            "what": WHAT,
            "variant": name,
            "median_s": median,
            "ratio": reference / median,
            "megabytes": megabytes,
        }
        for name, median in medians.items()
    ]


def _must_equal(ours: tuple[csr_matrix, csr_matrix], theirs: tuple[csr_matrix, Any]) -> None:
    (X, Y), (their_X, their_labels) = ours, theirs
    their_Y = [label for labels in their_labels for label in labels]
    if not (
        np.array_equal(X.indptr, their_X.indptr)
        and np.array_equal(X.indices, their_X.indices)
        and np.array_equal(X.data, their_X.data)
        and np.array_equal(Y.indices, np.array(their_Y, dtype=np.int64))
    ):
        raise AssertionError("the compiled parser and scikit-learn disagree on the same file")
