from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from baselines.full_softmax import loss_reference
from baselines.parts.samplers import SAMPLERS
from baselines.sampled_softmax import SampledSoftmax, one_positive, sampled_loss_reference

SEEDS = {"hashing": 1, "initialisation": 2, "sampling": 3}
N_LABELS = 60
TF_2019 = {
    "sampler": "log_uniform",
    "label_order": "id",
    "correction": "none",
    "accidental_hits": "keep",
    "positives": "one",
}


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
        layer.bias.normal_()
    return layer


def full_loss(layer: SampledSoftmax, hidden: torch.Tensor, labels: sp.csr_matrix) -> torch.Tensor:
    rows = torch.from_numpy(np.repeat(np.arange(labels.shape[0]), np.diff(labels.indptr)))
    columns = torch.from_numpy(labels.indices.astype(np.int64))
    return loss_reference(hidden, layer.weight, layer.bias[:, 0], rows, columns, "softmax")


def gradients(layer: SampledSoftmax, hidden: torch.Tensor, loss: torch.Tensor) -> list[torch.Tensor]:
    hidden.grad, layer.weight.grad, layer.bias.grad = None, None, None
    loss.backward()
    return [g.to_dense() for g in (hidden.grad, layer.weight.grad, layer.bias.grad) if g is not None]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("correction", ["log_q", "log_q_all", "none"])
@pytest.mark.parametrize("hits", ["mask", "keep"])
def test_every_path_equals_the_plain_one(sampler: str, correction: str, hits: str) -> None:
    labels = labels_of(12)
    layer = build(labels, sampler=sampler, n_samples=25, correction=correction, accidental_hits=hits).double()
    hidden = torch.randn(12, 5, dtype=torch.float64, requires_grad=True)
    one = one_positive(labels, np.random.default_rng(0))
    for batch, positives in ((labels, labels), (labels[:1], labels[:1]), (labels[3:5], labels[3:5]), (labels, one)):
        rows = hidden[: batch.shape[0]]
        sample = layer.sampler.sample(batch)
        if not len(sample):  # in_batch, and no point has a label
            sample = np.array([4])
        log_q = torch.from_numpy(layer.log_q(np.arange(N_LABELS), batch.shape[0]).astype(np.float64))
        theirs_loss = sampled_loss_reference(layer, sample, rows, batch, positives, log_q)
        ours_loss = layer.loss_on(sample, rows, batch, positives)
        torch.testing.assert_close(ours_loss, theirs_loss)
        ours = gradients(layer, hidden, 3.0 * ours_loss)
        theirs = gradients(layer, hidden, 3.0 * theirs_loss)
        if not batch.nnz:
            assert not any(g.any() for g in ours)
            continue
        for mine, reference in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-12)


