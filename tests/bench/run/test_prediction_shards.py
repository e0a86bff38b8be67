"""Predictions in shards: joined, they are the predictions of one process, byte for byte."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.config.experiment import unfold
from bench.config.spec import RunSpec, Shard
from bench.data import load_dataset
from bench.interface import Ranking
from bench.metrics.scorer import Scorer
from bench.model.built_method import rank_without
from bench.process.events import Event, Note
from bench.process.options import RunOptions
from bench.results.run_folder import RunFolder
from bench.results.store import REPETITIONS
from bench.run.execute import execute
from bench.run.predict import points_to_rank, predict
from bench.run.prediction_shards import LABELS, POINTS, PredictionSize, join, shard_spec, split
from mach.layer.output import MachOutput


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 40), st.integers(1, 9), st.booleans())
def test_shards_cover_everything_once(n_points: int, n_labels: int, batch: int, workers: int, by_label: bool) -> None:
    found = split(PredictionSize(n_points, n_labels, batch, by_label=by_label), workers, 0.0)
    assert len(found) != 1
    assert len(found) <= workers
    if found:
        of_labels = found[0].axis == LABELS
        assert [shard.start for shard in found] == [0, *(shard.stop for shard in found[:-1])]
        assert found[-1].stop == (n_labels if of_labels else n_points)
        assert all(shard.axis == found[0].axis and shard.start < shard.stop for shard in found)
        assert of_labels or all(shard.start % batch == 0 for shard in found)


def test_points_are_split_unless_they_are_few_or_the_labels_do_not_fit() -> None:
    def cut(points: int, labels: int, batch: int, workers: int, *more: Any) -> list[Shard]:
        needed, memory, by_label = more
        return split(PredictionSize(points, labels, batch, needed, by_label), workers, memory)

    sizes = (1000, 600, 100)
    assert cut(*sizes, 4, None, 0.0, True) == [
        Shard(POINTS, low, high) for low, high in itertools.pairwise((0, 200, 500, 700, 1000))
    ]
    assert cut(*sizes, 4, 9, 10.0, True)[0].axis == POINTS
    assert cut(*sizes, 4, 11, 10.0, True) == [Shard(LABELS, low, low + 150) for low in (0, 150, 300, 450)]
    assert cut(*sizes, 4, 11, 10.0, False)[0].axis == POINTS
    assert [shard.axis for shard in cut(1000, 600, 1000, 4, None, 0.0, True)] == [LABELS] * 4
    assert cut(1000, 600, 1000, 4, None, 0.0, False) == []
    assert cut(*sizes, 1, None, 0.0, True) == []


@given(st.data())
def test_joined_rankings_of_labels_are_the_ranking_of_all(draw: st.DataObject) -> None:
    n, K, k = (draw.draw(st.integers(1, most)) for most in (4, 12, 15))
    all_scores = np.array(draw.draw(st.lists(st.sampled_from([-1.0, 0.0, 0.5]), min_size=n * K, max_size=n * K)))
    all_scores = all_scores.astype(np.float32).reshape(n, K)
    ends = [0, *sorted(draw.draw(st.sets(st.integers(1, K - 1), max_size=3)) if K > 1 else ()), K]
    shards = [Shard(LABELS, low, high) for low, high in itertools.pairwise(ends)]
    order = draw.draw(st.permutations(range(len(shards))))
    parts = [best(all_scores[:, shards[at].start : shards[at].stop], k, shards[at].start) for at in order]
    found = join([shards[at] for at in order], [s[None] for s, _ in parts], [ids[None] for _, ids in parts], n)
    for mine, right in zip(found, best(all_scores, k, 0), strict=True):
        np.testing.assert_array_equal(mine[0], right)


def best(scores: np.ndarray[Any, Any], k: int, first: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The best k by the definition: highest scores, ties by lowest label id, filled up with -1 at -inf."""
    n, K = scores.shape
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    found = np.full((n, k), -np.inf, dtype=np.float32), np.full((n, k), -1, dtype=np.int32)
    found[0][:, :K] = np.take_along_axis(scores, order, 1)
    found[1][:, :K] = order + first
    return found


