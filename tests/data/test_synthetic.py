from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.data import load_dataset
from bench.data.draws import Draws
from bench.errors import InputError


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


def test_bytes_are_pinned() -> None:
    assert load_dataset("tiny").fingerprint == "bc68162096ef0e8f"


def test_twin_has_the_published_statistics() -> None:
    data = load_dataset("amazon670k-style", scale=0.02)
    for key, full in (
        ("n_train", 490_449),
        ("n_test", 153_025),
        ("n_features", 135_909),
        ("n_labels", 670_091),
    ):
        assert data.stats[key] == round(full * 0.02)
    assert data.stats["labels_per_point"] == pytest.approx(5.45, rel=0.01)
    assert data.stats["points_per_label"] == pytest.approx(3.99, rel=0.01)
    assert data.stats["features_per_point"] == pytest.approx(75.6, rel=0.15)  # a small vocabulary repeats itself
    assert data.stats["labels_without_train_point"] == 0
    assert 0.8 < data.stats["share_labels_at_most_5_points"] < 0.95
    test_labels = data.test.Y.nnz / len(data.test)
    assert test_labels == pytest.approx(5.45, rel=0.03)


@pytest.mark.parametrize(
    ("name", "scale", "full"),
    [
        ("amazon3m-style", 0.005, (1_717_899, 742_507, 337_067, 2_812_281, 36.17)),
        ("amazon-search-style", 0.001, (70_000_000, 20_000, 80_000, 49_460_000, 2.0)),
    ],
)
def test_the_other_twins_scale(name: str, scale: float, full: tuple[float, ...]) -> None:
    data = load_dataset(name, scale=scale)
    assert data.stats["n_train"] == round(full[0] * scale)
    assert data.stats["n_test"] == round(full[1] * scale)
    assert data.stats["n_features"] == max(round(full[2] * scale), 1024)
    assert data.stats["n_labels"] == round(full[3] * scale)
    assert data.stats["labels_per_point"] == pytest.approx(full[4], rel=0.05)
    assert data.stats["labels_without_train_point"] == 0


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
