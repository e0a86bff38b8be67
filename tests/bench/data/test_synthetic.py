from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.common.errors import InputError
from bench.data import load_dataset
from bench.data.sources import synthetic
from bench.data.sources.integers import distinct
from bench.data.sources.synthetic_draws import Draws


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**63), stream=st.integers(0, 40))
def test_permutation_is_one(size: int, seed: int, stream: int) -> None:
    image = Draws(seed).permute(stream, np.arange(size), size)
    assert np.array_equal(np.sort(image), np.arange(size))


def test_draws_are_pinned() -> None:
    """The same numbers on every machine and numpy version: these were computed once."""
    draws = Draws(3)
    assert draws.bits(5, np.arange(2)).tolist() == PINNED_BITS
    assert draws.below(1, np.arange(5), 100).tolist() == PINNED_BELOW


PINNED_BITS = [17733249479207213591, 15758274217352940697]
PINNED_BELOW = [31, 35, 47, 10, 3]


TINY = "b6aedb179549881a"  # the fingerprint that the generator's version 3 gave


# counts of train and test, features, labels, and train's labels a point, nnz(X), nnz(Y), as published
PUBLISHED = {
    "amazon670k-style": (490_449, 153_025, 135_909, 670_091, 5.45, 37.1e6, 2_674_356),
    "amazon3m-style": (1_717_899, 742_507, 337_067, 2_812_281, 36.17, 84.6e6, 61_916_857),
}


@pytest.mark.parametrize(("name", "scale"), [("amazon670k-style", 0.02), ("amazon3m-style", 0.005)])
def test_twins_have_the_published_statistics(name: str, scale: float) -> None:
    data = load_dataset(name, scale=scale)
    n_train, n_test, n_features, n_labels, labels_per_point, nnz_X, nnz_Y = PUBLISHED[name]
    counts = {"n_train": n_train, "n_test": n_test, "n_features": n_features, "n_labels": n_labels}
    for key, full in counts.items():
        assert data.stats[key] == round(full * scale)
    assert data.stats["labels_per_point"] == pytest.approx(labels_per_point, rel=0.01)
    assert data.stats["features_per_point"] == pytest.approx(nnz_X / n_train, rel=0.01)
    assert data.train.X.nnz == pytest.approx(nnz_X * scale, rel=0.01)
    assert data.train.Y.nnz == pytest.approx(nnz_Y * scale, rel=0.01)
    assert data.test.Y.nnz / len(data.test) == pytest.approx(labels_per_point, rel=0.03)  # few points: drawn counts
    assert data.test.X.nnz / len(data.test) == pytest.approx(nnz_X / n_train, rel=0.03)
    assert data.stats["labels_without_train_point"] == 0


def test_points_per_label_are_the_published_ones() -> None:
    """The XML Repository counts train points for Amazon-670K, and train and test points for Amazon-3M."""
    data = load_dataset("amazon670k-style", scale=0.02)
    assert data.stats["points_per_label"] == pytest.approx(3.99, rel=0.01)
    assert 0.8 < data.stats["share_labels_at_most_5_points"] < 0.95
    data = load_dataset("amazon3m-style", scale=0.005)
    assert (data.train.Y.nnz + data.test.Y.nnz) / data.stats["n_labels"] == pytest.approx(31.64, rel=0.01)


def test_the_product_search_twin_scales() -> None:
    data = load_dataset("amazon-search-style", scale=0.001)
    found = [data.stats[key] for key in ("n_train", "n_test", "n_features", "n_labels")]
    assert found == [70_000, 20, 1024, 49_460]
    assert data.stats["labels_per_point"] == pytest.approx(2.0, rel=0.01)
    assert data.stats["features_per_point"] == pytest.approx(10, rel=0.01)
    assert data.stats["labels_without_train_point"] == 0


@pytest.mark.parametrize("chunk", [8192, 333])
def test_bytes_do_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(synthetic, "CHUNK", chunk)
    assert load_dataset("tiny").fingerprint == TINY


@given(
    columns=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=8), min_size=1, max_size=5),
    seed=st.integers(0, 99),
)
def test_distinct_fills_what_repeats_left(columns: list[list[int]], seed: int) -> None:
    lengths = np.array([len(row) for row in columns])
    owner = np.repeat(np.arange(len(columns)), lengths)
    rows, found = distinct(
        owner, np.concatenate(columns), 50, lengths, lambda row, number: Draws(seed).below(0, row * 999 + number, 50)
    )
    assert np.array_equal(np.bincount(rows, minlength=len(columns)), lengths)
    assert (np.diff(rows * 50 + found) > 0).all()
    for row, given_columns in enumerate(columns):
        assert set(given_columns) <= set(found[rows == row].tolist())


def test_distinct_stops_when_there_is_nothing_more_to_draw() -> None:
    rows, found = distinct(
        np.zeros(4, dtype=np.int64), np.array([1, 1, 0, 0]), 2, np.array([4]), lambda row, number: number % 2 + 0 * row
    )
    assert rows.tolist() == [0, 0]
    assert found.tolist() == [0, 1]


def test_a_linear_model_learns_and_none_is_perfect() -> None:
    data = load_dataset("tiny")
    centroids = (data.train.Y.T @ data.train.X).toarray()
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    best = (data.test.X @ centroids.T).argmax(axis=1)
    hits = np.asarray(data.test.Y[np.arange(len(data.test)), best]).mean()
    floor = data.test.Y[:, np.bincount(data.train.Y.indices).argmax()].mean()
    assert hits > 8 * floor
    assert hits < 0.95


def test_rows_are_not_sorted_by_label_or_topic() -> None:
    """Neighbouring points share labels no more often than points far apart."""
    data = load_dataset("tiny")
    Y = data.train.Y
    near = Y[:-1].multiply(Y[1:]).sum()
    far = Y[:1000].multiply(Y[1000:]).sum() * (len(data.train) - 1) / 1000
    assert near < 1.5 * far


@pytest.mark.parametrize("bad", [{"scale": -1}, {"scale": 0}, {"seed": "x"}, {"n_labels": 10_000}, {"seed": 0.5}])
def test_bad_parameters(bad: dict[str, object]) -> None:
    with pytest.raises(InputError, match="synthetic"):
        load_dataset("tiny", **bad)
