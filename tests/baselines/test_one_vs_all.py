from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.one_vs_all import OneVsAll, loss_reference

SEEDS = {"hashing": 1, "initialisation": 2, "sampling": 3}
HIDDEN = 6


def labels_of(n_points: int, n_labels: int, seed: int = 0, share: float = 0.05) -> sp.csr_matrix:
    dense = np.random.default_rng(seed).random((n_points, n_labels)) < share
    dense[0] = False  # a point without labels
    return sp.csr_matrix(dense.astype(np.float32))


def build(labels: sp.csr_matrix, **settings: object) -> OneVsAll:
    return OneVsAll(n_labels=labels.shape[1], hidden=HIDDEN, train_labels=labels, seeds=SEEDS, **settings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("in_place", [False, True])
@settings(max_examples=30, deadline=None)
@given(
    label_chunk=st.sampled_from([1, 7, 50, 51, 1000]),
    share=st.sampled_from([0.0, 0.05, 0.6, 1.0]),
    scale=st.sampled_from([1.0, 30.0]),
    seed=st.integers(0, 99),
)
def test_chunked_loss_and_gradient_equal_dense(
    dtype: torch.dtype, in_place: bool, label_chunk: int, share: float, scale: float, seed: int
) -> None:
    """Any chunking, compiled and in plain torch; gradients handed over row by row or left to autograd."""
    labels = labels_of(12, 51, seed, share)
    layer = build(labels, label_chunk=label_chunk).to(dtype)
    hidden = scale * torch.randn(12, HIDDEN, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    tensors = [t.detach().double().requires_grad_() for t in (hidden, layer.weight, layer.bias)]
    rows = torch.from_numpy(np.repeat(np.arange(12), np.diff(labels.indptr)))
    reference = loss_reference(*tensors, rows, torch.from_numpy(labels.indices.astype(np.int64)))
    reference.backward()

    handed = {name: torch.full(p.shape, torch.nan, dtype=dtype) for name, p in layer.named_parameters()}
    if in_place:
        layer.update = lambda name, chunk, gradient: handed[name][chunk].copy_(gradient)
    hidden.requires_grad_()
    loss = layer.loss(hidden, labels)
    loss.backward()
    assert (layer.weight.grad is None) == in_place
    found = [hidden.grad, *(handed.values() if in_place else (layer.weight.grad, layer.bias.grad))]
    rtol, atol = (1e-9, 1e-11) if dtype == torch.float64 else (1e-4, 1e-5)
    assert loss.item() == pytest.approx(reference.item(), rel=rtol)
    for mine, theirs in zip(found, tensors, strict=True):
        torch.testing.assert_close(mine.double(), theirs.grad, rtol=rtol, atol=atol)


def test_no_gradients_no_update() -> None:
    labels = labels_of(12, 51)
    layer, hidden = build(labels, label_chunk=9), torch.randn(12, HIDDEN)
    expected = layer.loss(hidden, labels).item()
    layer.update = lambda *_: pytest.fail("updated without training")
    with torch.no_grad():
        assert layer.loss(hidden, labels).item() == expected


def test_bias_starts_at_the_log_odds() -> None:
    """A label in 2 of 3 points and one in 1 of 3, each with half a point more on both sides."""
    labels = sp.csr_matrix(np.array([[1, 1], [1, 0], [0, 0]], dtype=np.float32))
    torch.testing.assert_close(build(labels).bias.detach(), torch.tensor([2.5 / 1.5, 1.5 / 2.5]).log())
    assert (build(labels, bias="zero").bias == 0).all()


def test_a_logit_that_is_no_number_shows_in_the_loss() -> None:
    labels = labels_of(12, 51)
    layer = build(labels, label_chunk=9)
    with torch.no_grad():
        layer.weight[30] = torch.nan
    assert layer.loss(torch.randn(12, HIDDEN), labels).isnan()


def test_products_in_bfloat16_are_near() -> None:
    labels = labels_of(40, 300)
    layer = build(labels)
    gradients = []
    for precision in ("fp32", "bf16"):
        layer.precision = precision
        layer.zero_grad()
        layer.loss(torch.ones(40, HIDDEN) / 3, labels).backward()
        gradients.append(layer.weight.grad.clone())
    off = (gradients[0] - gradients[1]).abs().max()
    assert 0 < off < 0.02 * gradients[0].abs().max()


def test_declared_parameters_are_the_real_ones() -> None:
    layer = build(labels_of(9, 31))
    assert sum(p.numel() for p in layer.parameters()) == OneVsAll.parameter_count(n_labels=31, hidden=HIDDEN)


@pytest.mark.parametrize("wrong", [{"bias": "one"}, {"label_chunk": -1}, {"weights": "fp8"}])
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"unknown|at least"):
        build(labels_of(4, 9), **wrong)
