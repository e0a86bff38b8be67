from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from mach.layer.output import MachOutput, bucket_prior

SEEDS = {"hashing": 1, "initialisation": 2, "sampling": 3}


def layer(R: int = 3, **settings: object) -> MachOutput:
    labels = sp.random(50, 30, density=0.1, format="csr", random_state=0, dtype=np.float32)
    return MachOutput(n_labels=30, hidden=4, train_labels=labels, seeds=SEEDS, B=8, R=R, **settings)


def test_declared_parameters_are_the_real_ones() -> None:
    real = sum(p.numel() for p in layer().parameters())
    assert real == MachOutput.parameter_count(n_labels=30, hidden=4, B=8, R=3) == 3 * (8 * 4 + 8)


def test_a_repetition_does_not_depend_on_R() -> None:
    small, large = layer(R=2), layer(R=5)
    np.testing.assert_array_equal(small.lookup, large.lookup[:2])
    for r in range(2):
        torch.testing.assert_close(small.weights[r], large.weights[r], rtol=0, atol=0)
        torch.testing.assert_close(small.biases[r], large.biases[r], rtol=0, atol=0)


def test_subset_shares_parameters_and_ranks_alone() -> None:
    whole = layer(R=3)
    part = whole.subset(range(1, 3))
    assert part.repetitions == 2
    assert len(list(part.parameters())) == 2
    assert part.kernel.data_ptr() == whole.kernel[1].data_ptr()
    hidden = torch.randn(3, 6, 4)
    with torch.no_grad():
        _, labels = part.topk(hidden[1:], 5)
        expected = torch.stack([whole.biases[r] + hidden[r] @ whole.weights[r].T for r in (1, 2)])
    with torch.no_grad():
        part.kernel[0] += 1.0  # what training the part does, the whole sees
    torch.testing.assert_close(whole.kernel[1], part.kernel[0], rtol=0, atol=0)
    total = expected[0][:, whole.lookup[1].astype(int)] + expected[1][:, whole.lookup[2].astype(int)]
    best = np.argsort(-total.numpy(), axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(labels, best)


def test_prefixes_of_the_layer_equal_smaller_layers() -> None:
    whole = layer(R=4)
    hidden = torch.randn(4, 9, 4)
    with torch.no_grad():
        scores, labels = whole.topk_prefixes(hidden, 5, [1, 2, 4])
        for at, R in enumerate([1, 2, 4]):
            alone = layer(R=R).topk(hidden[:R], 5)
            np.testing.assert_array_equal(labels[at], alone[1])
            np.testing.assert_array_equal(scores[at], alone[0])


def test_prior_bias_predicts_train_frequencies() -> None:
    labels = sp.csr_matrix(np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]], dtype=np.float32))
    buckets = np.array([0, 0, 2])  # of 4 points, 2 have bucket 0, none 1 and one 2
    share = torch.sigmoid(bucket_prior(labels, buckets, 3, "bce"))
    torch.testing.assert_close(share, torch.tensor([2.5, 0.5, 1.5]) / 5.0)
    share = torch.softmax(bucket_prior(labels, buckets, 3, "softmax"), 0)
    torch.testing.assert_close(share, torch.tensor([2.5, 0.5, 1.5]) / 4.5)


@pytest.mark.parametrize("loss", ["bce", "softmax"])
def test_mean_estimator_ranks_by_probabilities(loss: str) -> None:
    whole = layer(R=2, loss=loss, estimator="mean")
    hidden = torch.randn(2, 5, 4)
    with torch.no_grad():
        scores, labels = whole.topk(hidden, 3)
        logits = [whole.biases[r] + hidden[r] @ whole.weights[r].T for r in range(2)]
    p = [(z.sigmoid() if loss == "bce" else z.softmax(1)).numpy() for z in logits]
    mean = (p[0][:, whole.lookup[0].astype(int)] + p[1][:, whole.lookup[1].astype(int)]) / 2
    np.testing.assert_allclose(scores, -np.sort(-mean, axis=1)[:, :3], rtol=1e-6)
    assert labels.shape == (5, 3)


@pytest.mark.parametrize("wrong", [{"loss": "hinge"}, {"bias": "one"}, {"estimator": "max"}])
def test_unknown_settings_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="unknown"):
        layer(**wrong)


def test_one_repetition_can_be_used_alone() -> None:
    whole, alone = layer(R=3), layer(R=1)
    state = {name: value[:1] for name, value in whole.state_dict().items()}
    assert {name: value.shape for name, value in state.items()} == {"kernel": (1, 4, 8), "biases": (1, 8)}
    with torch.no_grad():
        alone.kernel.zero_()
    alone.load_state_dict(state)
    torch.testing.assert_close(alone.weights[0], whole.weights[0], rtol=0, atol=0)


def test_parts_have_the_losses_and_gradients_of_the_whole() -> None:
    """Repetitions seen together, alone and in groups, in any order."""
    labels = sp.random(6, 30, density=0.2, format="csr", random_state=2, dtype=np.float32)
    hidden = torch.randn(3, 6, 4, requires_grad=True)
    whole = layer(R=3)
    total = whole.loss(hidden, labels)
    total.backward()
    assert hidden.grad is not None
    assert whole.kernel.grad is not None
    losses = []
    for repetitions in (range(2, 3), range(2)):
        part, mine = whole.subset(repetitions), slice(repetitions.start, repetitions.stop)
        own = hidden.detach()[mine].clone().requires_grad_()
        losses.append(part.loss(own, labels))
        losses[-1].backward()
        torch.testing.assert_close(own.grad, hidden.grad[mine], rtol=0, atol=0)
        torch.testing.assert_close(part.kernel.grad, whole.kernel.grad[mine], rtol=0, atol=0)
    torch.testing.assert_close(sum(losses), total)


def test_feature_hashing_is_each_repetitions_own_and_off_by_default() -> None:
    assert layer().feature_lookup(100) is None
    lookup = layer(R=3, feature_hash=7).feature_lookup(100)
    assert lookup is not None
    assert lookup.shape == (3, 100)
    assert lookup.max() < 7
    assert (lookup[0] != lookup[1]).any()
    fewer = layer(R=2, feature_hash=7).feature_lookup(100)
    assert fewer is not None
    np.testing.assert_array_equal(fewer, lookup[:2])
    with pytest.raises(ValueError, match="feature_hash: found 7 with share_encoder True"):
        layer(feature_hash=7, share_encoder=True)


def test_a_shared_encoder_is_in_the_facts_of_every_row() -> None:
    facts = layer(R=3, share_encoder=True).facts()
    assert [fact["encoder_trained_by"] for fact in facts] == [3, 3, 3]
    assert all("encoder_trained_by" not in fact for fact in layer(R=3).facts())


def test_the_loss_reports_the_time_of_its_parts() -> None:
    whole, parts = layer(R=2), []
    whole.timing_hook = lambda part, seconds: parts.append(part) if seconds > 0 else None
    labels = sp.random(6, 30, density=0.2, format="csr", random_state=2, dtype=np.float32)
    whole.loss(torch.randn(2, 6, 4), labels)
    assert parts == ["output forward", "loss and gradient", "output backward"] * 2
