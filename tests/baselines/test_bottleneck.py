from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from baselines.bottleneck import Bottleneck
from baselines.full_softmax import LOSSES, loss_reference

SEEDS = {"hashing": 1, "initialisation": 2, "sampling": 3}
N_LABELS, HIDDEN = 31, 8


def labels_of(n_points: int) -> sp.csr_matrix:
    dense = np.random.default_rng(0).random((n_points, N_LABELS)) < 0.1
    dense[0] = False
    return sp.csr_matrix(dense.astype(np.float32))


def build(labels: sp.csr_matrix, **settings: object) -> Bottleneck:
    return Bottleneck(n_labels=N_LABELS, hidden=HIDDEN, train_labels=labels, seeds=SEEDS, **settings)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("rank", [1, 3, 12])
def test_loss_and_gradients_are_those_of_the_product_of_both_matrices(kind: str, rank: int) -> None:
    labels = labels_of(12)
    layer = build(labels, rank=rank, loss=kind, label_chunk=7).double()
    hidden = torch.randn(12, HIDDEN, dtype=torch.float64, requires_grad=True)
    everything = [hidden, *layer.parameters()]
    rows = torch.from_numpy(np.repeat(np.arange(12), np.diff(labels.indptr)))
    columns = torch.from_numpy(labels.indices.astype(np.int64))
    weight = layer.labels.weight @ layer.down
    theirs = loss_reference(hidden, weight, layer.labels.bias, rows, columns, kind)
    reference = torch.autograd.grad(theirs, everything)
    ours = layer.loss(hidden, labels)
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(torch.autograd.grad(ours, everything), reference, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)


def test_topk_is_exact_with_ties_to_the_lowest_label() -> None:
    layer = build(labels_of(9), rank=2, bias="zero")
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in (layer.down, layer.labels.weight):
            parameter.copy_(torch.from_numpy(rng.integers(-1, 2, parameter.shape)))
        hidden = torch.from_numpy(rng.integers(-1, 2, (20, HIDDEN)).astype(np.float32))
        logits = (hidden @ layer.down.T @ layer.labels.weight.T).numpy()
        scores, labels = layer.topk(hidden, 6)
    best = np.argsort(-logits, axis=1, kind="stable")[:, :6]
    np.testing.assert_array_equal(labels, best)
    np.testing.assert_array_equal(scores, np.take_along_axis(logits, best, 1))


@pytest.mark.parametrize("rank", [1, 5, 32])
def test_declared_parameters_are_the_real_ones(rank: int) -> None:
    layer = build(labels_of(4), rank=rank)
    declared = Bottleneck.parameter_count(n_labels=N_LABELS, hidden=HIDDEN, rank=rank)
    assert sum(p.numel() for p in layer.parameters()) == declared == HIDDEN * rank + N_LABELS * (rank + 1)


def test_the_two_matrices_start_from_different_numbers() -> None:
    layer = build(labels_of(4), rank=HIDDEN)
    ours, theirs = (matrix.detach().numpy().ravel() for matrix in (layer.down, layer.labels.weight))
    assert abs(np.corrcoef(ours, theirs[: len(ours)])[0, 1]) < 0.5
    torch.testing.assert_close(build(labels_of(4), rank=HIDDEN).down, layer.down, rtol=0, atol=0)


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"loss": "hinge"}, {"bias": "one"}, {"label_chunk": -1}])
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"unknown|at least"):
        build(labels_of(4), **wrong)
