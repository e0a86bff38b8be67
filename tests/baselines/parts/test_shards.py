"""Labels divided over processes against the layer that has all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import shard_pool
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from shard_pool import HIDDEN, KINDS, Pool, labels_of

from baselines.chunked.linear import uniform_rows
from baselines.full_softmax import FullSoftmax
from baselines.parts.shards import Shards
from baselines.parts.topk import merge_topk

SIZE = 3


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    started = Pool(SIZE, tmp_path_factory.mktemp("stores"))
    yield started
    started.close()


def assert_same_bits(arrays: list[np.ndarray]) -> None:
    for other in arrays[1:]:
        assert other.tobytes() == arrays[0].tobytes()


def together(parts: list[list[Any]], at: int) -> np.ndarray:
    return np.concatenate([part[at] for part in parts])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(
    shards=st.sampled_from([2, 3]),
    n_points=st.sampled_from([1, 2, 12]),
    n_labels=st.integers(3, 52),
    label_chunk=st.sampled_from([1, 7, 1000]),
    share=st.sampled_from([0.0, 0.05, 0.6, 1.0]),
    scale=st.sampled_from([1.0, 30.0]),
    seed=st.integers(0, 99),
)
@example(shards=2, n_points=1, n_labels=22, label_chunk=1000, share=0.0, scale=30.0, seed=24)
def test_loss_and_gradients_equal_the_undivided(
    pool: Pool,
    kind: str,
    dtype: str,
    shards: int,
    n_points: int,
    n_labels: int,
    label_chunk: int,
    share: float,
    scale: float,
    seed: int,
) -> None:
    """Loss and hidden's gradient bit for bit the same in all processes; positives of a point lie in several shards."""
    labels = labels_of(n_points, n_labels, share, seed)
    expected = shard_pool.gradients(kind, labels, seed, dtype, scale, label_chunk=label_chunk)
    arguments = (kind, labels, seed, dtype, scale)
    parts = pool.ask(shards, with_settings, "gradients", arguments, {"label_chunk": label_chunk, "shards": shards})
    for at in (0, 1, 4):
        assert_same_bits([part[at] for part in parts])
    # A probability near 1, less 1, has the rounding error of its logit, which grows with hidden.
    rtol, atol = (1e-9, 1e-11) if dtype == "float64" else (1e-4, 1e-5 * scale)
    found = [parts[0][0], parts[0][1], together(parts, 2), together(parts, 3), parts[0][4]]
    for mine, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, right, rtol=rtol, atol=atol, equal_nan=False)