@pytest.mark.parametrize(
    "shards",
    [
        [Shard(POINTS, 0, 1), Shard(POINTS, 2, 3)],
        [Shard(POINTS, 1, 2), Shard(POINTS, 2, 3)],
        [Shard(POINTS, 0, 1), Shard(LABELS, 1, 2)],
        [Shard(POINTS, 0, 1), Shard(POINTS, 0, 1)],
    ],
)
def test_shards_with_gaps_or_overlaps_are_refused(shards: list[Shard]) -> None:
    scores, labels = np.zeros((1, 1, 2), dtype=np.float32), np.zeros((1, 1, 2), dtype=np.int32)
    with pytest.raises(ValueError, match="expected adjacent ones of one axis, from 0 on"):
        join(shards, [scores, scores], [labels, labels], 2)


ESTIMATORS = "logit_sum+min+median+top_buckets"


@pytest.mark.parametrize(("loss", "share"), [("bce", 0.0), ("softmax", 0.0), ("bce", 0.3)])
def test_a_layer_ranks_some_labels_with_the_scores_that_they_have_among_all(loss: str, share: float) -> None:
    """share: of pairs that may not be ranked."""
    n_labels, R, k = 300, 5, 20
    labels = sp.random(50, n_labels, 0.05, "csr", random_state=np.random.default_rng(0), dtype=np.float32)
    seeds = {"hashing": 1, "initialisation": 2, "sampling": 3}

    def layer() -> MachOutput:
        settings: dict[str, Any] = {"B": 16, "R": R, "loss": loss, "estimator": ESTIMATORS}
        return MachOutput(n_labels=n_labels, hidden=6, train_labels=labels, seeds=seeds, **settings)

    hidden = torch.rand(R, 33, 6, generator=torch.Generator().manual_seed(0))
    excluded = sp.random(33, n_labels, share, "csr", random_state=np.random.default_rng(2)) if share else None
    ends = [0, 1, 120, 300]
    shards = [Shard(LABELS, low, high) for low, high in itertools.pairwise(ends)]
    with torch.no_grad():
        expected = layer().topk_decoders(hidden, k, range(1, R + 1), excluded)
        parts = []
        for shard in shards:
            some = layer()
            some.rank_only(range(shard.start, shard.stop))
            parts.append(some.topk_decoders(hidden, k, range(1, R + 1), excluded))
    for name in expected:
        found = join(shards, [part[name][0] for part in parts], [part[name][1] for part in parts], 33)
        for mine, right in zip(found, expected[name], strict=True):
            np.testing.assert_array_equal(mine, right)


def spec_of(dataset: Any = "tiny", **settings: Any) -> RunSpec:
    train = {"hidden": "16", "epochs": 1, "batch_size": 700, "device": "cpu", "validate_every": 0, "top_k": 5}
    train |= {"keep_repetitions": True, "predict_batch": 150, "threads": 1}
    return next(unfold({"dataset": dataset, "train": train, "methods": {"mach": {"B": 32, "R": 3, **settings}}}, "t"))


def run(results: Path, spec: RunSpec, shards: Sequence[str] = (), store: str = "test") -> tuple[Path, Any, list[str]]:
    """A run in this process: its folder, record and notes."""
    notes: list[str] = []

    def emit(event: Event) -> None:
        notes.extend([event.text] if isinstance(event, Note) else [])

    folder = RunFolder.create(results / store / "runs", "run" if spec.shard is None else str(spec.shard), spec, "code")
    record = execute(spec, folder, emit, RunOptions(shards=tuple(shards)))
    folder.write_record(record)
    return folder.complete(), record.to_json(), notes


def arrays(folder: Path) -> dict[str, Any]:
    with np.load(folder / "topk.npz") as found:
        return dict(found)


@pytest.fixture(autouse=True)
def _own_threads() -> Any:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("of", [POINTS, LABELS])
@pytest.mark.parametrize("estimator", ["logit_sum", "logit_sum+min"])
def test_joined_predictions_are_those_of_one_process(tmp_path: Path, of: str, estimator: str) -> None:
    spec = spec_of(estimator=estimator)
    alone, record, _ = run(tmp_path, spec)
    n_points, n_labels = record["shared"]["n_test"], record["shared"]["n_labels"]
    workers = 3
    shards = split(PredictionSize(n_points, n_labels, 150, 1 if of == LABELS else None, True), workers, 0.0)
    assert [shard.axis for shard in shards] == [of] * workers
    names, seconds, peaks = [], [], []
    for shard in shards:
        folder, of_shard, notes = run(tmp_path, shard_spec(spec, shard), store=REPETITIONS)
        assert "3 of 3 repetitions were trained before" in notes
        assert not any(name.startswith("P@") for row in of_shard["rows"] for name in row)
        names.append(folder.name)
        seconds.append(of_shard["rows"][-1]["predict_s"])
        peaks.append(of_shard["rows"][-1]["peak_host_bytes"])
    joined, found, notes = run(tmp_path, spec, names)
    mine, right = arrays(joined), arrays(alone)
    assert mine.keys() == right.keys()
    for name, array in right.items():
        np.testing.assert_array_equal(mine[name], array)
    assert not any("shards" in note for note in notes)
    for a, b in zip(found["rows"], record["rows"], strict=True):
        assert {name: a[name] for name in a if name.startswith(("P@", "PSP@", "nDCG@", "R@"))} == {
            name: b[name] for name in b if name.startswith(("P@", "PSP@", "nDCG@", "R@"))
        }
        assert a["params_total"] == b["params_total"]
        assert a["unresolved_pairs"] == b["unresolved_pairs"]
    own = found["rows"][-1]
    assert own["predict_s"] == pytest.approx(sum(seconds))
    assert own["predicting_processes"] == workers
    assert own["peak_host_bytes"] >= max(peaks)
    assert "predicting_processes" not in record["rows"][-1] or record["rows"][-1]["predicting_processes"] is None


