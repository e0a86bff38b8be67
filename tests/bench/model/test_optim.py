from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bench.model import optim
from bench.model.built_method import row_sparse_parameters
from bench.model.feature_bag import FeatureBag
from bench.model.network import Encoder
from bench.model.optim import AdamStep, Optimiser, RowSparseAdam, RowwiseAdagrad
from bench.model.row_kernels import chunks_of


def bag(n_features: int, width: int, groups: int, lookup: np.ndarray | None = None, n_hashed: int = 0) -> FeatureBag:
    generators = [torch.Generator().manual_seed(s) for s in range(groups)]
    return FeatureBag(n_features, width, generators, lookup, n_hashed)


def points(n_points: int, n_features: int, density: float, seed: int) -> sp.csr_matrix:
    return sp.random(n_points, n_features, density, format="csr", random_state=seed, dtype=np.float32)


def rowwise_adagrad_reference(weight: Tensor, square: Tensor, gradient: Tensor, lr: float, eps: float = 1e-10) -> None:
    """Plain loops over the rows that have a gradient [n_rows, G·H]; square [n_rows, G]."""
    groups = square.shape[1]
    for row in gradient.abs().sum(1).nonzero()[:, 0].tolist():
        for g, mine in enumerate(gradient[row].chunk(groups)):
            square[row, g] += mine.square().mean()
            weight[row].chunk(groups)[g].sub_(lr * mine / (square[row, g].sqrt() + eps))


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("duplicates", [False, True])
@pytest.mark.parametrize(
    ("make", "make_reference", "width"),
    [
        (lambda p: RowSparseAdam([p], lr=0.05), lambda p: torch.optim.SparseAdam([p], lr=0.05), 4),
        (lambda p: RowwiseAdagrad([p], lr=0.05), lambda p: torch.optim.Adagrad([p], lr=0.05), 1),
    ],
    ids=["adam", "adagrad"],
)
def test_sparse_gradients_update_as_torch_does(
    make: Callable[..., torch.optim.Optimizer],
    make_reference: Callable[..., torch.optim.Optimizer],
    width: int,
    duplicates: bool,
) -> None:
    """Rows of one column have an accumulator for each weight: that is Adagrad."""
    ours = nn.Parameter(torch.randn(9, width, generator=torch.Generator().manual_seed(0)))
    theirs = nn.Parameter(ours.detach().clone())
    mine, reference = make(ours), make_reference(theirs)
    generator = torch.Generator().manual_seed(1)
    for step in range(6):
        rows = torch.tensor([step % 9, (step * 2 + 3) % 9, step % 9 if duplicates else (step + 5) % 9])
        if not duplicates:
            rows = rows.unique()
        values = torch.randn(len(rows), width, generator=generator)
        for parameter in (ours, theirs):
            parameter.grad = torch.sparse_coo_tensor(rows[None], values.clone(), (9, width), check_invariants=True)
        mine.step()
        reference.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    width=st.sampled_from([1, 5, 130]),
    groups=st.integers(1, 3),
    hashed=st.booleans(),
    density=st.sampled_from([0.0, 0.2, 0.9]),
    strip=st.sampled_from([1, 7, 1024]),
    kind=st.sampled_from(["adam", "rowwise_adagrad"]),
    seed=st.integers(0, 50),
)
def test_updates_fused_with_the_bag_equal_those_of_its_gradient(
    width: int, groups: int, hashed: bool, density: float, strip: int, kind: str, seed: int
) -> None:
    """Several steps; SparseAdam of torch, and the plain row-wise Adagrad, get the gradient added up.

    Features and gradients are multiples of 1/16 and 1/8, so that sums are exact in any order: Adam divides by the size
    of a gradient, and would enlarge what rounding leaves of terms that cancel.
    """
    lookup = np.random.default_rng(seed).integers(0, 6, (groups, 25)) if hashed else None
    ours = bag(25, width, groups, lookup, 6)
    theirs = nn.Parameter(ours.table.detach().clone())
    square = torch.zeros(len(theirs), 1 if hashed else groups)
    optimiser, reference = Optimiser(ours, 0.05, kind), torch.optim.SparseAdam([theirs], lr=0.05)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optim, "STRIP", strip)
        for step in range(3):
            optimiser.zero_grad()
            X = points(8, 25, density, seed + step)
            X.data = np.ceil(X.data * 16) / 16
            out = ours(X)
            pull = torch.randint(-16, 17, out.shape, generator=torch.Generator().manual_seed(step)) / 8
            (out * pull).sum().backward()
            parts = [gradient.to_sparse(len(theirs)) for gradient in ours.gradients]
            gradient = torch.stack(parts).sum(0).coalesce()
            optimiser.step()
            if kind == "adam":
                theirs.grad = gradient
                reference.step()
            else:
                rowwise_adagrad_reference(theirs.detach(), square, gradient.to_dense(), 0.05)
    torch.testing.assert_close(ours.table, theirs, rtol=1e-4, atol=1e-5)
    assert ours.gradients == []


