"""Kept predictions are evaluated again when the filter or the constants have changed, and what has changed is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_records import write_record

from bench.columns import QUALITY
from bench.config.spec import RunSpec, TrainSettings
from bench.data import Dataset, load_dataset
from bench.data.cards import user_cards
from bench.data.download.fetch import install
from bench.data.evaluation import cached_evaluation_inputs, evaluation_inputs
from bench.metrics.ranking import evaluate
from bench.metrics.scorer import Scorer
from bench.results.per_point import NotAvailable, Points
from bench.results.predictions import RankedLabels
from bench.results.record import described
from bench.results.rescore import Rescored, score_experiment, score_file, scored_line
from bench.results.run_folder import RunFolder
from bench.results.status import run_states
from bench.results.store import Store

N_LABELS = 12
TRUE = [[0, 3], [1], [2, 5], [3]]  # of the test points


def lines(labels: list[list[int]]) -> str:
    return f"{len(labels)} 2 {N_LABELS}\n" + "".join(
        f"{','.join(map(str, of_point))} 0:1 1:{at + 1}\n" for at, of_point in enumerate(labels)
    )


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Dataset]:
    """Import a dataset ``own`` of four test points, and load it: ``own(filter="0 3\\n")``."""
    monkeypatch.setenv("MACHBENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "train.txt").write_text(lines([[at * at % N_LABELS] for at in range(30)]))

    def _own(filter: str | None = None, test: list[list[int]] = TRUE) -> Dataset:
        (tmp_path / "test.txt").write_text(lines(test))
        files = {"train": tmp_path / "train.txt", "test": tmp_path / "test.txt"}
        if filter is not None:
            files["test_filter"] = tmp_path / "filter.txt"
            files["test_filter"].write_text(filter)
        install("own", files, lambda _: None)
        return load_dataset("own")

    return _own


def add_run(store: Store, data: Dataset, k: int = 6, run_id: str = "run") -> np.ndarray:
    """A finished run that ranks the labels 0, 1, 2, ... for all points; nothing is trained."""
    spec = RunSpec("m", "a.B", {}, TrainSettings(epochs=1), "own", {}, 0)
    labels = np.tile(np.arange(k, dtype=np.int32), (len(data.test), 1))
    inputs = evaluation_inputs(data, "test")
    if data.test_filter is not None:
        labels = (labels + 1) % N_LABELS  # as if it had left out label 0
    folder = RunFolder.create(store.runs, run_id, spec, "", spec.question(data.fingerprint))
    folder.write_predictions([RankedLabels(None, np.zeros(labels.shape, np.float32), labels)])
    write_record(
        folder,
        status="ok",
        shared=described(spec, "cpu") | {"data_fingerprint": data.fingerprint},
        rows=[Scorer(data).score(labels).quality],
        evaluated=inputs.to_json(),
        ranked_without=inputs.filter,
    )
    folder.complete()
    store.ledger.append("finished", run_id, status="ok")
    return labels


def scored(store: Store) -> Rescored:
    (found,) = score_experiment(store)
    return found


def test_a_new_filter_changes_the_numbers_and_is_said(own: Callable[..., Dataset], tmp_path: Path) -> None:
    store = Store(tmp_path / "results" / "e")
    labels = add_run(store, own(), k=8)
    before = store.rows()[0]
    data = own(filter="0 0\n2 2\n3 0\n3 1\n3 2\n")
    assert data.fingerprint == before["data_fingerprint"]
    inputs = cached_evaluation_inputs("own", "test")
    assert inputs is not None
    assert run_states(store)["run"]["state"] == "stale"
    assert f"evaluated otherwise than now: filter none → {inputs.filter}" in run_states(store)["run"]["reason"]
    with pytest.raises(NotAvailable):  # no test over points mixes the two
        Points(store.root).of({"derived_from": None} | before)

    found = scored(store)
    masked = [[1, 2, 3, 4, 5], [0, 1, 2, 3, 4], [0, 1, 3, 4, 5], [3, 4, 5, 6, 7]]
    right = evaluate(np.array(masked), data.test.Y, data.train.Y)
    (row,) = store.rows()
    assert {name: row[name] for name in QUALITY} == {name: right[name] for name in QUALITY}
    assert right["P@1"] == 0.25
    assert before["P@1"] == 0.25  # by chance: point 0 has lost its first label, point 3 has found it
    assert row["evaluation_fingerprint"] == inputs.fingerprint != before["evaluation_fingerprint"]
    assert (row["replaces"], row["replaced_because"]) == ("run", f"filter none → {inputs.filter}")
    assert found.changed.startswith(f"filter none → {inputs.filter}, P@1 25.00 → 25.00 %")
    assert run_states(store)["run"]["state"] == "ok"
    assert np.mean(Points(store.root).of({"derived_from": None} | row)["P@5"]) == pytest.approx(right["P@5"])
    with np.load(store.runs / "run" / "topk.npz") as kept:  # nothing measured is lost
        np.testing.assert_array_equal(kept["labels"][0], labels)

    own()  # the filter is taken away again
    scored(store)
    assert store.rows()[0]["P@5"] == before["P@5"]


def test_predictions_that_are_too_short_for_a_filter_are_left(own: Callable[..., Dataset], tmp_path: Path) -> None:
    store = Store(tmp_path / "results" / "e")
    add_run(store, own(), k=5)
    own(filter="1 4\n")
    before = store.rows()
    assert "too few are kept" in scored(store).left
    assert store.rows() == before
    own(filter="1 5\n")  # not among the kept ones
    assert not scored(store).left


def test_predictions_without_the_pairs_of_another_filter_are_left(own: Callable[..., Dataset], tmp_path: Path) -> None:
    store = Store(tmp_path / "results" / "e")
    add_run(store, own(filter="0 0\n1 0\n2 0\n3 0\n"))
    own()
    assert "an earlier filter" in scored(store).left


def test_other_constants_change_the_propensity_metrics_alone(own: Callable[..., Dataset], tmp_path: Path) -> None:
    store = Store(tmp_path / "results" / "e")
    add_run(store, own())
    (before,) = store.rows()
    card = user_cards() / "own.yaml"
    card.write_text(card.read_text() + "propensity: {A: 0.6, B: 2.6}\n")
    assert "propensity A 0.55 → 0.6, propensity B 1.5 → 2.6" in run_states(store)["run"]["reason"]
    found = scored(store)
    (row,) = store.rows()
    data = load_dataset("own")
    right = evaluate(np.tile(np.arange(5), (4, 1)), data.test.Y, data.train.Y, A=0.6, B=2.6)
    assert found.moved > 0
    assert row["PSP@5"] == right["PSP@5"] != before["PSP@5"]
    assert row["P@5"] == before["P@5"]


def test_predictions_for_other_points_are_left_and_stale(own: Callable[..., Dataset], tmp_path: Path) -> None:
    store = Store(tmp_path / "results" / "e")
    old = own()
    add_run(store, old)
    new = own(test=[[5], [5]])
    assert scored(store).left == f"its predictions are for data {old.fingerprint}; the dataset is now {new.fingerprint}"
    reason = run_states(store)["run"]["reason"]
    assert reason == f"ok, on other data than there are now: data {old.fingerprint} → {new.fingerprint}"


def test_unreadable_predictions_do_not_stop_the_others(own: Callable[..., Dataset], tmp_path: Path) -> None:
    store = Store(tmp_path / "results" / "e")
    data = own()
    for run_id in ("a", "b"):
        add_run(store, data, run_id=run_id)
    (store.runs / "a" / "topk.npz").write_bytes(b"PK\x03\x04 cut")
    found = {rescored.run_id: rescored.left for rescored in score_experiment(store)}
    assert "topk.npz: not readable predictions" in found["a"]
    assert not found["b"]


def test_a_better_file_replaces_the_one_that_was_scored_before(own: Callable[..., Dataset], tmp_path: Path) -> None:
    store = Store(tmp_path / "results" / "e")
    own()
    for name, best in (("v1", "1"), ("v2", "3")):
        (tmp_path / f"{name}.txt").write_text("".join(f"{best}:0.9 0:0.5\n" for _ in TRUE))
    first = score_file(store, tmp_path / "v1.txt", "mine", "own")
    assert scored_line(store, first) == f"{first.run_id}: scored: P@1 25.00 %, P@3 16.67 %, P@5 10.00 %"
    second = score_file(store, tmp_path / "v2.txt", "mine", "own")
    line = scored_line(store, second)
    assert line.startswith(f"{second.run_id}: scored: P@1 50.00 %")
    assert line.endswith(f"; replaces {first.run_id} (file v1.txt → v2.txt), P@1 25.00 %")
    (row,) = store.rows()
    assert (row["run_id"], row["P@1"], row["replaces"]) == (second.run_id, 0.5, first.run_id)
    score_file(store, tmp_path / "v1.txt", "mine", "own")  # the newest counts, also when it is the earlier file
    assert [row["P@1"] for row in store.rows()] == [0.25]
    other = score_file(store, tmp_path / "v2.txt", "another", "own")
    assert "replaces" not in scored_line(store, other)
    assert len(store.rows()) == 2


def test_the_record_says_what_was_evaluated(own: Callable[..., Dataset], tmp_path: Path) -> None:
    store = Store(tmp_path / "results" / "e")
    data = own()
    add_run(store, data)
    content = json.loads((store.runs / "run" / "record.json").read_text())
    assert content["evaluated"]["data"] == data.fingerprint
    assert {name: content["evaluated"][name] for name in ("points", "A", "B", "filter")} == {
        "points": "test", "A": 0.55, "B": 1.5, "filter": None,
    }  # fmt: skip
    assert cached_evaluation_inputs("own", "test") == evaluation_inputs(data, "test")
    validation = cached_evaluation_inputs("own", "validation")
    assert validation == evaluation_inputs(data, "validation")
    assert validation is not None
    assert validation.held_out == 1
