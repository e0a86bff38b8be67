from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from bench.speed import compare
from mach.hashing.families import hash_labels
from mach.speed import decode, trained_scores


def test_decoders_agree_on_synthetic_scores() -> None:
    """Every decoder is compared with the official algorithm before it is timed; unequal labels would raise."""
    lookup = hash_labels(5000, 300, 8)
    rows = compare("decode", decode.variants(decode.peaked(lookup, 300, 9), lookup), repeats=1)
    names = ["official algorithm, plain numba", "torch embedding_bag", "dense", "pruned", "auto"]
    assert [row["variant"] for row in rows] == names


def test_the_trained_model_has_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far above chance on points that it has not seen, and the same again from the same seed."""
    monkeypatch.setattr(trained_scores, "EPOCHS", 4)
    scores, lookup, hits = trained_scores.trained_scores(500, 64, 4, n_train=3000, n_test=100)
    assert scores.shape == (100, 4, 64)
    assert lookup.shape == (4, 500)
    assert hits > 0.5
    again, _, _ = trained_scores.trained_scores(500, 64, 4, n_train=3000, n_test=100)
    np.testing.assert_allclose(again, scores, rtol=1e-3, atol=1e-3)


def test_a_size_is_measured_in_its_own_process() -> None:
    command = [sys.executable, "-m", "mach.speed.decode_scale", "3000", "50", "4"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert found["median_s"] > 0
    assert found["peak_host_bytes"] > 10_000_000
