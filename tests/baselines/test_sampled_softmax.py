from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from baselines.full_softmax import loss_reference
from baselines.sampled_softmax import SampledSoftmax, log_inclusion

SEEDS = {"hashing": 1, "initialisation": 2, "sampling": 3}
N_LABELS = 60


def labels_of(n_points: int, seed: int = 0) -> sp.csr_matrix:
    rng = np.random.default_rng(seed)
    dense = rng.random((n_points, N_LABELS)) < np.linspace(0.3, 0.01, N_LABELS)
    dense[0] = False
    return sp.csr_matrix(dense.astype(np.float32))


def build(labels: sp.csr_matrix, **settings: object) -> SampledSoftmax:
    layer = SampledSoftmax(n_labels=N_LABELS, hidden=5, train_labels=labels, seeds=SEEDS, **settings)
    torch.manual_seed(4)
    with torch.no_grad():
        layer.weight.normal_()
    return layer


def full_loss(layer: SampledSoftmax, hidden: torch.Tensor, labels: sp.csr_matrix) -> torch.Tensor:
    rows = torch.from_numpy(np.repeat(np.arange(labels.shape[0]), np.diff(labels.indptr)))
    columns = torch.from_numpy(labels.indices.astype(np.int64))
    return loss_reference(hidden, layer.weight, layer.bias[:, 0], rows, columns, "softmax")


def test_a_sample_of_everything_is_the_full_softmax() -> None:
    """With every label in the sample for certain the correction is zero: loss and gradients are the exact ones."""
    labels = labels_of(10)
    layer = build(labels, n_samples=10**9, alpha=0.0)
    hidden = torch.randn(10, 5, requires_grad=True)
    layer.loss_on(np.arange(N_LABELS), hidden, labels).backward()
    ours = [hidden.grad.clone(), layer.weight.grad.to_dense(), layer.bias.grad.to_dense()]
    hidden.grad, layer.weight.grad, layer.bias.grad = None, None, None
    full_loss(layer, hidden, labels).backward()
    for mine, theirs in zip(ours, [hidden.grad, layer.weight.grad, layer.bias.grad], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_bias_of_the_gradient_shrinks_with_the_sample() -> None:
    labels = labels_of(40)
    torch.manual_seed(0)
    hidden = torch.randn(40, 5, requires_grad=True)
    layer = build(labels)
    full_loss(layer, hidden, labels).backward()
    exact = hidden.grad.clone()
    errors = []
    for n_samples in (5, 20, 80, 320):
        layer = build(labels, n_samples=n_samples)
        total = torch.zeros_like(exact)
        for _ in range(400):
            hidden.grad = None
            layer.loss(hidden, labels).backward()
            total += hidden.grad
        errors.append(float((total / 400 - exact).norm() / exact.norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.1 * errors[0]


def test_accidental_hits_do_not_count() -> None:
    """A sampled label that is a point's own changes nothing for that point."""
    labels = sp.csr_matrix(([1.0], ([0], [7])), shape=(1, N_LABELS), dtype=np.float32)
    layer = build(labels_of(10))
    hidden = torch.randn(1, 5)
    with torch.no_grad():
        with_hit = layer.loss_on(np.array([3, 7, 20]), hidden, labels)
        without = layer.loss_on(np.array([3, 20]), hidden, labels)
    torch.testing.assert_close(with_hit, without)


def test_gradient_touches_only_rows_in_use() -> None:
    labels = labels_of(4)
    layer = build(labels)
    layer.loss_on(np.array([1, 50]), torch.randn(4, 5), labels).backward()
    used = set(layer.weight.grad.coalesce().indices()[0].tolist())
    assert used == {1, 50} | set(labels.indices.tolist())


def test_inclusion_probability_is_that_of_the_sampler() -> None:
    labels = labels_of(50)
    layer = build(labels, n_samples=30, alpha=0.7)
    seen = np.zeros(N_LABELS)
    for _ in range(4000):
        seen[layer.sample()] += 1
    expected = np.exp(layer._log_q)
    spread = np.sqrt(expected * (1 - expected) / 4000)
    assert np.all(np.abs(seen / 4000 - expected) < 5 * spread)


def test_log_inclusion_is_accurate_for_rare_labels() -> None:
    assert np.exp(log_inclusion(np.array([1e-12]), 1000))[0] == pytest.approx(1e-9, rel=1e-6)


def test_declared_parameters_are_the_real_ones() -> None:
    layer = build(labels_of(4))
    assert sum(p.numel() for p in layer.parameters()) == SampledSoftmax.parameter_count(n_labels=N_LABELS, hidden=5)


@pytest.mark.parametrize("wrong", [{"n_samples": 0}, {"bias": "one"}])
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"unknown|at least"):
        build(labels_of(4), **wrong)
