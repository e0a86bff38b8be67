from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from bench.interface import Ranking
from bench.metrics.scorer import without
from bench.model.built_method import BuiltClassifier
from bench.run.predict import Points, predict


def everything(scores: np.ndarray) -> Ranking:
    order = np.argsort(-scores, axis=1, kind="stable").astype(np.int32)
    return np.take_along_axis(scores, order, 1).astype(np.float32), order


class Method:
    """The "features" are the scores of the labels."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def topk(self, rows: sp.csr_matrix, k: int) -> Ranking:
        self.asked.append(k)
        best, labels = everything(rows.toarray())
        return best[:, :k], labels[:, :k]


class Excluding(Method):
    takes_excluded = True

    def topk(self, rows: sp.csr_matrix, k: int, excluded: sp.csr_matrix | None = None) -> Ranking:
        masked = rows.toarray() if excluded is None else np.where(excluded.toarray(), -np.inf, rows.toarray())
        best, labels = super().topk(sp.csr_matrix(masked), k)
        return best, np.where(np.isneginf(best), np.int32(-1), labels)


@pytest.mark.parametrize("kind", [Method, Excluding])
@pytest.mark.parametrize("batch", [1, 3, 100])
def test_left_out_pairs_make_room_for_the_next_best(batch: int, kind: type[Method]) -> None:
    """Against the ranking of scores in which forbidden pairs are minus infinity, whoever leaves them out."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(10, 12))
    forbidden = sp.csr_matrix(rng.random((10, 12)) < 0.3)
    X, method = sp.csr_matrix(scores), kind()

    def topk(rows: sp.csr_matrix, k: int, left_out: sp.csr_matrix | None) -> list[Ranking]:
        return [BuiltClassifier(method).topk(rows, k, left_out)]

    (found,) = predict(topk, Points(X, 4, batch, forbidden), [(None, None)])
    masked = np.where(forbidden.toarray(), -np.inf, scores)
    np.testing.assert_array_equal(found.labels, everything(masked)[1][:, :4])
    assert (max(method.asked) > 4) == (kind is Method)
    (unfiltered,) = predict(topk, Points(X, 4, batch), [(None, None)])
    np.testing.assert_array_equal(unfiltered.labels, everything(scores)[1][:, :4])


def test_too_few_labels_left_are_marked_missing() -> None:
    ranking = (np.array([[3.0, 2.0, 1.0]], dtype=np.float32), np.array([[2, 0, 1]], dtype=np.int32))
    scores, labels = without(ranking, sp.csr_matrix(np.array([[1, 0, 1]])), 2)
    assert labels.tolist() == [[1, -1]]
    assert scores.tolist() == [[1.0, -np.inf]]