def damaged(folder: Path) -> None:
    (folder / "topk.npz").write_bytes((folder / "topk.npz").read_bytes()[:200])


def missing(folder: Path) -> None:
    (folder / "topk.npz").unlink()


def of_another_run(folder: Path) -> None:
    spec = json.loads((folder / "spec.json").read_text())
    (folder / "spec.json").write_text(json.dumps({**spec, "shard": None}))


@pytest.mark.parametrize("harm", [damaged, missing, of_another_run])
def test_shards_that_cannot_be_used_are_reported_and_all_is_predicted(tmp_path: Path, harm: Any) -> None:
    spec = spec_of(R=2)
    alone, record, _ = run(tmp_path, spec)
    shards = split(PredictionSize(record["shared"]["n_test"], 1, 150), 2, 0.0)
    folders = [run(tmp_path, shard_spec(spec, shard), store=REPETITIONS)[0] for shard in shards]
    harm(folders[1])
    again, found, notes = run(tmp_path, spec, [folder.name for folder in folders])
    assert any(note.startswith("shards of the predictions not used, all is predicted here: ") for note in notes)
    np.testing.assert_array_equal(arrays(again)["labels"], arrays(alone)["labels"])
    assert found["rows"][-1].get("predicting_processes") is None


def test_pairs_that_are_left_out_stay_with_their_points() -> None:
    data, spec = load_dataset("tiny"), spec_of()
    n_points, n_labels = data.test.Y.shape
    left_out = sp.random(n_points, n_labels, 0.05, "csr", random_state=np.random.default_rng(0))
    vars(data)["test_filter"] = left_out  # in place of what it would read
    weights = np.random.default_rng(1).normal(size=(data.test.X.shape[1], n_labels)).astype(np.float32)

    def ranked(of: RunSpec) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        def topk(X: sp.csr_matrix, k: int, left_out: sp.csr_matrix | None) -> list[Ranking]:
            return rank_without(lambda k: [best(X @ weights, k, 0)], None, k, left_out)

        (found,) = predict(topk, points_to_rank(Scorer(data), of), [(None, None)])
        return found.scores, found.labels

    shards = split(PredictionSize(n_points, n_labels, 150), 3, 0.0)
    parts = [ranked(shard_spec(spec, shard)) for shard in shards]
    for at, right in enumerate(ranked(spec)):
        np.testing.assert_array_equal(np.concatenate([part[at] for part in parts]), right)


def test_a_shard_is_another_run_and_its_spec_survives_json() -> None:
    spec = spec_of()
    shard = shard_spec(spec, Shard(POINTS, 0, 150))
    assert RunSpec.from_json(shard.to_json()) == shard
    assert shard.run_id("code", "data") != spec.run_id("code", "data")
    assert shard.run_id("code", "data") != shard_spec(spec, Shard(LABELS, 0, 150)).run_id("code", "data")
    assert replace(spec, shard=None).canonical() == spec.canonical()
    assert "shard" not in json.loads(spec.canonical())


def test_specs_of_earlier_versions_are_read() -> None:
    shard = shard_spec(spec_of(), Shard(LABELS, 3, 9))
    content = json.loads(shard.to_json())
    del content["shard"]
    earlier = {**content, "share": {"of": LABELS, "start": 3, "stop": 9}}
    assert RunSpec.from_json(json.dumps(earlier)) == shard
    assert RunSpec.from_json(json.dumps({**content, "share": None})) == replace(shard, shard=None)
