from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.label_frequency import LabelFrequency


@settings(max_examples=30, deadline=None)
@given(n_labels=st.integers(1, 12), n_points=st.integers(0, 9), k=st.integers(1, 15), seed=st.integers(0, 30))
def test_every_point_gets_the_most_frequent_labels(n_labels: int, n_points: int, k: int, seed: int) -> None:
    """Ties by lowest id; labels without train points rank last; −1 fills the list when there are fewer than k."""
    dense = np.random.default_rng(seed).random((6, n_labels)) < 0.4
    method = LabelFrequency()
    method.fit(sp.csr_matrix((6, 3)), sp.csr_matrix(dense.astype(np.float32)))
    scores, labels = method.topk(sp.csr_matrix((n_points, 3)), k)
    counts = dense.sum(0).tolist()
    expected = sorted(range(n_labels), key=lambda label: (-counts[label], label))[:k]
    filled = expected + [-1] * (k - len(expected))
    assert labels.dtype == np.int32
    assert scores.dtype == np.float32
    assert labels.shape == scores.shape == (n_points, k)
    assert all(row == filled for row in labels.tolist())
    assert all(row == [counts[x] if x >= 0 else -np.inf for x in filled] for row in scores.tolist())
