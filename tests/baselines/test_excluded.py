"""Pairs that may not be ranked: every method gives the ranking of all labels without them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.adaptive_softmax import AdaptiveSoftmax
from baselines.bottleneck import Bottleneck
from baselines.full_softmax import FullSoftmax
from baselines.label_frequency import LabelFrequency
from baselines.nearest_neighbours import NearestNeighbours
from baselines.one_vs_all import OneVsAll
from baselines.sampled_softmax import SampledSoftmax
from bench.metrics.scorer import without

LAYERS: dict[str, tuple[type, dict[str, Any]]] = {
    "full_softmax": (FullSoftmax, {}),
    "one_vs_all": (OneVsAll, {}),
    "sampled_softmax": (SampledSoftmax, {"n_samples": 4}),
    "bottleneck": (Bottleneck, {"rank": 3}),
    "adaptive_softmax": (AdaptiveSoftmax, {"cutoffs": "0.2-0.5", "label_chunk": 7}),
}
SEEDS = {"hashing": 1, "initialisation": 2, "sampling": 3}
HIDDEN = 4


def pairs_of(n_points: int, n_labels: int, share: float, rng: np.random.Generator) -> sp.csr_matrix:
    """None of every third point, and all labels but one of the second."""
    chosen = rng.random((n_points, n_labels)) < share
    if n_points > 1:
        chosen[1], chosen[1, rng.integers(n_labels)] = True, False
    chosen[::3] = False
    return sp.csr_matrix(chosen)


@pytest.mark.parametrize("name", LAYERS)
@settings(max_examples=25, deadline=None)
@given(
    n_points=st.sampled_from([1, 8]),
    n_labels=st.integers(3, 60),
    k=st.sampled_from([1, 5, 70]),
    share=st.sampled_from([0.1, 0.7, 1.0]),
    ties=st.booleans(),
    seed=st.integers(0, 99),
)
def test_layers(name: str, n_points: int, n_labels: int, k: int, share: float, ties: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cls, own = LAYERS[name]
    train = sp.csr_matrix((rng.random((9, n_labels)) < 0.2).astype(np.float32))
    layer = cls(n_labels=n_labels, hidden=HIDDEN, train_labels=train, seeds=SEEDS, **own)
    with torch.no_grad():
        if ties:  # whole numbers
            for parameter in layer.parameters():
                parameter.copy_(torch.from_numpy(rng.integers(-1, 2, parameter.shape).astype(np.float32)))
        hidden = torch.from_numpy(rng.integers(-2, 3, (n_points, HIDDEN)).astype(np.float32))
        pairs = pairs_of(n_points, n_labels, share, rng)
        scores, labels = layer.topk(hidden, k, excluded=pairs)
        expected = without(layer.topk(hidden, n_labels), pairs, k)
    np.testing.assert_array_equal(labels, expected[1])
    if name == "adaptive_softmax":  # its tails are computed for other points, in products of other sizes
        np.testing.assert_allclose(scores, expected[0], rtol=1e-5, atol=1e-5)
    else:
        np.testing.assert_array_equal(scores, expected[0])


@settings(max_examples=40, deadline=None)
@given(
    method=st.sampled_from([LabelFrequency, NearestNeighbours]),
    n_points=st.integers(0, 9),
    n_labels=st.integers(1, 30),
    k=st.sampled_from([1, 4, 40]),
    share=st.sampled_from([0.1, 0.7, 1.0]),
    seed=st.integers(0, 99),
)
def test_classifiers(method: type, n_points: int, n_labels: int, k: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    X, Y = (sp.csr_matrix((rng.random((7, n)) < 0.4).astype(np.float32)) for n in (5, n_labels))
    fitted = method()
    fitted.fit(X, Y)
    points, pairs = sp.csr_matrix(rng.random((n_points, 5)) < 0.6), pairs_of(n_points, n_labels, share, rng)
    expected = without(fitted.topk(points, n_labels), pairs, k)
    for found, right in zip(fitted.topk(points, k, excluded=pairs), expected, strict=True):
        np.testing.assert_array_equal(found, right)
        assert found.dtype == right.dtype
