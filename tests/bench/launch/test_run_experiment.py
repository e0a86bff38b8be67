"""The command line end to end on the tiny twin, as a user runs it: one process a run, results on disk."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import (
    EXPERIMENT,
    TIMED,
    alive,
    command,
    environment,
    machbench,
    predictions,
    results,
    wait_for,
    write_experiment,
)
from score_pairs import write_score_pairs

from bench.columns import PARTS
from bench.data import load_dataset
from bench.metrics.ranking import evaluate
from bench.results.ledger import Ledger


@pytest.mark.slow
def test_everything_the_contract_promises_is_there(ran: Path) -> None:
    root = ran / "results" / "small"
    for path in ("table.csv", "report.html", "ledger.jsonl", "tables", "figures"):
        assert (root / path).exists(), path
    runs = sorted((root / "runs").iterdir())
    assert len(runs) == 4
    for run in runs:
        assert {"spec.json", "record.json", "topk.npz", "log.txt"} <= {p.name for p in run.iterdir()}
        assert (run / "curve.csv").exists() != run.name.startswith("label_frequency")
    (environment_file,) = (ran / "results" / "env").glob("*.json")
    assert set(results(ran)["env_id"]) == {environment_file.stem}
    (passport,) = (ran / "results" / "data").glob("*.json")
    assert set(results(ran)["data_fingerprint"]) == {passport.stem}
    assert json.loads(passport.read_text())["groups"]["tail"]["labels"] > 0
    page = (root / "report.html").read_text()
    assert "groups.tail.labels" in page
    assert "MACH and its baselines on the tiny twin." in page


@pytest.mark.slow
def test_the_table_holds_what_was_measured(ran: Path) -> None:
    table = results(ran).set_index("run_id")
    assert (table["status"] == "ok").all()
    own = table[table["derived_from"].isna()]
    assert sorted(own["method"]) == ["full_softmax", "label_frequency", "mach", "sampled_softmax"]
    neural = own[own["method"] != "label_frequency"]
    for column in ("peak_host_bytes", "fit_s", "predict_s", "build_s", "load_s", "examples_per_s", "params_total"):
        assert (neural[column] > 0).all(), column
    assert (own["peak_host_above_baseline_bytes"] == own["peak_host_bytes"] - own["baseline_host_bytes"]).all()
    for phase in ("load", "build", "warmup", "fit", "predict"):
        peak = neural[f"peak_host_{phase}_bytes"]
        assert ((peak > 0) & (peak <= neural["peak_host_bytes"])).all(), phase
    assert ((neural["step_p50_s"] > 0) & (neural["step_p50_s"] <= neural["step_p95_s"])).all()
    parts = neural[[f"predicted_{part}_bytes" for part in PARTS]]
    assert (parts.sum(axis=1) >= neural["predicted_peak_bytes"]).all()  # not all of them at the same time
    assert own["peak_gpu_allocated_bytes"].isna().all()  # not measured is empty, never 0
    floor = own.set_index("method").loc["label_frequency", "P@1"]
    assert (neural["P@1"] > floor).all()
    mach = table[table["method"] == "mach"].set_index("R")["P@1"]
    assert mach[4] > mach[1]  # more repetitions, better predictions


@pytest.mark.slow
def test_parameters_are_the_counted_ones(ran: Path) -> None:
    table = results(ran)
    mach = table[table["method"] == "mach"].set_index("R")
    features, labels = int(mach["n_features"].iloc[0]), int(mach["n_labels"].iloc[0])
    for R in range(1, 5):
        assert mach.loc[R, "params_input"] == R * (features + 1) * 16
        assert mach.loc[R, "params_output"] == R * 17 * 32
        assert mach.loc[R, "params_hidden"] == 0
        assert mach.loc[R, "params_total"] == R * mach.loc[R, "params_per_repetition"]
        assert mach.loc[R, "index_bytes"] == R * labels * 2
    full = table[table["method"] == "full_softmax"].iloc[0]
    assert full["params_output"] == 17 * labels
    assert full["params_total"] == 17 * labels + (features + 1) * 16


@pytest.mark.slow
def test_metrics_are_those_of_the_kept_predictions(ran: Path) -> None:
    data = load_dataset("tiny")
    A, B = data.propensity
    table = results(ran)
    for method in ("label_frequency", "full_softmax", "sampled_softmax", "mach"):
        rows = table[table["method"] == method]
        kept = predictions(ran, method)
        for at in range(len(kept["R"])):
            row = rows.iloc[at] if len(rows) == 1 else rows[rows["R"] == kept["R"][at]].iloc[0]
            expected = evaluate(kept["labels"][at], data.test.Y, data.train.Y, A=A, B=B)
            assert expected["minP@1"] == expected["P@1"]
            for name in ("P@1", "P@3", "P@5", "nDCG@5", "PSP@5", "R@5", "minP@5"):
                assert row[name] == pytest.approx(expected[name], abs=1e-12)


@pytest.mark.slow
def test_derived_rows_equal_a_run_of_exactly_that_R(ran: Path, tmp_path: Path) -> None:
    """R = 2 from the run of 4 (trained 3 + 1 at a time) against a run of 2: the same predictions and quality."""
    machbench("run", write_experiment(tmp_path), "methods={mach: {B: 32, R: 2}}", cwd=tmp_path)
    small, large = predictions(tmp_path, "mach"), predictions(ran, "mach")
    assert small["R"].tolist() == [1, 2]
    np.testing.assert_array_equal(small["labels"], large["labels"][:2])
    np.testing.assert_allclose(small["scores"], large["scores"][:2], rtol=1e-5, atol=1e-5)
    derived = results(ran).query("method == 'mach' and R <= 2").set_index("R")
    own = results(tmp_path).set_index("R")
    assert derived["derived_from"].notna().all()
    for column in ("peak_host_bytes", "peak_host_fit_bytes", "predicted_index_bytes", "step_p50_s"):
        assert derived[column].isna().all(), column  # the run's memory and steps are not those of a smaller R
    for name in ("P@1", "P@5", "PSP@5", "params_output", "index_bytes", "unresolved_pairs"):
        assert derived[name].tolist() == own[name].tolist(), name


@pytest.mark.slow
def test_fit_seconds_are_known_where_a_group_ended(ran: Path) -> None:
    """Trained three and then one at a time: seconds are measured for R = 3 and R = 4, not made up for 1 and 2."""
    fit_s = results(ran).query("method == 'mach'").set_index("R")["fit_s"]
    assert fit_s.notna().to_dict() == {1: False, 2: False, 3: True, 4: True}
    assert 0 < fit_s[3] < fit_s[4]


@pytest.mark.slow
@pytest.mark.soak
def test_same_spec_and_seed_give_identical_predictions(ran: Path, tmp_path: Path) -> None:
    machbench("run", write_experiment(tmp_path), cwd=tmp_path)
    for method in ("full_softmax", "sampled_softmax", "mach"):
        first, second = predictions(ran, method), predictions(tmp_path, method)
        np.testing.assert_array_equal(first["labels"], second["labels"])
        np.testing.assert_array_equal(first["scores"], second["scores"])
    untimed = [c for c in results(ran).columns if c not in TIMED and "bytes" not in c]
    pd.testing.assert_frame_equal(results(ran)[untimed], results(tmp_path)[untimed])


@pytest.mark.slow
def test_a_second_run_does_nothing_and_force_repeats(ran: Path, tmp_path: Path) -> None:
    ran = shutil.copytree(ran, tmp_path / "ran")
    root = ran / "results" / "small"
    before = {path: path.stat().st_mtime_ns for path in root.glob("runs/*/record.json")}
    done = machbench("run", "small.yaml", cwd=ran)
    assert "4 runs: 4 done before, 0 to do" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in root.glob("runs/*/record.json")} == before
    forced = machbench("run", "small.yaml", "methods={label_frequency: {}}", "--force", cwd=ran)
    assert "1 runs: 0 done before, 1 to do" in forced.stdout
    machbench("run", "small.yaml", cwd=ran)  # the table again holds all four
    assert len(results(ran)) == 7


@pytest.mark.slow
def test_status_table_figure_and_report_read_the_results(ran: Path, tmp_path: Path) -> None:
    ran = shutil.copytree(ran, tmp_path / "ran")
    assert "4 ok" in machbench("status", "small", cwd=ran).stdout
    assert "full_softmax" in machbench("table", "small", "--format", "csv", cwd=ran).stdout
    assert "p1_against_r" in machbench("figure", "small", cwd=ran).stdout
    assert "report.html" in machbench("report", "small.yaml", cwd=ran).stdout


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("run", *arguments),
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.soak
def test_sigkill_loses_nothing_that_was_finished(tmp_path: Path) -> None:
    """The whole command is killed in the second run: its child dies too, and the next command continues."""
    slow = EXPERIMENT.replace("epochs: 2", "epochs: 2000")
    experiment = write_experiment(tmp_path, slow)
    process = start(tmp_path, experiment)
    running = wait_for(tmp_path, "started", "full_softmax")
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while alive(int(str(running["pid"]))) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(int(str(running["pid"])))

    runs = tmp_path / "results" / "small" / "runs"
    (finished,) = runs.glob("label_frequency-*/record.json")
    written = finished.stat().st_mtime_ns
    assert "1 interrupted" in machbench("status", "small", cwd=tmp_path).stdout

    few = ["methods.full_softmax.epochs=1", "methods.sampled_softmax.epochs=1", "methods.mach.epochs=1"]
    done = machbench("run", experiment, *few, cwd=tmp_path)
    assert "4 runs: 1 done before, 3 to do" in done.stdout
    assert finished.stat().st_mtime_ns == written
    assert not list(runs.glob(".*"))
    events = [(e["event"], e["run_id"]) for e in Ledger(runs.parent / "ledger.jsonl").events()]
    assert ("interrupted", running["run_id"]) in events
    table = results(tmp_path).set_index("run_id")
    assert table.loc[str(running["run_id"]), "status"] == "interrupted"
    assert (table["status"] == "ok").sum() == 7


@pytest.mark.slow
def test_ctrl_c_records_the_run_and_says_how_to_continue(tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, EXPERIMENT.replace("epochs: 2", "epochs: 2000"))
    process = start(tmp_path, experiment)
    running = wait_for(tmp_path, "started", "full_softmax")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "The same command goes on from here" in output
    record = tmp_path / "results" / "small" / "runs" / str(running["run_id"]) / "record.json"
    assert json.loads(record.read_text())["status"] == "interrupted"
    assert not alive(int(str(running["pid"])))


@pytest.mark.slow
def test_a_run_over_its_time_limit_is_a_row(tmp_path: Path) -> None:
    text = EXPERIMENT.replace("epochs: 2", "epochs: 200000") + "time_limit_s: 10\n"
    experiment = write_experiment(tmp_path, text)
    done = machbench("run", experiment, "methods={label_frequency: {}, mach: {R: 1, B: 8}}", cwd=tmp_path, check=1)
    assert "timeout" in done.stdout
    table = results(tmp_path).set_index("method")
    assert table.loc["mach", "status"] == "timeout"
    (run,) = (tmp_path / "results" / "small" / "runs").glob("mach-*")
    record = json.loads((run / "record.json").read_text())
    assert table.loc["mach", "reason"] == f"{record['phase']}: killed at the limit of 10 s"
    assert table.loc["mach", "peak_host_bytes"] > 10**8
    assert json.loads(record["log_tail"][-1])["phase"] == record["phase"]
    assert "start" in record["phases"]
    assert table.loc["label_frequency", "status"] == "ok"
    again = machbench("run", experiment, "methods={label_frequency: {}, mach: {R: 1, B: 8}}", cwd=tmp_path, check=1)
    assert ", 0 to do" in again.stdout  # a failure is a result; --retry timeout would repeat it


@pytest.mark.slow
def test_a_method_of_the_users_own_that_fails_is_a_row_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "class Broken:\n"
        "    def fit(self, X, Y):\n"
        "        raise RuntimeError('no luck today')\n"
        "    def topk(self, X, k): ...\n"
    )
    (tmp_path / "broken.yaml").write_text("target: mine.Broken\n")
    experiment = write_experiment(tmp_path, "dataset: tiny\nmethods:\n  broken: {method: broken.yaml}\n")
    machbench("run", experiment, cwd=tmp_path, check=1)
    row = results(tmp_path).iloc[0]
    assert row["status"] == "crashed"
    assert row["reason"] == "fit: RuntimeError: no luck today"
    assert pd.isna(row["P@1"])
    assert row["peak_host_bytes"] > row["baseline_host_bytes"] > 0
    (path,) = (tmp_path / "results" / "small" / "runs").glob("broken-*/record.json")
    record = json.loads(path.read_text())
    assert record["phase"] == "fit"
    assert record["log_tail"][-1] == "RuntimeError: no luck today"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "quickstrat"], "unknown experiment 'quickstrat'; did you mean 'quickstart'?"),
        (["run", "quickstart", "methods.mach.BB=3"], "did you mean 'B'?"),
        (["run", "quickstart", "dataset=icd10mc"], "did you mean 'icd10cm'?"),
        (["run", "quickstart", "--retry", "some"], "expected one of oom, timeout, failed, all"),
        (["status", "nothing"], "unknown results of experiment 'nothing'"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_status_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = machbench(*arguments, cwd=tmp_path, check=2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


GOOD_FILE = "4 5 3\n0,1 0:1 2:0.5\n2 4:1\n 1:2\n1 0:0.25 3:1\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("4 5\n0 0:1\n", "line 1"),
        (GOOD_FILE.replace("4:1", "5:1"), "line 3"),
        *(
            pytest.param(*rest, marks=pytest.mark.soak)
            for rest in [
                (GOOD_FILE.replace("2 4", "3 4"), "line 3"),
                (GOOD_FILE.replace("2:0.5", "2:half"), "line 2"),
                (GOOD_FILE.replace("2:0.5", "2:nan"), "line 2"),
                (GOOD_FILE + "0 0:1\n", "line 6"),
                (GOOD_FILE.rsplit("\n", 2)[0] + "\n", "train.txt"),
            ]
        ),
    ],
)
def test_a_malformed_data_file_is_named_and_leaves_no_cache(tmp_path: Path, bad: str, message: str) -> None:
    (tmp_path / "train.txt").write_text(bad)
    (tmp_path / "test.txt").write_text(GOOD_FILE)
    (tmp_path / "mine.yaml").write_text(
        "title: two files\nsource: files\nparameters: {train: train.txt, test: test.txt}\nvalidation_points: 1\n"
    )
    experiment = write_experiment(tmp_path, "dataset: mine.yaml\nmethods: {label_frequency: {}}\n")
    done = machbench("run", experiment, cwd=tmp_path, check=2, MACHBENCH_CACHE=str(tmp_path / "cache"))
    assert "train.txt" in done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix in (".npy", ".bin", ".json")]

    (tmp_path / "train.txt").write_text(GOOD_FILE)
    machbench("run", experiment, cwd=tmp_path, MACHBENCH_CACHE=str(tmp_path / "cache"))
    assert results(tmp_path)["dataset"].tolist() == ["mine"]


@pytest.mark.slow
def test_filtered_pairs_are_never_predicted(tmp_path: Path) -> None:
    """The most frequent label is left out for the first point, so its ranking starts with the second."""
    (tmp_path / "train.txt").write_text("4 2 3\n0 0:1\n0,1 0:1\n0,1 1:1\n2 1:1\n")
    (tmp_path / "test.txt").write_text("2 2 3\n1 0:1\n0 1:1\n")
    (tmp_path / "filter.txt").write_text("0 0\n")
    parameters = "{train: train.txt, test: test.txt, test_filter: filter.txt}"
    card = f"title: filtered\nsource: files\nparameters: {parameters}\nvalidation_points: 0\n"
    (tmp_path / "mine.yaml").write_text(card)
    experiment = write_experiment(tmp_path, "dataset: mine.yaml\nmethods: {label_frequency: {}}\n")
    machbench("run", experiment, cwd=tmp_path, MACHBENCH_CACHE=str(tmp_path / "cache"))
    assert predictions(tmp_path, "label_frequency")["labels"][0, :, :2].tolist() == [[1, 2], [0, 1]]
    assert results(tmp_path)["P@1"].tolist() == [1.0]


@pytest.mark.slow
def test_score_finds_again_what_was_measured(ran: Path, tmp_path: Path) -> None:
    shutil.copytree(ran / "results", tmp_path / "results")
    before = results(tmp_path)
    assert machbench("score", "small", cwd=tmp_path).stdout.count("unchanged") == 4
    pd.testing.assert_frame_equal(results(tmp_path), before)

    (run,) = (tmp_path / "results" / "small" / "runs").glob("full_softmax-*")
    record = json.loads((run / "record.json").read_text())
    right = record["rows"][0]["P@5"]
    record["rows"][0]["P@5"] = 0.999  # as a metric bug of an earlier version would have left it
    (run / "record.json").write_text(json.dumps(record))
    assert "changed by up to" in machbench("score", "small", cwd=tmp_path).stdout
    repaired = results(tmp_path).set_index("method").loc["full_softmax"]
    assert repaired["P@5"] == right
    assert repaired["fit_s"] == record["rows"][0]["fit_s"]

    (run / "topk.npz").write_bytes(b"PK\x03\x04 cut")
    done = machbench("score", "small", cwd=tmp_path, check=1)  # the others were scored
    assert done.stdout.count("unchanged") == 3
    assert done.stderr.count("topk.npz: not readable predictions") == 1


@pytest.mark.slow
def test_foreign_predictions_become_a_row(ran: Path, tmp_path: Path) -> None:
    """Our own ranking, written as text pairs and as npz, scores what it scored as a run."""
    shutil.copytree(ran / "results", tmp_path / "results")
    kept = predictions(tmp_path, "full_softmax")
    write_score_pairs(tmp_path / "pairs.txt", kept["scores"][0], kept["labels"][0])
    np.savez(tmp_path / "arrays.npz", labels=kept["labels"][0], scores=kept["scores"][0])
    for name, method in {"pairs.txt": "text", "arrays.npz": "arrays"}.items():
        machbench("score", "small", "--file", name, "--method", method, "--dataset", "tiny", cwd=tmp_path)
    table = results(tmp_path).set_index("method")
    for method in ("text", "arrays"):
        for metric in ("P@1", "P@5", "PSP@3", "nDCG@5"):
            assert table.loc[method, metric] == table.loc["full_softmax", metric]
        assert pd.isna(table.loc[method, "fit_s"])
        assert pd.isna(table.loc[method, "epochs"])
    machbench("report", "small", cwd=tmp_path)
    wrong = ["--file", "pairs.txt", "--method", "text", "--dataset", "icd10cm"]
    assert "pairs.txt" in machbench("score", "small", *wrong, cwd=tmp_path, check=2).stderr