def test_a_sample_of_everything_is_the_full_softmax() -> None:
    """With every label in the sample for certain the correction is zero: loss and gradients are the exact ones."""
    labels = labels_of(10)
    layer = build(labels, n_samples=10**9, alpha=0.0)
    hidden = torch.randn(10, 5, requires_grad=True)
    ours = gradients(layer, hidden, layer.loss_on(np.arange(N_LABELS), hidden, labels, labels))
    for mine, theirs in zip(ours, gradients(layer, hidden, full_loss(layer, hidden, labels)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def bias_and_error(
    layer: SampledSoftmax, hidden: torch.Tensor, labels: sp.csr_matrix, steps: int
) -> tuple[float, float]:
    """Distance of hidden's mean gradient from the full softmax's, and the standard error of that mean, relative."""
    exact = gradients(layer, hidden, full_loss(layer, hidden, labels))[0]
    found = torch.stack([gradients(layer, hidden, layer.loss(hidden, labels))[0] for _ in range(steps)])
    error = found.var(0).sum().div(steps).sqrt()
    return float((found.mean(0) - exact).norm() / exact.norm()), float(error / exact.norm())


@pytest.mark.parametrize("sampler", ["unigram", "uniform", "log_uniform"])
def test_bias_of_the_gradient_shrinks_with_the_sample(sampler: str) -> None:
    """A ratio of estimates is biased by about 1/n: to nothing but sampling error when the sample is large."""
    labels = labels_of(40)
    torch.manual_seed(0)
    hidden = torch.randn(40, 5, requires_grad=True)
    biases = []
    for n_samples in (5, 20, 80, 640):
        bias, error = bias_and_error(build(labels, sampler=sampler, n_samples=n_samples), hidden, labels, 200)
        biases.append(bias)
    assert biases == sorted(biases, reverse=True)
    assert biases[-1] < 0.1 * biases[0]
    assert biases[-1] < 3.0 * error + 0.01


def test_bias_of_in_batch_negatives_shrinks_with_the_batch() -> None:
    """The gradient of one point, over batches of random other points; all labels have train points here."""
    n_train = 300
    labels = labels_of(n_train)
    assert np.bincount(labels.indices, minlength=N_LABELS).min() > 0
    layer, rng = build(labels, sampler="in_batch"), np.random.default_rng(0)
    torch.manual_seed(0)
    hidden = torch.randn(n_train, 5)
    own = hidden[1:2].clone().requires_grad_()
    exact = gradients(layer, own, full_loss(layer, own, labels[1]))[0]
    biases = []
    for batch_size in (3, 12, 48, 192):
        total = torch.zeros_like(exact)
        for _ in range(300):
            others = rng.choice(np.delete(np.arange(n_train), 1), batch_size - 1, replace=False)
            points = np.append(1, others)
            loss = layer.loss(torch.cat([own, hidden[others]]), labels[points]) * batch_size
            total += gradients(layer, own, loss)[0]
        biases.append(float((total / 300 - exact).norm() / exact.norm()))
    assert biases == sorted(biases, reverse=True)
    assert biases[-1] < 0.1 * biases[0]


def test_the_setting_of_2019_is_biased() -> None:
    """Frequent labels have high ids. Same draws a step; then what kept hits alone leave when the sample is large."""
    labels = labels_of(40)[:, ::-1].tocsr()
    torch.manual_seed(0)
    hidden = torch.randn(40, 5, requires_grad=True)
    for flaw, n_samples, times in ((TF_2019, 80, 3.0), ({"accidental_hits": "keep"}, 320, 5.0)):
        corrected, _ = bias_and_error(build(labels, n_samples=n_samples), hidden, labels, 200)
        flawed, error = bias_and_error(build(labels, **({"n_samples": n_samples} | flaw)), hidden, labels, 200)
        assert flawed > times * corrected, flaw
        assert flawed > 5.0 * error, flaw


def test_all_labels_of_a_point_are_masked_when_one_is_its_positive() -> None:
    labels = sp.csr_matrix(([1.0, 1.0], ([0, 0], [7, 9])), shape=(1, N_LABELS), dtype=np.float32)
    layer = build(labels_of(10), positives="one")
    hidden, one = torch.randn(1, 5), one_positive(labels, np.random.default_rng(0))
    with torch.no_grad():
        with_hits = layer.loss_on(np.array([3, 7, 9, 20]), hidden, labels, one)
        without = layer.loss_on(np.array([3, 20]), hidden, labels, one)
    torch.testing.assert_close(with_hits, without)


def test_accidental_hits_do_not_count() -> None:
    """A sampled label that is a point's own changes nothing for that point."""
    labels = sp.csr_matrix(([1.0], ([0], [7])), shape=(1, N_LABELS), dtype=np.float32)
    layer = build(labels_of(10))
    hidden = torch.randn(1, 5)
    with torch.no_grad():
        with_hit = layer.loss_on(np.array([3, 7, 20]), hidden, labels, labels)
        without = layer.loss_on(np.array([3, 20]), hidden, labels, labels)
    torch.testing.assert_close(with_hit, without)


def test_points_without_labels_add_nothing_however_large_their_logits() -> None:
    labels = labels_of(4)
    layer = build(labels)
    hidden = torch.randn(4, 5)
    hidden[0] *= 1e4
    hidden.requires_grad_()
    sample = np.arange(0, N_LABELS, 7)
    found = gradients(layer, hidden, layer.loss_on(sample, hidden, labels, labels))
    assert all(torch.isfinite(g).all() for g in found)
    assert not found[0][0].any()


def test_gradient_touches_only_rows_in_use() -> None:
    labels = labels_of(4)
    layer = build(labels)
    layer.loss_on(np.array([1, 50]), torch.randn(4, 5), labels, labels).backward()
    used = set(layer.weight.grad.coalesce().indices()[0].tolist())
    assert used == {1, 50} | set(labels.indices.tolist())


def test_one_positive_is_drawn_evenly_from_the_points_own() -> None:
    labels, rng = labels_of(5), np.random.default_rng(0)
    seen = np.zeros(labels.shape)
    for _ in range(2000):
        one = one_positive(labels, rng)
        assert np.diff(one.indptr).tolist() == np.minimum(np.diff(labels.indptr), 1).tolist()
        seen += one.toarray()
    expected = labels.toarray() / np.maximum(labels.sum(1), 1.0)
    assert np.abs(seen / 2000 - expected).max() < 5 * np.sqrt(0.25 / 2000)


def test_same_seed_same_losses() -> None:
    labels = labels_of(9)
    hidden = torch.randn(9, 5)
    ours, theirs = (
        [build(labels, **settings).loss(hidden, labels).item() for settings in ({}, TF_2019, {"sampler": "in_batch"})]
        for _ in range(2)
    )
    assert ours == theirs


def test_declared_parameters_are_the_real_ones() -> None:
    layer = build(labels_of(4))
    assert sum(p.numel() for p in layer.parameters()) == SampledSoftmax.parameter_count(n_labels=N_LABELS, hidden=5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_samples": 0},
        {"bias": "one"},
        {"sampler": "zipf"},
        {"correction": "q"},
        {"accidental_hits": "drop"},
        {"positives": "two"},
        {"label_order": "size"},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"unknown|at least"):
        build(labels_of(4), **wrong)
