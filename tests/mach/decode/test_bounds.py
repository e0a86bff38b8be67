"""Compiled code reads no array beyond its end: the pruned search again, compiled with checks of every index."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import numpy as np
from mach.decode.decoder import Decoder
from mach.hashing.families import hash_labels

R, B, K = 6, 64, 900
decoder = Decoder(hash_labels(K, B, R, seed=1), B)
scores = (np.random.default_rng(0).normal(size=(40, R, B)) * 6).astype(np.float32)
for prefix in (1, 2, 3, 6):
    found = decoder.top_k_prefixes(scores, 5, [prefix], method="pruned")
    right = decoder.top_k_prefixes(scores, 5, [prefix], method="reference")
    assert all(np.array_equal(a, b) for a, b in zip(found, right)), prefix
"""


@pytest.mark.slow
@pytest.mark.soak
def test_the_pruned_search_of_fewer_repetitions_than_the_table_has(tmp_path: Path) -> None:
    env = os.environ | {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
