from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mach.layer import loss as module
from mach.layer.loss import LOSSES, LossSettings, Targets, bucket_loss_reference, bucket_losses


def sparse_labels(n_points: int, n_labels: int, seed: int) -> sp.csr_matrix:
    rng = np.random.default_rng(seed)
    dense = rng.random((n_points, n_labels)) < 0.2
    dense[0] = False  # a point without labels
    return sp.csr_matrix(dense.astype(np.float32))


def tensors(G: int, N: int, H: int, B: int, dtype: torch.dtype, seed: int = 1, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(G, N, H), (G, H, B), (G, B)]
    return [(torch.randn(*shape, dtype=dtype, generator=generator) * scale).requires_grad_() for shape in shapes]


def reference(hidden: Tensor, kernel: Tensor, bias: Tensor, targets: Targets, kind: str) -> Tensor:
    each = [bucket_loss_reference(h, kernel[g], bias[g], *targets.pairs(g), kind) for g, h in enumerate(hidden)]
    return torch.stack(each).sum()


def test_targets_are_the_or_of_the_labels() -> None:
    """Two labels of a point in one bucket make one target, in each repetition by its own hash."""
    labels = sp.csr_matrix(np.array([[1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 1, 1]], dtype=np.float32))
    targets = Targets.of(labels, np.array([[5, 2, 5, 0], [1, 1, 1, 1]], dtype=np.uint16), 6)
    pairs = [sorted(zip(*(side.tolist() for side in targets.pairs(g)), strict=True)) for g in range(2)]
    assert pairs == [[(0, 2), (0, 5), (2, 0), (2, 5)], [(0, 1), (2, 1)]]


def test_targets_of_a_row_slice() -> None:
    """Slices of a larger matrix, as batches are."""
    labels = sparse_labels(30, 12, 0)
    lookup = np.stack([np.arange(12) % 4, np.arange(12) // 4])
    targets = Targets.of(labels[7:19], lookup, 4)
    for g in range(2):
        dense = np.zeros((12, 4))
        np.add.at(dense, tuple(side.numpy() for side in targets.pairs(g)), 1)
        expected = np.stack([labels[7:19].toarray()[:, lookup[g] == b].any(1) for b in range(4)], axis=1)
        np.testing.assert_array_equal(dense, expected)


@settings(max_examples=40, deadline=None)
@given(
    G=st.integers(1, 3),
    N=st.sampled_from([1, 2, 17]),
    H=st.sampled_from([1, 6]),
    B=st.sampled_from([1, 9, 40]),
    kind=st.sampled_from(LOSSES),
    scale=st.sampled_from([0.1, 1.0, 5.0]),
    seed=st.integers(0, 50),
)
def test_loss_and_gradient_equal_autograd(G: int, N: int, H: int, B: int, kind: str, scale: float, seed: int) -> None:
    """The compiled path; many labels collide, points without labels, one bucket, one point."""
    lookup = np.random.default_rng(seed).integers(0, B, (G, 30))
    targets = Targets.of(sparse_labels(N, 30, seed), lookup, B)
    ours, theirs = tensors(G, N, H, B, torch.float32, seed, scale), tensors(G, N, H, B, torch.float32, seed, scale)
    loss, expected = bucket_losses(*ours, targets, LossSettings(kind)), reference(*theirs, targets, kind)
    (3.0 * loss).backward()
    (3.0 * expected).backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-5)
    for mine, right in zip(ours, theirs, strict=True):
        assert mine.grad is not None
        assert right.grad is not None
        tolerance = 1e-5 * max(1.0, right.grad.abs().max().item())
        torch.testing.assert_close(mine.grad, right.grad, rtol=1e-5, atol=tolerance)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("block", [1, 2**30])
def test_batched_products_equal_autograd(kind: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path that GPUs take, in double precision, repetition by repetition and all at once."""
    monkeypatch.setattr(module, "BLOCK_BYTES", block)
    targets = Targets.of(sparse_labels(16, 40, 1), np.random.default_rng(0).integers(0, 9, (3, 40)), 9)
    ours, theirs = tensors(3, 16, 6, 9, torch.float64), tensors(3, 16, 6, 9, torch.float64)
    loss, expected = bucket_losses(*ours, targets, LossSettings(kind)), reference(*theirs, targets, kind)
    (3.0 * loss).backward()
    (3.0 * expected).backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-10)
    for mine, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, right.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", LOSSES)
def test_large_logits_stay_finite(kind: str) -> None:
    for dtype in (torch.float32, torch.float64):
        hidden = torch.full((1, 2, 3), 200.0, dtype=dtype, requires_grad=True)
        kernel = torch.tensor([1.0, -1.0], dtype=dtype).expand(1, 3, 2).clone().requires_grad_()
        targets = Targets.of(sp.csr_matrix(np.array([[0, 1], [1, 0]])), np.array([[0, 1]]), 2)
        loss = bucket_losses(hidden, kernel, torch.zeros(1, 2, dtype=dtype), targets, LossSettings(kind))
        loss.backward()
        assert loss.item() == pytest.approx(600.0)
        assert kernel.grad is not None
        assert torch.isfinite(kernel.grad).all()


@pytest.mark.parametrize("kind", LOSSES)
def test_a_logit_that_is_no_number_shows_in_the_loss(kind: str) -> None:
    """Fast arithmetic must not hide what ends a run."""
    targets = Targets.of(sparse_labels(4, 10, 0), np.arange(10)[None] % 5, 5)
    for at in range(5):
        hidden, kernel, bias = tensors(1, 4, 3, 5, torch.float32)
        with torch.no_grad():
            bias[0, at] = torch.nan
        assert bucket_losses(hidden, kernel, bias, targets, LossSettings(kind)).isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["compiled", "batched"])
@pytest.mark.parametrize("kind", LOSSES)
def test_bf16_is_near_single_precision(kind: str, dtype: torch.dtype) -> None:
    """On any CPU: without the instructions torch emulates them."""
    targets = Targets.of(sparse_labels(32, 40, 1), np.random.default_rng(0).integers(0, 9, (2, 40)), 9)
    ours, theirs = tensors(2, 32, 16, 9, dtype), tensors(2, 32, 16, 9, dtype)
    loss, expected = (
        bucket_losses(*ours, targets, LossSettings(kind, "bf16")),
        bucket_losses(*theirs, targets, LossSettings(kind)),
    )
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=0.01)
    assert loss.item() != expected.item()
    for mine, right in zip(ours, theirs, strict=True):
        assert mine.grad is not None
        assert right.grad is not None
        assert mine.grad.dtype == dtype
        assert (mine.grad - right.grad).norm() < 0.02 * right.grad.norm()


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("G", [1, 2, 5])
def test_threads_do_not_change_the_result(kind: str, G: int) -> None:
    """Repetitions a thread each, all threads on one repetition, or one thread for all."""
    targets = Targets.of(sparse_labels(33, 40, 1), np.random.default_rng(0).integers(0, 9, (G, 40)), 9)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            mine = tensors(G, 33, 6, 9, torch.float32)
            loss = bucket_losses(*mine, targets, LossSettings(kind))
            loss.backward()
            assert torch.get_num_threads() == threads
            found.append([loss.detach(), *(t.grad for t in mine)])
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        for a, b in zip(others, found[0], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
