from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bench.network import Encoder, FeatureBag
from bench.optim import Optimiser, RowSparseAdam, _update_numba, _update_torch, row_sparse_parameters


def bag(n_features: int, width: int, seeds: list[int]) -> FeatureBag:
    return FeatureBag(n_features, width, [torch.Generator().manual_seed(s) for s in seeds])


@settings(max_examples=40, deadline=None)
@given(
    n_points=st.integers(1, 20),
    n_features=st.integers(1, 30),
    width=st.sampled_from([1, 5, 130]),
    groups=st.integers(1, 3),
    density=st.sampled_from([0.0, 0.1, 0.9]),
    seed=st.integers(0, 100),
)
def test_bag_equals_embedding_bag(
    n_points: int, n_features: int, width: int, groups: int, density: float, seed: int
) -> None:
    """Output and gradient against torch's own EmbeddingBag; rows without features included."""
    X = sp.random(n_points, n_features, density, format="csr", random_state=seed, dtype=np.float32)
    ours = bag(n_features, width, list(range(groups)))
    reference = nn.EmbeddingBag.from_pretrained(
        ours.table.detach().clone(), freeze=False, mode="sum", sparse=True, include_last_offset=True
    )
    out = ours(X)
    indices, offsets = (torch.from_numpy(a.astype(np.int64)) for a in (X.indices, X.indptr))
    expected = reference(indices, offsets, per_sample_weights=torch.from_numpy(X.data))
    assert out.shape == (groups, n_points, width)
    for g in range(groups):
        torch.testing.assert_close(out[g], expected[:, g * width : (g + 1) * width], rtol=1e-5, atol=1e-6)
    pull = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
    (out.transpose(0, 1).reshape(n_points, -1) * pull).sum().backward()
    (expected * pull).sum().backward()
    torch.testing.assert_close(ours.table.grad.to_dense(), reference.weight.grad.to_dense(), rtol=1e-4, atol=1e-5)


def test_encoders_do_not_depend_on_their_company() -> None:
    X = sp.random(7, 20, 0.3, format="csr", random_state=0, dtype=np.float32)
    together = Encoder(20, [8, 4], [11, 12, 13])(X)
    alone = Encoder(20, [8, 4], [12])(X)
    torch.testing.assert_close(together[1:2], alone)
    assert together.shape == (3, 7, 4)


def test_deeper_trunk_equals_plain_torch() -> None:
    X = sp.random(5, 20, 0.3, format="csr", random_state=1, dtype=np.float32)
    encoder = Encoder(20, [8, 6, 4], [3])
    hidden = torch.from_numpy(X.toarray()) @ encoder.bag.table + encoder.bag.bias[0]
    for weight, bias in zip(encoder.weights, encoder.biases, strict=True):
        hidden = hidden.relu() @ weight[0] + bias[0]
    torch.testing.assert_close(encoder(X)[0], hidden.relu(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("duplicates", [False, True])
def test_row_sparse_adam_equals_torch_sparse_adam(duplicates: bool) -> None:
    ours = nn.Parameter(torch.randn(9, 4, generator=torch.Generator().manual_seed(0)))
    theirs = nn.Parameter(ours.detach().clone())
    mine, reference = RowSparseAdam([ours], lr=0.05), torch.optim.SparseAdam([theirs], lr=0.05)
    generator = torch.Generator().manual_seed(1)
    for step in range(6):
        rows = torch.tensor([step % 9, (step * 2 + 3) % 9, step % 9 if duplicates else (step + 5) % 9])
        if not duplicates:
            rows = rows.unique()
        values = torch.randn(len(rows), 4, generator=generator)
        for parameter in (ours, theirs):
            parameter.grad = torch.sparse_coo_tensor(rows[None], values.clone(), (9, 4), check_invariants=True)
        mine.step()
        reference.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_rows_without_gradient_do_not_move() -> None:
    parameter = nn.Parameter(torch.ones(5, 2))
    optimiser = RowSparseAdam([parameter], lr=0.1)
    for rows in ([1], [3]):
        parameter.grad = torch.sparse_coo_tensor(torch.tensor([rows]), torch.ones(1, 2), (5, 2), check_invariants=True)
        optimiser.step()
    assert (parameter[[0, 2, 4]] == 1.0).all()
    assert (parameter[[1, 3]] < 1.0).all()


def test_optimiser_splits_by_row_sparsity_and_scales_the_rate() -> None:
    encoder = Encoder(10, [4, 3], [0])
    optimiser = Optimiser(encoder, lr=0.2)
    assert [p is encoder.bag.table for p in row_sparse_parameters(encoder)] == [True]
    counts = [sum(len(group["params"]) for group in part.param_groups) for part in optimiser.parts]
    assert sum(counts) == len(list(encoder.parameters()))
    optimiser.scale_lr(0.25)
    assert {group["lr"] for part in optimiser.parts for group in part.param_groups} == {0.05}


def test_the_update_for_gpus_equals_the_compiled_one() -> None:
    """Both work on the same tensors here; the torch form is the one a GPU gets."""
    generator = torch.Generator().manual_seed(3)
    start = [torch.rand(7, 3, generator=generator) for _ in range(3)]
    rows, values = torch.tensor([5, 0, 2]), torch.randn(3, 3, generator=generator)
    ours, theirs = ([t.clone() for t in start] for _ in range(2))
    _update_numba(*ours, rows, values, 0.1, 0.9, 0.999, 1e-8)
    _update_torch(*theirs, rows, values, 0.1, 0.9, 0.999, 1e-8)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-6)
    assert not torch.equal(ours[0], start[0])
