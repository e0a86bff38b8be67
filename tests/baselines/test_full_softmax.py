from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines import full_softmax
from baselines.chunked.linear import chunk_on
from baselines.full_softmax import LOSSES, FullSoftmax, label_prior, linear_topk, loss_reference

SEEDS = {"hashing": 1, "initialisation": 2, "sampling": 3}
HIDDEN = 6


def labels_of(n_points: int, n_labels: int, seed: int = 0, share: float = 0.05) -> sp.csr_matrix:
    dense = np.random.default_rng(seed).random((n_points, n_labels)) < share
    dense[0] = False  # a point without labels
    return sp.csr_matrix(dense.astype(np.float32))


def build(labels: sp.csr_matrix, **settings: object) -> FullSoftmax:
    layer = FullSoftmax(n_labels=labels.shape[1], hidden=HIDDEN, train_labels=labels, seeds=SEEDS, **settings)
    with torch.no_grad():
        layer.bias.add_(torch.randn(len(layer.bias), generator=torch.Generator().manual_seed(5)))
    return layer


def reference_gradients(
    layer: FullSoftmax, hidden: torch.Tensor, labels: sp.csr_matrix, kind: str
) -> tuple[float, list[torch.Tensor]]:
    tensors = [t.detach().double().requires_grad_() for t in (hidden, layer.weight, layer.bias)]
    rows = torch.from_numpy(np.repeat(np.arange(labels.shape[0]), np.diff(labels.indptr)))
    loss = loss_reference(*tensors, rows, torch.from_numpy(labels.indices.astype(np.int64)), kind)
    loss.backward()
    return loss.item(), [t.grad for t in tensors if t.grad is not None]


