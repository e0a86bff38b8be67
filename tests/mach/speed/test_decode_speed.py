from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from bench.speed import Measurement, compare
from mach.hashing.families import hash_labels
from mach.speed import decode, decode_filtered, trained_scores


def test_decoders_agree_on_synthetic_scores() -> None:
    """Every decoder is compared with the official algorithm before it is timed; unequal labels would raise."""
    lookup = hash_labels(5000, 300, 8)
    rows = compare("decode", decode.variants(decode.peaked(lookup, 300, 9), lookup), repeats=1)
    names = ["official algorithm, plain numba", "torch embedding_bag", "dense", "pruned", "auto"]
    assert [row["variant"] for row in rows] == names


def test_pairs_are_left_out_of_both_forms_of_the_measurement() -> None:
    """Unequal labels would raise; the time without pairs stands beside."""
    pairs, raised = decode_filtered.drawn_pairs(9, 5000)
    assert (np.diff(pairs.indptr) > 0).all()
    lookup = hash_labels(5000, 300, 8)
    variants, beside = decode_filtered.variants(decode_filtered.peaked(lookup, 300, raised), lookup, pairs, "dense")
    rows = compare("decode_filtered", Measurement(variants, beside=beside), repeats=1)
    assert [row["variant"] for row in rows] == ["filtered", "longer, then dropped", "unfiltered"]
    _, labels = variants["filtered"]()
    assert pairs[np.repeat(np.arange(9), labels.shape[1]), labels.ravel()].sum() == 0
    assert not np.array_equal(labels, beside["unfiltered"]()[1])


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