def with_settings(name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    return getattr(shard_pool, name)(*arguments, **named)


@pytest.mark.parametrize("shards", [2, 3])
@pytest.mark.parametrize("weights", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_updates_equal_the_undivided(pool: Pool, kind: str, weights: str, shards: int) -> None:
    """Several steps in place; weights in bfloat16 are rounded by the random bits of their place in the whole."""
    labels = labels_of(20, 100, 0.05, 1)
    named = {"weights": weights, "label_chunk": 9}
    expected = shard_pool.trained(kind, labels, 6, **named)
    parts = pool.ask(shards, with_settings, "trained", (kind, labels, 6), {**named, "shards": shards})
    assert_same_bits([part[4] for part in parts])
    mine, right = together(parts, 0), expected[0]
    if weights == "bf16":  # a gradient that differs in its last bit may round to the other neighbour
        assert (mine == right).mean() > 0.98
        assert np.abs(mine - right).max() <= 2**-7 * np.abs(right).max()
    else:
        np.testing.assert_allclose(mine, right, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(together(parts, 1), expected[1], rtol=1e-4, atol=1e-5)
        for at in (2, 3):
            np.testing.assert_allclose(together(parts, at), expected[at], rtol=1e-3, atol=1e-7)


@settings(max_examples=25, deadline=None)
@given(
    shards=st.sampled_from([2, 3]),
    n_points=st.sampled_from([1, 15]),
    n_labels=st.integers(3, 60),
    k=st.sampled_from([1, 4, 30]),
    seed=st.integers(0, 99),
)
def test_topk_equals_the_undivided(pool: Pool, shards: int, n_points: int, n_labels: int, k: int, seed: int) -> None:
    """With many ties, which go to the lowest label, also of another shard; and with fewer labels than k."""
    labels = labels_of(2, n_labels, 0.1, seed)
    expected = shard_pool.ranked(labels, n_points, k, seed)
    for part in pool.ask(shards, with_settings, "ranked", (labels, n_points, k, seed), {"shards": shards}):
        for mine, right in zip(part, expected, strict=True):
            np.testing.assert_array_equal(mine, right)


@pytest.mark.parametrize("weights", ["fp32", "bf16"])
def test_rows_start_as_those_of_the_whole(pool: Pool, weights: str) -> None:
    labels = labels_of(20, 101, 0.05, 1)
    (whole, offset, elsewhere) = shard_pool.built(labels, weights=weights)
    assert (offset, elsewhere) == (0, 0)
    parts = pool.ask(3, with_settings, "built", (labels,), {"weights": weights, "shards": 3})
    for at in (0, 1):
        assert np.concatenate([arrays[at] for arrays, _, _ in parts]).tobytes() == whole[at].tobytes()
    for arrays, offset, elsewhere in parts:
        assert arrays[0].tobytes() == whole[0][offset : offset + len(arrays[0])].tobytes()
        own = arrays[0].size + arrays[1].size
        assert own + elsewhere == FullSoftmax.parameter_count(n_labels=101, hidden=HIDDEN, shards=3)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("shape", [(), (1,), (2,), (7, 3), (64, 50)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_are_the_same_bits_everywhere(pool: Pool, world_size: int, shape: tuple[int, ...], dtype: str) -> None:
    parts = pool.ask(world_size, shard_pool.sums, shape, dtype)
    expected = sum(part[0].astype(np.float64) for part in parts)
    for at in (1, 2):
        assert_same_bits([part[at] for part in parts])
        np.testing.assert_allclose(parts[0][at], expected, rtol=1e-5, atol=1e-6)
        assert parts[0][at].shape == shape


@settings(max_examples=100, deadline=None)
@given(count=st.integers(1, 9), extra=st.integers(0, 40))
def test_every_label_is_in_one_shard(count: int, extra: int) -> None:
    n_labels = count + extra
    rows = [Shards(rank, count).rows(n_labels) for rank in range(count)]
    assert [label for part in rows for label in range(part.start, part.stop)] == list(range(n_labels))
    sizes = [part.stop - part.start for part in rows]
    assert max(sizes) - min(sizes) <= 1


def test_rows_are_drawn_alone_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(rows: slice) -> torch.Tensor:
        return uniform_rows(rows, 5, 0.3, torch.Generator().manual_seed(7))

    whole = torch.empty(40, 5).uniform_(-0.3, 0.3, generator=torch.Generator().manual_seed(7))
    monkeypatch.setattr("baselines.chunked.linear.DRAWN", 6)
    for rows in (slice(0, 40), slice(0, 1), slice(13, 29), slice(36, 40)):
        assert torch.equal(draw(rows), whole[rows])


@settings(max_examples=100, deadline=None)
@given(n_lists=st.integers(1, 4), k=st.integers(1, 6), seed=st.integers(0, 999))
def test_merged_lists_are_the_best_of_all(n_lists: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tiles = [rng.integers(0, 4, (3, rng.integers(1, 9))).astype(np.float32) for _ in range(n_lists)]
    lists, first = [], 0
    for tile in tiles:
        best = np.argsort(-tile, axis=1, kind="stable")[:, :k]
        scores, labels = np.full((3, k), -np.inf, np.float32), np.full((3, k), -1, np.int32)
        scores[:, : best.shape[1]] = np.take_along_axis(tile, best, 1)
        labels[:, : best.shape[1]] = best + first
        lists.append((scores, labels))
        first += tile.shape[1]
    whole = np.concatenate(tiles, 1)
    best = np.argsort(-whole, axis=1, kind="stable")[:, :k]
    scores, labels = merge_topk(*(np.concatenate(side, 1) for side in zip(*lists, strict=True)), k)
    np.testing.assert_array_equal(labels[:, : best.shape[1]], best)
    np.testing.assert_array_equal(scores[:, : best.shape[1]], np.take_along_axis(whole, best, 1))
    assert (labels[:, best.shape[1] :] == -1).all()


def test_more_shards_than_labels_or_processes_are_refused(pool: Pool) -> None:
    for message in pool.ask(3, shard_pool.refused, labels_of(4, 2, 0.5, 0), 3):
        assert message == "shards: found 3; expected at most 2, the number of labels"
    for message in pool.ask(3, shard_pool.refused, labels_of(4, 9, 0.5, 0), 2):
        assert message == "shards 2: found a process group of 3; expected one process for each shard"
    assert "found a process group of 1" in shard_pool.refused(labels_of(4, 9, 0.5, 0), 2)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "2", True])
def test_a_wrong_number_of_shards_is_refused(wrong: Any) -> None:
    for ask in (
        lambda: shard_pool.build("softmax", labels_of(4, 9, 0.5, 0), shards=wrong),
        lambda: FullSoftmax.processes(shards=wrong),
        lambda: FullSoftmax.cost(n_labels=9, hidden=4, run={"batch_size": 2, "threads": 1}, shards=wrong),
    ):
        with pytest.raises(ValueError, match="shards must be a whole number of at least 1, got"):
            ask()


def test_processes_follow_the_shards() -> None:
    assert FullSoftmax.processes(loss="softmax") == 1
    assert FullSoftmax.processes(loss="softmax", shards=4) == 4


def test_cost_of_a_process_is_its_share() -> None:
    """Weights and moments of the largest shard; the labels' prior is worked out by every process for all."""
    run = {"batch_size": 256, "threads": 1, "predict_batch": 1024}
    whole = FullSoftmax.cost(n_labels=300_001, hidden=128, run=run)
    part = FullSoftmax.cost(n_labels=300_001, hidden=128, run=run, shards=3)
    for name in ("weights_bytes", "optimiser_bytes", "step_flops"):
        assert part[name] == pytest.approx(whole[name] * 100_001 / 300_001)
    assert part["build_bytes"] == whole["build_bytes"]
    assert part["activations_bytes"] < whole["activations_bytes"] + 16 * 256 * 128 + 1