@pytest.mark.parametrize("kind", ["adam", "rowwise_adagrad"])
def test_encoders_sharing_a_table_train_as_if_alone(kind: str) -> None:
    """Group of three beside each by itself: same rows, same accumulators."""
    together = bag(25, 5, 3)
    alone = [FeatureBag(25, 5, [torch.Generator().manual_seed(g)]) for g in range(3)]
    optimisers = [Optimiser(module, 0.05, kind) for module in (together, *alone)]
    for step in range(4):
        X, pull = points(8, 25, 0.2, step), torch.randn(3, 8, 5)
        for optimiser in optimisers:
            optimiser.zero_grad()
        (together(X) * pull).sum().backward()
        for g, module in enumerate(alone):
            (module(X) * pull[g : g + 1]).sum().backward()
        for optimiser in optimisers:
            optimiser.step()
    torch.testing.assert_close(together.table, torch.cat([module.table for module in alone], 1), rtol=1e-6, atol=1e-7)


def test_rows_without_gradient_do_not_move() -> None:
    for make in (RowSparseAdam, RowwiseAdagrad):
        parameter = nn.Parameter(torch.ones(5, 2))
        optimiser = make([parameter], lr=0.1)
        for rows in ([1], [3]):
            values = torch.ones(1, 2)
            parameter.grad = torch.sparse_coo_tensor(torch.tensor([rows]), values, (5, 2), check_invariants=True)
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


def test_zero_grad_forgets_the_gradient_of_a_bag() -> None:
    encoder = Encoder(20, [4], [0])
    optimiser = Optimiser(encoder, lr=0.1)
    encoder(points(4, 20, 0.5, 0)).sum().backward()
    assert encoder.bag.gradients
    before = encoder.bag.table.detach().clone()
    optimiser.zero_grad()
    optimiser.step()
    torch.testing.assert_close(encoder.bag.table, before, rtol=0, atol=0)


def test_the_updates_for_gpus_equal_the_compiled_ones() -> None:
    """Both work on the same tensors here; the torch form is the one a GPU gets."""
    generator = torch.Generator().manual_seed(3)
    start = [torch.rand(7, 6, generator=generator) for _ in range(3)]
    rows, values = torch.tensor([5, 0, 2]), torch.randn(3, 6, generator=generator)
    ours, theirs = ([t.clone() for t in start] for _ in range(2))
    numbers = [np.float32(x) for x in (0.1, 0.9, 0.999, 0.1, 0.001, 1e-8)]
    optim.adam_rows(*(t.numpy() for t in (*ours, rows, values)), *numbers)
    optim._adam_torch(*theirs, rows, values, AdamStep(*map(float, numbers)))
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-6)
    assert not torch.equal(ours[0], start[0])

    ours, theirs = ([start[0].clone(), start[1][:, :2].clone()] for _ in range(2))
    optim.adagrad_rows(*(t.numpy() for t in (*ours, rows, values)), np.float32(0.1), np.float32(1e-10))
    optim._adagrad_torch(*theirs, rows, values, 0.1, 1e-10)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-6)
    assert not torch.equal(ours[0], start[0])


@given(counts=st.lists(st.integers(1, 50), max_size=30), parts=st.integers(1, 9))
def test_chunks_cover_every_row_once(counts: list[int], parts: int) -> None:
    bounds = chunks_of(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), parts)
    assert len(bounds) == parts + 1
    assert (bounds[0], bounds[-1]) == (0, len(counts))
    assert (np.diff(bounds) >= 0).all()
