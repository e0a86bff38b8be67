from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines import nearest_neighbours
from baselines.nearest_neighbours import NearestNeighbours, unit_rows


def plain_nearest(train: np.ndarray, test: np.ndarray, neighbours: int) -> np.ndarray:
    """[N_test, neighbours] by sorting all cosines; −1 where no more are positive."""
    cosines = (test @ train.T).astype(np.float32)
    best = np.argsort(-cosines, axis=1, kind="stable")[:, :neighbours]
    best = np.where(np.take_along_axis(cosines, best, 1) > 0, best, -1)
    return np.pad(best, ((0, 0), (0, neighbours - best.shape[1])), constant_values=-1)


def plain_scores(found: np.ndarray, cosines: np.ndarray, Y: np.ndarray, power: float) -> np.ndarray:
    scores = np.zeros((len(found), Y.shape[1]))
    for n, others in enumerate(found):
        for at, other in enumerate(others):
            if other >= 0:
                scores[n] += Y[other] * np.float64(cosines[n, at]) ** power
    return scores


def rank(scores: np.ndarray, k: int) -> np.ndarray:
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    order = np.where(np.take_along_axis(scores, order, 1) > 0, order, -1)
    return np.pad(order, ((0, 0), (0, k - order.shape[1])), constant_values=-1)


@settings(max_examples=60, deadline=None)
@given(
    n_train=st.integers(1, 20),
    n_test=st.integers(1, 9),
    neighbours=st.integers(1, 25),
    power=st.sampled_from([0.5, 1.0, 3.0]),
    k=st.integers(1, 8),
    workers=st.integers(1, 3),
    seed=st.integers(0, 100),
)
def test_equal_to_sorting_all_cosines(
    n_train: int, n_test: int, neighbours: int, power: float, k: int, workers: int, seed: int
) -> None:
    """Rows of four equal features have length 2 exactly: every cosine is a multiple of 1/4, so ties are many."""
    rng = np.random.default_rng(seed)
    X = np.zeros((n_train + n_test, 9), np.float32)
    for n in np.flatnonzero(rng.random(len(X)) < 0.9):  # the others stay empty
        X[n, rng.choice(9, 4, replace=False)] = 3.0
    Y = (rng.random((n_train, 6)) < 0.3).astype(np.float32)
    method = NearestNeighbours(neighbours, power)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest_neighbours, "BLOCK_BYTES", 4 * n_train * workers)
        method.fit(sp.csr_matrix(X[:n_train]), sp.csr_matrix(Y))
        cosines, found = method.nearest(sp.csr_matrix(X[n_train:]))
        scores, labels = method.topk(sp.csr_matrix(X[n_train:]), k)
    np.testing.assert_array_equal(found, plain_nearest(X[:n_train] / 6.0, X[n_train:] / 6.0, neighbours))
    expected = plain_scores(found, cosines, Y, power).astype(np.float32)
    np.testing.assert_array_equal(labels, rank(expected, k))
    chosen = np.where(labels < 0, -np.inf, np.take_along_axis(expected, np.maximum(labels, 0).astype(int), 1))
    np.testing.assert_allclose(scores, chosen, rtol=1e-6)


def test_real_valued_features_as_scikit_learn_finds_them() -> None:
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(0)
    train = sp.random(200, 50, 0.1, format="csr", random_state=1, data_rvs=rng.random).astype(np.float32)
    test = sp.random(40, 50, 0.1, format="csr", random_state=2, data_rvs=rng.random).astype(np.float32)
    method = NearestNeighbours(5)
    method.fit(train, sp.csr_matrix((200, 3), dtype=np.float32))
    cosines, found = method.nearest(test)
    distances, theirs = NearestNeighbors(n_neighbors=5, metric="cosine").fit(train).kneighbors(test)
    full = cosines[:, -1] > 0  # they go on with cosine 0 where no more points share a feature
    assert full.sum() > 20
    np.testing.assert_array_equal(found[full], theirs[full])
    np.testing.assert_allclose(cosines[full], 1.0 - distances[full], rtol=1e-5)


def test_points_that_share_nothing_with_train_get_nothing() -> None:
    X = sp.csr_matrix(np.array([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0]], dtype=np.float32))
    Y = sp.csr_matrix(np.array([[1, 0], [0, 0]], dtype=np.float32))
    method = NearestNeighbours(2)
    method.fit(X, Y)
    test = sp.csr_matrix(np.array([[0, 0, 0], [0, 0, 1], [5, 0, 0], [-1, 0, 0]], dtype=np.float32))
    scores, labels = method.topk(test, 2)
    assert labels.tolist() == [[-1, -1], [-1, -1], [0, -1], [-1, -1]]
    assert scores[:, 0].tolist() == [-np.inf, -np.inf, 1.0, -np.inf]


def test_rows_are_scaled_to_length_one() -> None:
    X = sp.csr_matrix(np.array([[3, 4, 0], [0, 0, 0], [0, 0, 2]], dtype=np.float32))
    np.testing.assert_allclose(unit_rows(X).toarray(), [[0.6, 0.8, 0], [0, 0, 0], [0, 0, 1]], rtol=1e-7)
    assert X[0, 0] == 3.0  # the caller's stays


def test_the_result_does_not_depend_on_batches() -> None:
    train, test = (sp.random(n, 30, 0.2, format="csr", random_state=n, dtype=np.float32) for n in (60, 11))
    method = NearestNeighbours(4)
    method.fit(train, sp.random(60, 20, 0.1, format="csr", random_state=3, dtype=np.float32).ceil())
    whole = method.topk(test, 5)
    parts = [method.topk(test[low : low + 4], 5) for low in range(0, 11, 4)]
    for ours, theirs in zip(whole, map(np.concatenate, zip(*parts, strict=True)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("wrong", [{"neighbours": 0}, {"power": 0.0}])
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"at least|positive"):
        NearestNeighbours(**wrong)
