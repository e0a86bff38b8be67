from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bench.model.feature_bag import FeatureBag
from bench.model.network import Encoder


def bag(n_features: int, width: int, groups: int, lookup: np.ndarray | None = None, n_hashed: int = 0) -> FeatureBag:
    generators = [torch.Generator().manual_seed(s) for s in range(groups)]
    return FeatureBag(n_features, width, generators, lookup, n_hashed)


def points(n_points: int, n_features: int, density: float, seed: int) -> sp.csr_matrix:
    return sp.random(n_points, n_features, density, format="csr", random_state=seed, dtype=np.float32)


SHAPES = {
    "n_points": st.integers(1, 20),
    "n_features": st.integers(1, 30),
    "width": st.sampled_from([1, 5, 130]),
    "groups": st.integers(1, 3),
    "density": st.sampled_from([0.0, 0.1, 0.9]),
    "seed": st.integers(0, 100),
}


@settings(max_examples=40, deadline=None)
@given(**SHAPES)
def test_bag_equals_embedding_bag(
    n_points: int, n_features: int, width: int, groups: int, density: float, seed: int
) -> None:
    """Output and gradient against torch's own EmbeddingBag; rows without features included."""
    X = points(n_points, n_features, density, seed)
    ours = bag(n_features, width, groups)
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
    (gradient,) = ours.gradients
    assert ours.table.grad is None
    found = gradient.to_sparse(n_features).to_dense()
    torch.testing.assert_close(found, reference.weight.grad.to_dense(), rtol=1e-4, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(n_hashed=st.sampled_from([1, 4, 50]), **SHAPES)
def test_hashed_bag_equals_the_product_with_the_hashing_matrix(
    n_hashed: int, n_points: int, n_features: int, width: int, groups: int, density: float, seed: int
) -> None:
    """Each encoder's output is X · (one-hot hashing matrix) · (its table); its gradient is the transposed product."""
    X = points(n_points, n_features, density, seed)
    lookup = np.random.default_rng(seed).integers(0, n_hashed, (groups, n_features)).astype(np.uint16)
    ours = bag(n_features, width, groups, lookup, n_hashed)
    assert ours.table.shape == (groups * n_hashed, width)
    out = ours(X)
    pull = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
    (out * pull).sum().backward()
    tables = ours.table.detach().numpy().reshape(groups, n_hashed, width)
    gradients = [gradient.to_sparse(groups * n_hashed).to_dense().numpy() for gradient in ours.gradients]
    for g in range(groups):
        matrix = sp.csr_matrix((np.ones(n_features), (np.arange(n_features), lookup[g])), shape=(n_features, n_hashed))
        hashed = X @ matrix
        np.testing.assert_allclose(out[g].detach().numpy(), hashed @ tables[g], rtol=1e-4, atol=1e-5)
        expected = np.zeros((groups, n_hashed, width))
        expected[g] = hashed.T @ pull[g].numpy()
        np.testing.assert_allclose(gradients[g], expected.reshape(-1, width), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("hashed", [False, True])
def test_the_operator_for_gpus_equals_the_compiled_one(hashed: bool) -> None:
    """Output and gradient, on tensors of the host."""
    X = points(9, 20, 0.3, 0)[2:8]
    lookup = np.random.default_rng(0).integers(0, 5, (2, 20)) if hashed else None
    ours = bag(20, 3, 2, lookup, 5)
    indices = ours._rows_of_table(X.indices)
    theirs = ours._torch_bag(X, indices)
    mine = ours(X)
    blocks = theirs if hashed else theirs.view(6, 2, 3).transpose(0, 1)
    torch.testing.assert_close(blocks, mine, rtol=1e-5, atol=1e-6)
    pull = torch.randn(mine.shape)
    (blocks * pull).sum().backward()
    (mine * pull).sum().backward()
    added = sum(gradient.to_sparse(len(ours.table)).to_dense() for gradient in ours.gradients)
    assert ours.table.grad is not None
    torch.testing.assert_close(ours.table.grad.to_dense(), added, rtol=1e-4, atol=1e-5)


def test_encoders_do_not_depend_on_their_company() -> None:
    X = points(7, 20, 0.3, 0)
    together = Encoder(20, [8, 4], [11, 12, 13])(X)
    alone = Encoder(20, [8, 4], [12])(X)
    torch.testing.assert_close(together[1:2], alone)
    assert together.shape == (3, 7, 4)


def test_hashed_encoders_do_not_depend_on_their_company() -> None:
    X, lookup = points(7, 20, 0.3, 0), np.random.default_rng(0).integers(0, 6, (3, 20))
    together = Encoder(20, [8, 4], [11, 12, 13], lookup, 6)(X)
    alone = Encoder(20, [8, 4], [12], lookup[1:2], 6)(X)
    torch.testing.assert_close(together[1:2], alone)


def test_deeper_trunk_equals_plain_torch() -> None:
    X = points(5, 20, 0.3, 1)
    encoder = Encoder(20, [8, 6, 4], [3])
    hidden = torch.from_numpy(X.toarray()) @ encoder.bag.table + encoder.bag.bias[0]
    for weight, bias in zip(encoder.weights, encoder.biases, strict=True):
        hidden = hidden.relu() @ weight[0] + bias[0]
    torch.testing.assert_close(encoder(X)[0], hidden.relu(), rtol=1e-4, atol=1e-5)
