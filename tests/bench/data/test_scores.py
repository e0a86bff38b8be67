from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from scipy import sparse
from score_pairs import write_score_pairs

from bench.common.errors import DataError, InputError
from bench.data.formats.scores import read_scores

Write = Callable[[str, str], Path]


def _npz(path: Path, indptr: ArrayLike, indices: ArrayLike, data: ArrayLike, shape: tuple[int, int]) -> Path:
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


def test_a_stated_ranking_is_kept(tmp_path: Path) -> None:
    """Two and three columns of one ranking, whose first scores were rounded to the same value."""
    wide, scores = np.array([[1, 0, 2], [3, 2, 0]]), np.array([[1, 1, 0.5], [1, 1, 0.5]], dtype=np.float16)
    for k in (1, 2, 3):
        np.savez(tmp_path / "a.npz", labels=wide[:, :k], scores=scores[:, :k])
        path = _npz(tmp_path / "s.npz", [0, k, 2 * k], wide[:, :k].ravel(), scores[:, :k].ravel(), (2, 4))
        for file in (tmp_path / "a.npz", path):
            assert read_scores(file, 2, 4)[1].tolist() == wide[:, :k].tolist()
    text = tmp_path / "s.txt"
    text.write_text("1:1 0:1 2:0.5\n3:1 2:1 0:0.5\n")
    assert read_scores(text, 2, 4)[1].tolist() == wide.tolist()


def test_rows_that_rise_somewhere_are_sorted(tmp_path: Path) -> None:
    labels = np.array([[3, -1, 2, 1, 0], [3, -1, 2, 1, 0], [-1, -1, -1, -1, 2]])
    scores = np.array([[1, 9, 1, 1, 2.0], [2, 9, 1, 1, 1], [0, 0, 0, 0, -np.inf]])
    np.savez(tmp_path / "a.npz", labels=labels, scores=scores)
    got, ranked = read_scores(tmp_path / "a.npz", 3, 4)
    assert ranked.tolist() == [[0, 1, 2, 3, -1], [3, 2, 1, 0, -1], [2, -1, -1, -1, -1]]
    assert got[:2].tolist() == [[2, 1, 1, 1, -np.inf], [2, 1, 1, 1, -np.inf]]


@given(st.lists(st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 2.0, np.inf]), min_size=6, max_size=6), min_size=1))
def test_a_matrix_by_column_is_sorted_by_score(rows: list[list[float]]) -> None:
    """Rising columns are no ranking: each row comes by score, equal scores by the lower label."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        data = np.array(rows).ravel()
        indices, indptr = np.tile(np.arange(6), len(rows)), np.arange(len(rows) + 1) * 6
        path = _npz(Path(folder) / "s.npz", indptr, indices, data, (len(rows), 6))
        _, labels = read_scores(path, len(rows), 6)
    assert labels.tolist() == [sorted(range(6), key=lambda label: (-row[label], label)) for row in rows]


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
        ({"labels": np.array([[0], [1]]), "scores": np.array([["1"], ["2"]])}, "array scores: found shape"),
        ({"labels": np.array([[0], [1]]), "scores": np.array([[1j], [1]])}, "array scores: found shape"),
        ({"labels": np.array([[0], [2**63]], dtype=np.uint64)}, f"label {2**63} at point 1"),
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
    np.save(tmp_path / "s.npy", np.zeros((2, 3)))
    with pytest.raises(DataError, match=r"found one array \(.npy\); expected in .npz"):
        read_scores(tmp_path / "s.npy", 2, 3)
