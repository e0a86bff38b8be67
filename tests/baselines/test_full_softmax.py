from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from baselines import full_softmax
from baselines.full_softmax import LOSSES, FullSoftmax, label_prior, linear_topk, loss_reference

SEEDS = {"hashing": 1, "initialisation": 2, "sampling": 3}


def labels_of(n_points: int, n_labels: int, seed: int = 0) -> sp.csr_matrix:
    dense = np.random.default_rng(seed).random((n_points, n_labels)) < 0.05
    dense[0] = False  # a point without labels
    return sp.csr_matrix(dense.astype(np.float32))


def build(labels: sp.csr_matrix, **settings: object) -> FullSoftmax:
    return FullSoftmax(n_labels=labels.shape[1], hidden=6, train_labels=labels, seeds=SEEDS, **settings).double()


@pytest.mark.parametrize("keep_bytes", [0, 2**28])
@pytest.mark.parametrize("label_chunk", [1, 7, 50, 51, 1000])
@pytest.mark.parametrize("kind", LOSSES)
def test_chunked_loss_and_gradient_equal_dense(
    kind: str, label_chunk: int, keep_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any chunking, with the exponentials kept and with the second pass: element by element."""
    monkeypatch.setattr(full_softmax, "KEEP_BYTES", keep_bytes)
    labels = labels_of(12, 51)
    layer = build(labels, loss=kind, label_chunk=label_chunk)
    torch.manual_seed(0)
    hidden = torch.randn(12, 6, dtype=torch.float64, requires_grad=True)
    loss = layer.loss(hidden, labels)
    (2.0 * loss).backward()
    ours = [hidden.grad, layer.weight.grad, layer.bias.grad]

    tensors = [t.detach().clone().requires_grad_() for t in (hidden, layer.weight, layer.bias)]
    rows = torch.from_numpy(np.repeat(np.arange(12), np.diff(labels.indptr)))
    reference = loss_reference(*tensors, rows, torch.from_numpy(labels.indices.astype(np.int64)), kind)
    (2.0 * reference).backward()
    assert loss.item() == pytest.approx(reference.item(), rel=1e-10)
    for mine, theirs in zip(ours, tensors, strict=True):
        torch.testing.assert_close(mine, theirs.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("label_chunk", [3, 8192])
def test_topk_is_exact_with_ties_to_the_lowest_label(label_chunk: int) -> None:
    rng = np.random.default_rng(0)
    hidden = torch.from_numpy(rng.integers(-1, 2, (20, 3)).astype(np.float32))
    weight = torch.from_numpy(rng.integers(-1, 2, (40, 3)).astype(np.float32))
    bias = torch.zeros(40)
    scores, labels = linear_topk(hidden, weight, bias, 6, label_chunk)
    logits = (hidden @ weight.T).numpy()
    best = np.argsort(-logits, axis=1, kind="stable")[:, :6]
    np.testing.assert_array_equal(labels, best)
    np.testing.assert_array_equal(scores, np.take_along_axis(logits, best, 1))


def test_nan_scores_are_an_error() -> None:
    with pytest.raises(ValueError, match="NaN"):
        linear_topk(torch.full((1, 2), torch.nan), torch.ones(3, 2), torch.zeros(3), 1)


def test_fewer_labels_than_k_leave_room() -> None:
    _, labels = linear_topk(torch.ones(1, 2), torch.ones(2, 2), torch.zeros(2), 4)
    assert labels.tolist() == [[0, 1, -1, -1]]


def test_declared_parameters_are_the_real_ones() -> None:
    layer = build(labels_of(9, 31))
    assert sum(p.numel() for p in layer.parameters()) == FullSoftmax.parameter_count(n_labels=31, hidden=6)


def test_prior_predicts_train_frequencies() -> None:
    labels = sp.csr_matrix(np.array([[1, 1], [1, 0], [0, 0]], dtype=np.float32))
    torch.testing.assert_close(label_prior(labels, "softmax").softmax(0), torch.tensor([2.5, 1.5]) / 4.0)
    torch.testing.assert_close(label_prior(labels, "bce").sigmoid(), torch.tensor([2.5, 1.5]) / 4.0)


@pytest.mark.parametrize("wrong", [{"loss": "hinge"}, {"bias": "one"}, {"label_chunk": 0}])
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"unknown|at least"):
        build(labels_of(4, 9), **wrong)
