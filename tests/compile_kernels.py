"""Compile what most tests use: `python tests/compile_kernels.py training`, or `decoding`.

On a fresh clone this takes a minute each. Processes of tests that start together would each do all of it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np


def training() -> None:
    """Each network of the small experiment, and the ranking of MACH below 65,536 buckets."""
    from bench.config.experiment import unfold
    from bench.results.run_folder import RunFolder
    from bench.run.execute import execute

    methods = {"full_softmax": {}, "one_vs_all": {}, "sampled_softmax": {"n_samples": 64}, "mach": {"B": 32, "R": 4}}
    config = {"dataset": "tiny", "train": {"hidden": 16, "epochs": 1, "device": "cpu"}, "methods": methods}
    with tempfile.TemporaryDirectory() as folder:
        for spec in unfold(config, "kernels"):
            run = RunFolder.create(Path(folder) / "results" / "kernels" / "runs", spec.method, spec)
            execute(spec, run, lambda _: None)


def decoding() -> None:
    """The ranking of MACH with more buckets than 16 bits can number."""
    from mach.decode.decoder import top_k
    from mach.hashing.families import hash_labels

    n_buckets = 70_000
    scores = np.random.default_rng(0).normal(size=(37, 9, n_buckets)).astype(np.float32)
    lookup = hash_labels(7000, n_buckets, 9, seed=1)
    for method in ("dense", "pruned"):
        top_k(scores, lookup, 5, method=method)


if __name__ == "__main__":
    {"training": training, "decoding": decoding}[sys.argv[1]]()
