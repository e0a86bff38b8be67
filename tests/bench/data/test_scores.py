from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from score_pairs import write_score_pairs

from bench.common.errors import DataError, InputError
from bench.data.formats.scores import read_scores

Write = Callable[[str, str], Path]


def _npz(path: Path, indptr: list[int], indices: list[int], data: list[float], shape: tuple[int, int]) -> Path:
    np.savez(path, indptr=indptr, indices=indices, data=np.array(data), shape=shape, format=b"csr")
    return path


def test_sparse_by_score(tmp_path: Path) -> None:
    matrix = sparse.csr_matrix(np.array([[0, -1.0, 3, 2], [5, 0, 0, 0], [0, 0, 0, 0]]))
    sparse.save_npz(tmp_path / "s.npz", matrix)
    scores, labels = read_scores(tmp_path / "s.npz", 3, 4)
    assert labels.tolist() == [[2, 3, 1], [0, -1, -1], [-1, -1, -1]]
    assert scores.tolist() == [[3, 2, -1], [5, -np.inf, -np.inf], [-np.inf] * 3]


def test_sparse_in_rank_order_with_equal_values(tmp_path: Path) -> None:
    path = _npz(tmp_path / "s.npz", [0, 3, 5], [2, 0, 1, 3, 0], [1, 1, 1, 2, 1], (2, 4))
    assert read_scores(path, 2, 4)[1].tolist() == [[2, 0, 1], [3, 0, -1]]


def test_ties_go_to_the_lower_label_and_zeros_count(tmp_path: Path) -> None:
    path = _npz(tmp_path / "s.npz", [0, 4], [3, 0, 2, 1], [0, 7, 0, -1], (1, 4))
    scores, labels = read_scores(path, 1, 4)
    assert labels.tolist() == [[0, 2, 3, 1]]
    assert scores.tolist() == [[7, 0, 0, -1]]


def test_plain_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", labels=np.array([[1, 0], [2, -1]]), scores=np.array([[0.1, 0.9], [1, 0]]))
    assert read_scores(tmp_path / "s.npz", 2, 3)[1].tolist() == [[0, 1], [2, -1]]
    np.savez(tmp_path / "r.npz", labels=np.array([[1, 0], [2, 1]]))
    assert read_scores(tmp_path / "r.npz", 2, 3)[1].tolist() == [[1, 0], [2, 1]]


@given(st.lists(st.dictionaries(st.integers(0, 9), st.floats(-9, 9), max_size=5), min_size=1, max_size=6))
def test_text_pairs_read_back(rows: list[dict[int, float]]) -> None:
    import tempfile

    k = max(max(map(len, rows)), 1)
    labels, scores = np.full((len(rows), k), -1), np.full((len(rows), k), -np.inf)
    for point, row in enumerate(rows):
        ranked = sorted(row.items(), key=lambda item: (-item[1], item[0]))
        labels[point, : len(row)] = [label for label, _ in ranked]
        scores[point, : len(row)] = [score for _, score in ranked]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.txt"
        write_score_pairs(path, scores, labels)
        got_scores, got_labels = read_scores(path, len(rows), 10)
    width = got_labels.shape[1]
    np.testing.assert_array_equal(got_labels, labels[:, :width])
    np.testing.assert_array_equal(got_scores, scores[:, :width])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0:1\n", "end after 1 points"),
        ("0:1\n1:1\n2:1\n", "line 3"),
        ("0:1\n9:1\n", "line 2: found label 9"),
        ("0:1\n1:nan\n", "line 2"),
        ("0:1\n1\n", "line 2"),
        ("0:1 0:2\n1:1\n", "label 0 twice at point 0"),
        ("3 3\n0:1\n1:1\n", "line 1"),
    ],
)
def test_bad_text(write: Write, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_scores(write("s.txt", text), 2, 3)


def test_bad_npz(tmp_path: Path) -> None:
    for arrays, words in (
        ({"labels": np.array([[0, 0], [1, 2]])}, "twice"),
        ({"labels": np.array([[0, 7], [1, 2]])}, "label 7 at point 0"),
        ({"labels": np.array([[0.5]])}, "whole numbers"),
        ({"labels": np.array([[0, 1]])}, "found 1 points"),
        ({"labels": np.array([[0], [1]]), "scores": np.array([[np.nan], [1]])}, "NaN"),
        ({"what": np.array(1)}, "arrays what"),
        ({"labels": np.array([[object()]], dtype=object)}, "not readable"),
    ):
        np.savez(tmp_path / "s.npz", **arrays)
        with pytest.raises(DataError, match=words):
            read_scores(tmp_path / "s.npz", 2, 3)
    with pytest.raises(DataError, match="do not fit"):
        read_scores(_npz(tmp_path / "s.npz", [0, 3, 1], [0], [1], (2, 3)), 2, 3)
    with pytest.raises(DataError, match="a matrix of"):
        read_scores(_npz(tmp_path / "s.npz", [0, 1, 1], [0], [1], (2, 4)), 2, 3)
    with pytest.raises(InputError, match="does not exist"):
        read_scores(tmp_path / "none", 2, 3)
