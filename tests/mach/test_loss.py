from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from mach.loss import LOSSES, bucket_loss, bucket_loss_reference, bucket_targets


def sparse_labels(n_points: int, n_labels: int, seed: int) -> sp.csr_matrix:
    rng = np.random.default_rng(seed)
    dense = rng.random((n_points, n_labels)) < 0.2
    dense[0] = False  # a point without labels
    return sp.csr_matrix(dense.astype(np.float32))


def test_targets_are_the_or_of_the_labels() -> None:
    """Two labels of a point in one bucket make one target."""
    labels = sp.csr_matrix(np.array([[1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 1, 1]], dtype=np.float32))
    rows, columns = bucket_targets(labels, np.array([5, 2, 5, 0], dtype=np.uint16))
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 2), (0, 5), (2, 0), (2, 5)]


def test_targets_of_a_row_slice() -> None:
    """Slices of a larger matrix, as batches are."""
    labels = sparse_labels(30, 12, 0)
    buckets = np.arange(12) % 4
    rows, columns = bucket_targets(labels[7:19], buckets)
    dense = np.zeros((12, 4))
    dense[rows, columns] += 1
    expected = np.stack([labels[7:19].toarray()[:, buckets == b].any(1) for b in range(4)], axis=1)
    np.testing.assert_array_equal(dense, expected)


@pytest.mark.parametrize("kind", LOSSES)
def test_loss_and_gradient_equal_autograd(kind: str) -> None:
    torch.manual_seed(0)
    labels = sparse_labels(16, 40, 1)
    rows, columns = bucket_targets(labels, np.random.default_rng(0).integers(0, 9, 40))
    values, gradients = [], []
    for function in (bucket_loss, bucket_loss_reference):
        torch.manual_seed(1)
        tensors = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in [(16, 6), (9, 6), (9,)]]
        loss = function(*tensors, rows, columns, kind)
        (3.0 * loss).backward()
        values.append(loss.item())
        gradients.append([t.grad for t in tensors])
    assert values[0] == pytest.approx(values[1], rel=1e-10)
    for ours, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", LOSSES)
def test_large_logits_stay_finite(kind: str) -> None:
    hidden = torch.full((2, 3), 200.0, requires_grad=True)
    weight = torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]], requires_grad=True)
    bias = torch.zeros(2, requires_grad=True)
    loss = bucket_loss(hidden, weight, bias, torch.tensor([0, 1]), torch.tensor([1, 0]), kind)
    loss.backward()
    assert loss.item() == pytest.approx(600.0)
    assert torch.isfinite(weight.grad).all()
