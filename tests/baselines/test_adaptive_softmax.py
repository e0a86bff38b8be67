from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.adaptive_softmax import AdaptiveSoftmax, cluster_ends
from baselines.chunked import cluster_loss as cluster_loss_module
from baselines.chunked.cluster_loss import WeightedTargets, cluster_loss, cluster_loss_reference, logits_of, normaliser

SEEDS = {"hashing": 1, "initialisation": 2, "sampling": 3}
N_LABELS, HIDDEN = 30, 8


def labels_of(n_points: int, n_labels: int = N_LABELS, seed: int = 0) -> sp.csr_matrix:
    """Frequencies fall in no order of the ids; the first point has no labels."""
    rng = np.random.default_rng(seed)
    dense = rng.random((n_points, n_labels)) < rng.permutation(np.linspace(0.02, 0.4, n_labels))
    dense[0] = False
    return sp.csr_matrix(dense.astype(np.float32))


def build(labels: sp.csr_matrix, **settings: object) -> AdaptiveSoftmax:
    return AdaptiveSoftmax(n_labels=labels.shape[1], hidden=HIDDEN, train_labels=labels, seeds=SEEDS, **settings)


def random_hidden(n_points: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n_points, HIDDEN, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def log_prob(layer: AdaptiveSoftmax, hidden: torch.Tensor) -> torch.Tensor:
    """log p of every label, [N, n_labels], all at once."""
    head = (hidden @ layer.weight.T + layer.bias).log_softmax(1)
    parts = [head[:, : layer.bounds[1]]]
    for c, tail in layer._numbered_tails():
        within = (hidden @ tail.down.T @ tail.weight.T + tail.bias).log_softmax(1)
        parts.append(head[:, layer.bounds[1] + c - 1, None] + within)
    return torch.cat(parts, 1)[:, layer.position.long()]


def plain_loss(layer: AdaptiveSoftmax, hidden: torch.Tensor, labels: sp.csr_matrix) -> torch.Tensor:
    target = torch.from_numpy(labels.toarray()).to(hidden)
    target = target / target.sum(1, keepdim=True).clamp(min=1.0)
    return -(target * log_prob(layer, hidden)).sum() / len(hidden)


@pytest.mark.parametrize("keep_bytes", [0, 2**28])
@pytest.mark.parametrize("label_chunk", [1, 7, 1000])
@pytest.mark.parametrize("cutoffs", ["0.1-0.4", "1-2-29", 12])
def test_loss_and_gradients_equal_those_of_all_log_probabilities(
    cutoffs: str, label_chunk: int, keep_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_loss_module, "KEEP_BYTES", keep_bytes)
    labels = labels_of(12)
    layer = build(labels, cutoffs=cutoffs, label_chunk=label_chunk).double()
    hidden = random_hidden(12).detach().double().requires_grad_()
    everything = [hidden, *layer.parameters()]
    for batch in (labels, labels[:1], labels[3:4]):
        rows = hidden[: batch.shape[0]]
        ours, theirs = layer.loss(rows, batch), plain_loss(layer, rows, batch)
        torch.testing.assert_close(ours, theirs)
        mine = torch.autograd.grad(3.0 * ours, everything, allow_unused=True)
        reference = torch.autograd.grad(3.0 * theirs, everything, allow_unused=True)
        for g, r in zip(mine, reference, strict=True):
            # a tail that no point of the batch has a label in gets no gradient at all
            torch.testing.assert_close(torch.zeros_like(r) if g is None else g, r, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shuffled", [False, True])
def test_one_label_a_point_is_the_layer_of_torch(shuffled: bool) -> None:
    """Its labels must be in order of frequency; ours need not be."""
    frequency = np.arange(N_LABELS, 0, -1)
    ids = np.random.default_rng(0).permutation(N_LABELS) if shuffled else np.arange(N_LABELS)
    if shuffled:  # inside a cluster our ids ascend, so let theirs do that too
        ids = np.concatenate([np.sort(ids[:5]), np.sort(ids[5:12]), np.sort(ids[12:])])
    train = np.repeat(ids, frequency)
    labels = sp.csr_matrix((np.ones(len(train), np.float32), train, np.arange(len(train) + 1)), (len(train), N_LABELS))
    layer = build(labels, cutoffs="5-12", div_value=2, bias="zero")
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(HIDDEN, N_LABELS, [5, 12], div_value=2.0, head_bias=True)
    with torch.no_grad():
        theirs.head.weight.copy_(layer.weight)
        theirs.head.bias.copy_(layer.bias.normal_())
        for mine, (down, out) in zip(layer.tails, theirs.tail, strict=True):
            down.weight.copy_(mine.down)
            out.weight.copy_(mine.weight)
    points = np.random.default_rng(1).integers(0, len(train), 40)
    hidden, rank = random_hidden(40), np.argsort(ids)
    found = theirs(hidden, torch.from_numpy(rank[labels.indices[points]]))
    torch.testing.assert_close(layer.loss(hidden, labels[points]), found.loss)
    torch.testing.assert_close(log_prob(layer, hidden)[:, ids], theirs.log_prob(hidden))
    gradients = torch.autograd.grad(layer.loss(hidden, labels[points]), [hidden, layer.weight, layer.tails[1].weight])
    expected = torch.autograd.grad(found.loss, [hidden, theirs.head.weight, theirs.tail[1][1].weight])
    for mine, reference in zip(gradients, expected, strict=True):
        torch.testing.assert_close(mine, reference)


@settings(max_examples=60, deadline=None)
@given(
    n_labels=st.integers(1, 40),
    cutoffs=st.sampled_from(["0.1-0.4", "0.5", "0.05-0.1-0.2-0.9"]),
    k=st.integers(1, 12),
    label_chunk=st.sampled_from([1, 3, 8192]),
    peaked=st.booleans(),
    seed=st.integers(0, 100),
)
def test_topk_is_that_of_all_log_probabilities(
    n_labels: int, cutoffs: str, k: int, label_chunk: int, peaked: bool, seed: int
) -> None:
    """``peaked`` logits let some points leave tails out."""
    layer = build(labels_of(20, n_labels, seed), cutoffs=cutoffs, label_chunk=label_chunk)
    with torch.no_grad():
        hidden = random_hidden(9, seed) * (20.0 if peaked else 1.0)
        scores, labels = layer.topk(hidden, k)
        expected = log_prob(layer, hidden).numpy()
    best = np.argsort(-expected, axis=1, kind="stable")[:, :k]
    known = min(k, n_labels)
    np.testing.assert_allclose(scores[:, :known], np.take_along_axis(expected, best, 1), rtol=1e-5, atol=1e-5)
    chosen = np.take_along_axis(expected, labels[:, :known].astype(np.int64), 1)
    np.testing.assert_allclose(chosen, np.take_along_axis(expected, best, 1), rtol=1e-5, atol=1e-5)
    assert all(len(set(row)) == known for row in labels[:, :known].tolist())
    assert (labels[:, known:] == -1).all()
    assert (scores[:, known:] == -np.inf).all()
    # exact order of the scores themselves, ties by lowest id
    steps = np.diff(scores[:, :known], axis=1)
    assert (steps <= 0).all()
    tied = steps == 0
    assert (np.diff(labels[:, :known], axis=1)[tied] > 0).all()


@pytest.mark.parametrize("label_chunk", [1, 4, 8192])
def test_ties_inside_and_across_clusters_go_to_the_lowest_label(label_chunk: int) -> None:
    """All weights zero: labels of the head and the only label of each tail have log-probability −log 8."""
    counts = [1, 9, 7, 8, 2, 9, 7, 6]  # head: the six most frequent; labels 4 and 0 are the tails
    train = np.repeat(np.arange(8), counts)
    labels = sp.csr_matrix((np.ones(len(train), np.float32), train, np.arange(len(train) + 1)), (len(train), 8))
    layer = build(labels, cutoffs="6-7", bias="zero", label_chunk=label_chunk)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        scores, found = layer.topk(torch.ones(2, HIDDEN), 8)
    assert layer.order.tolist() == [1, 2, 3, 5, 6, 7, 4, 0]
    assert found.tolist() == [list(range(8))] * 2
    assert len(np.unique(scores)) == 1


def test_tails_that_cannot_matter_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = build(labels_of(12), cutoffs="5-12", bias="zero")
    computed = []
    original = AdaptiveSoftmax._best

    def spy(self: AdaptiveSoftmax, c: int, narrow: torch.Tensor, *arguments: object) -> object:
        computed.append((c, len(narrow)))
        return original(self, c, narrow, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(AdaptiveSoftmax, "_best", spy)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.weight[5, 0] = 20.0  # hidden 1 in the first place: the first tail for certain; hidden −1: never
        hidden = torch.zeros(3, HIDDEN)
        hidden[:2, 0], hidden[2, 0] = -1.0, 1.0
        layer.bias[6] = -20.0
        layer.topk(hidden, 3)
    assert computed == [(0, 3), (1, 1)]


def test_only_points_with_a_label_in_a_tail_are_computed_there(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = labels_of(12)
    layer = build(labels, cutoffs="5-12")
    seen = []

    def spy(inputs: torch.Tensor, *arguments: object) -> torch.Tensor:
        seen.append(len(inputs))
        return cluster_loss(inputs, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("baselines.adaptive_softmax.cluster_loss", spy)
    layer.loss(random_hidden(12), labels)
    in_order = labels.toarray()[:, layer.order.numpy()]
    assert seen == [12, in_order[:, 5:12].any(1).sum(), in_order[:, 12:].any(1).sum()]
    assert seen[2] < 12


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 6),
    m=st.integers(1, 9),
    targets=st.integers(0, 12),
    chunk=st.integers(1, 10),
    seed=st.integers(0, 50),
)
def test_loss_of_a_cluster_equals_the_plain_one(n: int, m: int, targets: int, chunk: int, seed: int) -> None:
    """Repeated targets, rows without any."""
    rng = np.random.default_rng(seed)
    inputs, weight, bias = (torch.from_numpy(rng.normal(size=s)).requires_grad_() for s in ((n, 3), (m, 3), (m,)))
    rows, columns = (torch.from_numpy(rng.integers(0, high, targets)) for high in (n, m))
    share = torch.from_numpy(rng.random(targets))
    weighted = WeightedTargets(rows, columns, share)
    ours = cluster_loss(inputs, weight, bias, weighted, chunk)
    theirs = cluster_loss_reference(inputs, weight, bias, weighted)
    torch.testing.assert_close(ours, theirs)
    for mine, reference in zip(
        torch.autograd.grad(2.0 * ours, [inputs, weight, bias]),
        torch.autograd.grad(2.0 * theirs, [inputs, weight, bias]),
        strict=True,
    ):
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("chunk", [3, 7, 100])
def test_all_chunks_of_logits_share_one_buffer(chunk: int) -> None:
    """With a new block a chunk, and small ones between them, the allocator kept 1.2 GB at 600,000 labels."""
    inputs, weight, bias = torch.randn(5, 4), torch.randn(20, 4), torch.randn(20)
    places, parts = set(), []
    for low, logits in logits_of(inputs, weight, bias, chunk):
        assert low == sum(part.shape[1] for part in parts)
        places.add(logits.data_ptr())
        parts.append(logits.clone())
    assert len(places) == 1
    everything = inputs @ weight.T + bias
    torch.testing.assert_close(torch.cat(parts, 1), everything)
    total = normaliser(inputs, weight, bias, chunk)
    torch.testing.assert_close(total, everything.logsumexp(1, keepdim=True))


def test_prior_predicts_train_frequencies() -> None:
    labels = labels_of(50)
    layer = build(labels)
    share = torch.from_numpy(np.bincount(labels.indices, minlength=N_LABELS) + 0.5)
    found = log_prob(layer, torch.zeros(1, HIDDEN)).exp()[0]
    torch.testing.assert_close(found, (share / share.sum()).float())


def test_nan_is_an_error() -> None:
    with pytest.raises(ValueError, match="NaN"), torch.no_grad():
        build(labels_of(9)).topk(torch.full((1, HIDDEN), torch.nan), 1)


def test_the_order_of_labels_is_stored_with_the_model() -> None:
    layer = build(labels_of(50))
    other = build(labels_of(50, seed=1))
    other.load_state_dict(layer.state_dict())
    hidden = random_hidden(5)
    torch.testing.assert_close(log_prob(other, hidden), log_prob(layer, hidden), rtol=0, atol=0)
    assert layer.index_bytes() == 8 * N_LABELS


@settings(max_examples=30, deadline=None)
@given(
    n_labels=st.integers(1, 50),
    cutoffs=st.sampled_from(["0.1-0.4", "0.3", "0.001-0.5-0.999"]),
    div_value=st.sampled_from([1, 2, 4]),
)
def test_declared_parameters_are_the_real_ones(n_labels: int, cutoffs: str, div_value: float) -> None:
    layer = build(labels_of(9, n_labels), cutoffs=cutoffs, div_value=div_value)
    declared = AdaptiveSoftmax.parameter_count(n_labels=n_labels, hidden=HIDDEN, cutoffs=cutoffs, div_value=div_value)
    assert sum(p.numel() for p in layer.parameters()) == declared


def test_cutoffs_are_shares_or_counts() -> None:
    assert cluster_ends(1000, "0.1-0.4") == [100, 400, 1000]
    assert cluster_ends(1000, 20) == [20, 1000]
    assert cluster_ends(1000, "20-50") == [20, 50, 1000]
    assert cluster_ends(2, "0.1-0.4") == [1, 2]
    assert cluster_ends(1, "0.1-0.4") == [1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"cutoffs": "0.4-0.1"},
        {"cutoffs": "5-30"},
        {"cutoffs": "0.5-20"},
        {"cutoffs": "0-5"},
        {"cutoffs": "few"},
        {"div_value": 0.5},
        {"bias": "one"},
        {"label_chunk": -1},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"unknown|at least|expected"):
        build(labels_of(4), **wrong)
