"""Data that change under the name of an experiment's dataset: the new number is shown everywhere, and why it is new."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import machbench, results, write_experiment
from made_records import write_record
from rich.console import Console

from bench.config.evaluation_inputs import EvaluationInputs
from bench.config.spec import RunSpec, TrainSettings
from bench.data import load_dataset
from bench.launch.evaluate_again import evaluated_again
from bench.launch.progress import Progress
from bench.metrics.scorer import Scorer
from bench.plan.plan import PlannedRun, outdated
from bench.results.predictions import RankedLabels
from bench.results.record import RunRecord, described
from bench.results.run_folder import RunFolder
from bench.results.store import Store

N_LABELS = 12
TRUE = [[0, 3], [1], [2, 5], [0]]
EXPERIMENT = "dataset: own\nmethods: {label_frequency: {}}\n"


def write_points(path: Path, labels: list[list[int]]) -> str:
    text = "".join(f"{','.join(map(str, of_point))} 0:1 1:{at + 1}\n" for at, of_point in enumerate(labels))
    path.write_text(f"{len(labels)} 2 {N_LABELS}\n{text}")
    return str(path)


@pytest.mark.slow
def test_what_is_imported_again_is_evaluated_again_and_said(tmp_path: Path) -> None:
    cache = {"MACHBENCH_CACHE": str(tmp_path / "cache")}
    train = write_points(tmp_path / "train.txt", [[0], [0], [0], [1], [1], *[[at] for at in range(2, N_LABELS)]])
    experiment = write_experiment(tmp_path, EXPERIMENT)

    def take(test: list[list[int]], *more: str) -> None:
        files = ["--train", train, "--test", write_points(tmp_path / "test.txt", test), *more]
        machbench("data", "import", "own", *files, cwd=tmp_path, **cache)

    def run(pages: bool = True) -> str:
        return machbench("run", experiment, cwd=tmp_path, pages=pages, **cache).stdout

    take(TRUE)
    run(pages=False)
    (first,) = results(tmp_path).to_dict("records")
    assert first["P@1"] == 0.5

    (tmp_path / "filter.txt").write_text("0 0\n3 0\n")  # (point, label): the right first label of two points
    take(TRUE, "--test-filter", str(tmp_path / "filter.txt"))
    assert "evaluated otherwise than now: filter none → " in _joined(
        machbench("status", "small", cwd=tmp_path, **cache).stdout
    )
    shown = machbench("table", "small", cwd=tmp_path, **cache)
    assert "is stale (ok, evaluated otherwise than now: filter none → " in shown.stderr
    text = run(pages=False)
    assert ", 0 to do" in text  # nothing is trained again
    assert "evaluated again: filter none → " in text
    assert "P@1 50.00 → 0.00 %" in text
    (second,) = results(tmp_path).to_dict("records")
    assert (second["run_id"], second["P@1"]) == (first["run_id"], 0.0)
    assert second["data_fingerprint"] == first["data_fingerprint"]
    assert second["evaluation_fingerprint"] != first["evaluation_fingerprint"]
    assert second["replaced_because"].startswith("filter none → ")

    take([[0]] * 4)
    text = run()
    (third,) = results(tmp_path).to_dict("records")
    change = f"{first['data_fingerprint']} → {third['data_fingerprint']}"
    assert f"on other data ({first['data_fingerprint']}, now {third['data_fingerprint']})" in text
    assert (third["P@1"], third["P@3"]) == (1.0, pytest.approx(1 / 3))
    assert (third["replaces"], third["replaced_because"]) == (first["run_id"], f"data {change}")
    for page in ("report.html", "tables/quality.md"):
        shown = (tmp_path / "results" / "small" / page).read_text()
        assert f"1 run replaces an earlier result of own: data {change}" in shown
    shown = machbench("diff", first["run_id"], third["run_id"], cwd=tmp_path, check=1, **cache).stdout
    assert f"data_fingerprint {change}" in shown


def _joined(table: str) -> str:
    """A table of the terminal as running text."""
    return " ".join(table.replace("│", " ").split())


def test_runs_whose_predictions_do_not_suffice_are_repeated(tmp_path: Path) -> None:
    """One whose predictions are for other points, one that can be evaluated, and one that is in no need of it."""
    store, data = Store(tmp_path / "results" / "e"), load_dataset("tiny")
    spec = RunSpec("m", "a.B", {}, TrainSettings(), "tiny", {}, 0)
    labels = np.tile(np.arange(5, dtype=np.int32), (len(data.test), 1))
    quality = Scorer(data).score(labels).quality
    for run_id, fingerprint in (("other", "0000"), ("same", data.fingerprint), ("unchanged", data.fingerprint)):
        folder = RunFolder.create(store.runs, run_id, spec)
        folder.write_predictions([RankedLabels(None, np.zeros(labels.shape, np.float32), labels)])
        shared = described(spec) | {"data_fingerprint": fingerprint}
        write_record(folder, status="ok", shared=shared, rows=[quality | {"P@1": 0.75}])
        folder.complete()
    changed = {"other": "propensity A", "same": "propensity A", "unchanged": ""}
    runs = [PlannedRun(run_id, spec, "ok", evaluate=why) for run_id, why in changed.items()]
    shown = io.StringIO()
    found = evaluated_again(runs, store, Progress(Console(file=shown, width=300)))
    assert {run.run_id: run.status for run in found} == {"other": None, "same": "ok", "unchanged": "ok"}
    first, second = shown.getvalue().splitlines()
    assert first.startswith("other: propensity A; cannot be evaluated again, its predictions are for data 0000;")
    assert first.endswith("runs again")
    assert second.startswith("same: evaluated again: P@1 75.00 → ")
    record = store.record("unchanged")
    assert record is not None
    assert record.own.quality["P@1"] == 0.75


def test_what_has_changed_since_a_run_was_evaluated() -> None:
    now = EvaluationInputs("d", "test", 0, 0.55, 1.5, None)
    record = RunRecord("r", "ok", evaluated=now)
    assert outdated(record, now) == ""
    assert outdated(record, None) == ""
    assert outdated(record, replace(now, filter="f1")) == "filter none → f1"
    assert outdated(record, replace(now, B=2.6, metrics=2)) == "propensity B 1.5 → 2.6, version of the metrics 1 → 2"
    assert "not recorded" in outdated(replace(record, evaluated=None), now)
    assert outdated(replace(record, status="crashed", evaluated=None), now) == ""  # it has no predictions
