from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from scipy.sparse import csr_matrix, vstack
from typer.testing import CliRunner

from bench.data import load_dataset
from bench.data.cli import app
from bench.data.passport import GROUPS, group_of_labels, passport, passport_lines, row_hashes, statistics


def _matrices(train_Y: csr_matrix, test_Y: csr_matrix) -> dict[str, csr_matrix]:
    generator = np.random.default_rng(0)
    train_X = csr_matrix(generator.random((train_Y.shape[0], 5)).astype(np.float32))
    test_X = csr_matrix(generator.random((test_Y.shape[0], 5)).astype(np.float32))
    return {"train_X": train_X, "train_Y": train_Y, "test_X": test_X, "test_Y": test_Y}


def _labels(ids: np.ndarray, n_labels: int) -> csr_matrix:
    return csr_matrix((np.ones(len(ids), np.float32), ids, np.arange(len(ids) + 1)), shape=(len(ids), n_labels))


def test_groups_and_order() -> None:
    ids = np.repeat([0, 1, 2, 3], [101, 100, 5, 6])
    found = passport(_matrices(_labels(ids, 6), _labels(np.array([0, 0, 2, 5]), 6)))
    labels = {group: entry["labels"] for group, entry in found["groups"].items()}
    assert labels == {"unseen": 2, "tail": 1, "torso": 2, "head": 1}
    assert found["groups"]["head"]["share_of_test_pairs"] == 0.5
    assert found["groups"]["unseen"]["share_of_test_pairs"] == 0.25
    assert found["order"]["train"]["looks_sorted"]
    assert found["order"]["test"]["looks_sorted"] is False  # too small to decide
    shuffled = np.random.default_rng(1).permutation(ids)
    assert not passport(_matrices(_labels(shuffled, 6), _labels(ids, 6)))["order"]["train"]["looks_sorted"]


def test_labels_that_only_a_header_states_cost_nothing() -> None:
    """As many labels as ids can have: counted from those that occur, with the values of a narrow matrix."""
    generator = np.random.default_rng(2)
    train, test = generator.zipf(1.5, 300) % 90, generator.integers(0, 95, 200)
    narrow = _matrices(_labels(train, 100), _labels(test, 100))
    wide = _matrices(_labels(train, 2**31 - 1), _labels(test, 2**31 - 1))
    counts = np.bincount(train, minlength=100)
    for matrices in (narrow, wide):
        found, n_labels = statistics(matrices), matrices["train_Y"].shape[1]
        assert found["labels_without_train_point"] == n_labels - (counts > 0).sum()
        assert found["share_labels_at_most_5_points"] == (n_labels - (counts > 5).sum()) / n_labels
        assert found["most_frequent_label_points"] == counts.max()
        groups = passport(matrices)["groups"]
        of_label = group_of_labels(counts)
        for at, (name, _) in enumerate(GROUPS):
            unseen_too = n_labels - 100 if name == "unseen" else 0
            assert groups[name]["labels"] == (of_label == at).sum() + unseen_too
            assert groups[name]["share_of_test_pairs"] == (of_label[test] == at).mean()


def test_duplicates() -> None:
    matrices = _matrices(_labels(np.arange(30) % 7, 7), _labels(np.arange(10) % 7, 7))
    matrices["test_X"] = vstack([matrices["train_X"][[3, 4]], matrices["test_X"][2:]]).tocsr()
    matrices["test_Y"] = vstack([matrices["train_Y"][[3, 9]], matrices["test_Y"][2:]]).tocsr()
    matrices["train_X"] = vstack([matrices["train_X"][:29], matrices["train_X"][[1]]]).tocsr()
    matrices["train_Y"] = vstack([matrices["train_Y"][:29], matrices["train_Y"][[1]]]).tocsr()
    assert passport(matrices)["duplicates"] == {
        "test_points_with_features_of_a_train_point": 2,
        "test_points_equal_to_a_train_point": 1,
        "train_points_equal_to_an_earlier_one": 1,
    }


def test_row_hashes_do_not_depend_on_the_chunk() -> None:
    X = load_dataset("tiny").train.X
    np.testing.assert_array_equal(row_hashes(X), row_hashes(X, 7))
    assert len(np.unique(row_hashes(X))) == pytest.approx(X.shape[0], abs=5)


def test_plain_types_and_words() -> None:
    data = load_dataset("tiny")
    for kept in (data.passport, data.stats):
        assert json.loads(json.dumps(kept)) == kept
    fresh = passport({f"{s}_{m}": getattr(getattr(data, s), m) for s in ("train", "test") for m in "XY"})
    assert json.loads(json.dumps(fresh)) == data.passport
    lines = passport_lines(data.passport)
    shown = CliRunner().invoke(app, ["show", "tiny"]).output
    assert all(line in shown for line in lines)
    text = "\n".join(lines)
    for part in ("unseen: 0 labels", "order of train: looks shuffled", "test points equal to a train point: 0"):
        assert part in text
    sorted_labels = _labels(np.repeat(np.arange(6), 10), 6)
    assert "order of test: looks SORTED" in "\n".join(passport_lines(passport(_matrices(sorted_labels, sorted_labels))))


def test_readers_can_show_it_without_the_compiler() -> None:
    code = "import sys, bench.data.passport; sys.exit(bool({'numba', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