@pytest.mark.parametrize("keep_bytes", [0, 2**28])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", LOSSES)
@settings(max_examples=20, deadline=None)
@given(
    label_chunk=st.sampled_from([1, 7, 50, 51, 1000]),
    share=st.sampled_from([0.0, 0.05, 0.6, 1.0]),
    scale=st.sampled_from([1.0, 30.0]),
    seed=st.integers(0, 99),
)
def test_chunked_loss_and_gradient_equal_dense(
    kind: str, dtype: torch.dtype, keep_bytes: int, label_chunk: int, share: float, scale: float, seed: int
) -> None:
    """Any chunking, compiled and in plain torch, logits kept and computed twice, points with no label and with all."""
    labels = labels_of(12, 51, seed, share)
    layer = build(labels, loss=kind, label_chunk=label_chunk).to(dtype)
    hidden = scale * torch.randn(12, HIDDEN, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    hidden.requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(full_softmax, "KEEP_BYTES", keep_bytes)
        loss = layer.loss(hidden, labels)
    (2.0 * loss).backward()
    expected_loss, expected = reference_gradients(layer, hidden, labels, kind)
    rtol, atol = (1e-9, 1e-11) if dtype == torch.float64 else (1e-4, 1e-5)
    assert loss.item() == pytest.approx(expected_loss, rel=rtol, abs=1e-6)
    for mine, theirs in zip((hidden.grad, layer.weight.grad, layer.bias.grad), expected, strict=True):
        torch.testing.assert_close(mine.double(), 2.0 * theirs, rtol=rtol, atol=atol)


def test_decoupled_loss_by_hand() -> None:
    """Two positives against two negatives, one point; the other positive does not count."""
    s = torch.tensor([1.0, -0.5, 2.0, 0.3], dtype=torch.float64)
    labels = sp.csr_matrix(np.array([[1, 0, 0, 1]], dtype=np.float32))
    layer = build(labels, loss="decoupled").double()
    with torch.no_grad():
        layer.bias.copy_(s)
    negatives = s[1].exp() + s[2].exp()
    expected = -sum((p.exp() / (p.exp() + negatives)).log() for p in (s[0], s[3])) / 2
    assert layer.loss(torch.zeros(1, HIDDEN, dtype=torch.float64), labels).item() == pytest.approx(expected.item())


def test_a_label_named_twice_counts_once() -> None:
    once = sp.csr_matrix(np.array([[0, 1, 1, 0, 0]], dtype=np.float32))
    twice = sp.csr_matrix((np.ones(3, np.float32), [1, 2, 2], [0, 3]), shape=(1, 5))
    layer, hidden = build(once), torch.randn(1, HIDDEN)
    assert layer.loss(hidden, twice).item() == layer.loss(hidden, once).item()


def test_no_gradients_no_update_and_no_array_of_gradients() -> None:
    """The loss alone is the same; what trains the layer is left alone."""
    labels = labels_of(12, 51)
    layer, hidden = build(labels, label_chunk=9), torch.randn(12, HIDDEN)
    expected = layer.loss(hidden, labels).item()
    layer.update = lambda *_: pytest.fail("updated without training")
    with torch.no_grad():
        assert layer.loss(hidden, labels).item() == expected


@pytest.mark.parametrize("kind", LOSSES)
def test_every_row_is_handed_over_once_with_its_gradient(kind: str) -> None:
    """Updates spoil the rows at once, and hidden still gets its gradient from the old ones."""
    labels = labels_of(12, 51)
    layer = build(labels, loss=kind, label_chunk=9)
    hidden = torch.randn(12, HIDDEN, requires_grad=True)
    _, expected = reference_gradients(layer, hidden, labels, kind)
    found = {name: torch.full(p.shape, torch.nan) for name, p in layer.named_parameters()}

    def update(name: str, rows: slice, gradient: torch.Tensor) -> None:
        assert found[name][rows].isnan().all()
        found[name][rows] = gradient
        getattr(layer, name).data[rows] = 1e9

    layer.update = update
    layer.loss(hidden, labels).backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is None
    for mine, theirs in zip((hidden.grad, found["weight"], found["bias"]), expected, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-6)


def test_a_scaled_loss_cannot_be_updated_in_place() -> None:
    labels = labels_of(12, 51)
    layer = build(labels)
    layer.update = lambda *_: None
    with pytest.raises(RuntimeError, match=r"scaled by 2.0; expected 1"):
        (2.0 * layer.loss(torch.randn(12, HIDDEN, requires_grad=True), labels)).backward()


@pytest.mark.parametrize("kind", LOSSES)
def test_a_logit_that_is_no_number_shows_in_the_loss(kind: str) -> None:
    labels = labels_of(12, 51)
    layer = build(labels, loss=kind, label_chunk=9)
    with torch.no_grad():
        layer.weight[30] = torch.nan
    assert layer.loss(torch.randn(12, HIDDEN), labels).isnan()


@pytest.mark.parametrize("kind", LOSSES)
def test_products_in_bfloat16_are_near(kind: str) -> None:
    labels = labels_of(40, 300)
    layer = build(labels, loss=kind)
    hidden = torch.randn(40, HIDDEN, requires_grad=True)
    _, expected = reference_gradients(layer, hidden, labels, kind)
    layer.precision = "bf16"
    layer.loss(hidden, labels).backward()
    for mine, theirs in zip((hidden.grad, layer.weight.grad, layer.bias.grad), expected, strict=True):
        off = (mine.double() - theirs).abs().max()
        assert 0 < off < 0.02 * theirs.abs().max()


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


def test_topk_of_weights_in_bfloat16() -> None:
    layer = build(labels_of(9, 31), weights="bf16")
    assert layer.weight.dtype == torch.bfloat16
    hidden = torch.randn(5, HIDDEN)
    with torch.no_grad():
        scores, labels = layer.topk(hidden, 4)
        expected = (hidden @ layer.weight.float().T + layer.bias).topk(4)
    np.testing.assert_array_equal(labels, expected.indices)
    np.testing.assert_allclose(scores, expected.values, rtol=1e-5)


def test_nan_scores_are_an_error() -> None:
    with pytest.raises(ValueError, match="NaN"):
        linear_topk(torch.full((1, 2), torch.nan), torch.ones(3, 2), torch.zeros(3), 1)


def test_fewer_labels_than_k_leave_room() -> None:
    _, labels = linear_topk(torch.ones(1, 2), torch.ones(2, 2), torch.zeros(2), 4)
    assert labels.tolist() == [[0, 1, -1, -1]]


@pytest.mark.parametrize("weights", ["fp32", "bf16"])
def test_declared_parameters_are_the_real_ones(weights: str) -> None:
    layer = build(labels_of(9, 31), weights=weights)
    assert sum(p.numel() for p in layer.parameters()) == FullSoftmax.parameter_count(n_labels=31, hidden=HIDDEN)


def test_prior_predicts_train_frequencies() -> None:
    labels = sp.csr_matrix(np.array([[1, 1], [1, 0], [0, 0]], dtype=np.float32))
    torch.testing.assert_close(label_prior(labels, "softmax").softmax(0), torch.tensor([2.5, 1.5]) / 4.0)
    torch.testing.assert_close(label_prior(labels, "bce").sigmoid(), torch.tensor([2.5, 1.5]) / 4.0)


@pytest.mark.parametrize(
    "wrong", [{"loss": "hinge"}, {"loss": "bce"}, {"bias": "one"}, {"label_chunk": -1}, {"weights": "fp8"}]
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"unknown|at least"):
        build(labels_of(4, 9), **wrong)


def test_chunks_suit_the_device() -> None:
    class OnGpu(torch.Tensor):
        is_cuda = True  # type: ignore[assignment]

    hidden = torch.zeros(4096, 1)
    assert chunk_on(hidden, 2048) == 2048
    sizes = [chunk_on(torch.zeros(n, 1).as_subclass(OnGpu), 2048) for n in (0, 1, 1024, 4096, 10**6)]  # type: ignore[attr-defined]
    assert sizes == [65536, 65536, 65536, 16384, 2048]
