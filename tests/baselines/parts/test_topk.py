"""Running top-k over tiles of scores: on the host, and as GPUs do it, against a stable sort of all scores."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from baselines.parts import topk
from baselines.parts.topk import DeviceTopK, RunningTopK, top_k_of_tiles
from mach.kernels.excluded import Excluded

BOTH = pytest.mark.parametrize("kind", ["host", "device"])
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")


def made(kind: str, n_points: int, k: int, excluded: Excluded | None = None) -> RunningTopK | DeviceTopK:
    if kind == "host":
        return RunningTopK(n_points, k, excluded)
    return DeviceTopK(n_points, k, torch.device("cpu"), excluded)


def plainly(scores: Tensor, k: int) -> topk.Ranking:
    """A stable sort, padded with what stands for no label."""
    n_points, kept = len(scores), min(k, scores.shape[1])
    best, labels = np.full((n_points, k), -np.inf, np.float32), np.full((n_points, k), -1, np.int32)
    order = np.argsort(-scores.numpy(), axis=1, kind="stable")[:, :kept]
    best[:, :kept], labels[:, :kept] = np.take_along_axis(scores.numpy(), order, 1), order
    return best, labels


@BOTH
@settings(max_examples=80, deadline=None)
@given(
    n_points=st.integers(0, 6),
    n_labels=st.integers(0, 60),
    width=st.integers(1, 61),
    k=st.integers(1, 12),
    levels=st.sampled_from([1, 2, 5, 10_000]),
    seed=st.integers(0, 2**31),
)
def test_tiles_rank_as_a_stable_sort_does(
    kind: str, n_points: int, n_labels: int, width: int, k: int, levels: int, seed: int
) -> None:
    """Few levels: ties within the list, at its end, and between tiles."""
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy((rng.integers(-levels, levels, (n_points, n_labels)) / 3).astype(np.float32))
    best = made(kind, n_points, k)
    for low in range(0, n_labels, width):
        best.feed(scores[:, low : low + width], low)
    for found, expected in zip(best.ranking(), plainly(scores, k), strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype


@BOTH
@settings(max_examples=80, deadline=None)
@given(
    n_points=st.integers(0, 6),
    n_labels=st.integers(1, 60),
    width=st.integers(1, 61),
    k=st.integers(1, 12),
    levels=st.sampled_from([1, 2, 10_000]),
    share=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_labels_that_a_point_may_not_get_are_in_no_list(
    kind: str, n_points: int, n_labels: int, width: int, k: int, levels: int, share: float, seed: int
) -> None:
    """Against a stable sort of the scores of the other labels."""
    rng = np.random.default_rng(seed)
    scores = (rng.integers(-levels, levels, (n_points, n_labels)) / 3).astype(np.float32)
    chosen = rng.random((n_points, n_labels)) < share
    chosen[::4] = False
    best = made(kind, n_points, k, Excluded.of(sp.csr_matrix(chosen), n_points, n_labels))
    for low in range(0, n_labels, width):
        best.feed(torch.from_numpy(scores[:, low : low + width].copy()), low)
    expected, ids = plainly(torch.from_numpy(np.where(chosen, -np.inf, scores)), k)
    ids[np.isneginf(expected)] = -1
    for found, right in zip(best.ranking(), (expected, ids), strict=True):
        np.testing.assert_array_equal(found, right)
        assert found.dtype == right.dtype


def test_ties_at_the_end_of_the_list_are_found_whatever_topk_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """More tied rows than are sorted at a time, and a top-k that prefers high labels."""
    plain = torch.Tensor.topk

    def highest_labels(tile: Tensor, k: int, dim: int) -> tuple[Tensor, Tensor]:
        scores, places = plain(tile.flip(1), k, dim=dim)
        ties = torch.argsort(tile.flip(1), dim=1, descending=True, stable=True)[:, :k]
        del places
        return scores, tile.shape[1] - 1 - ties

    monkeypatch.setattr(torch.Tensor, "topk", highest_labels)
    monkeypatch.setattr(topk, "TIED_ROWS", 2)
    scores = torch.tensor([[1.0, 3.0, 3.0, 3.0, 2.0]]).repeat(5, 1)
    best = DeviceTopK(5, 2, torch.device("cpu"))
    best.feed(scores, 0)
    assert best.ranking()[1].tolist() == [[1, 2]] * 5


@BOTH
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_are_not_finite_are_an_error(kind: str, wrong: float) -> None:
    best = made(kind, 2, 1)

    def feed() -> None:
        best.feed(torch.tensor([[0.0, 5.0], [wrong, 1.0]]), 0)
        best.feed(torch.tensor([[9.0], [9.0]]), 2)
        best.ranking()

    with pytest.raises(ValueError, match="NaN or infinite"):
        feed()


def test_no_tiles_leave_room() -> None:
    scores, labels = top_k_of_tiles(iter(()), 2, 3)
    assert labels.tolist() == [[-1] * 3] * 2
    assert np.isneginf(scores).all()


@needs_gpu
def test_a_gpu_ranks_where_the_scores_are() -> None:
    scores = (torch.arange(3000).view(3, 1000) * 7919 % 50).float()
    tiles = ((low, scores[:, low : low + 300].cuda()) for low in range(0, 1000, 300))
    for found, expected in zip(top_k_of_tiles(tiles, 3, 40), plainly(scores, 40), strict=True):
        np.testing.assert_array_equal(found, expected)
