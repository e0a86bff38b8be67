"""Experiments against each other and rows against the best, on predictions of known quality for the tiny dataset."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_records import write_record

from bench.__main__ import main
from bench.common.errors import InputError
from bench.common.text_table import to_csv, to_latex, to_markdown
from bench.config.spec import RunSpec, TrainSettings
from bench.data import load_dataset
from bench.metrics.scorer import Scorer
from bench.metrics.significance import paired_bootstrap
from bench.report.against_best import against_best
from bench.report.diff import diff
from bench.report.tables import build_tables
from bench.report.tables.by_frequency import decile_table, frequency_table
from bench.results.predictions import RankedLabels
from bench.results.record import described
from bench.results.run_folder import RunFolder
from bench.results.store import Store
from bench.results.table import load_results, write_results


def add_run(store: Store, method: str, skill: float, seed: int = 0, env: str = "e1", **more: Any) -> str:
    """A run on the tiny dataset that ranks a true label first with probability ``skill``; nothing is trained."""
    data = load_dataset("tiny")
    spec = RunSpec(method, "a.B", {}, TrainSettings(epochs=more.pop("epochs", 5)), "tiny", {}, seed)
    run_id = f"{method}-tiny-s{seed}-{spec.train.epochs}"
    folder = RunFolder.create(store.runs, run_id, spec)
    shared = described(spec, "cpu") | {"env_id": env, "data_fingerprint": data.fingerprint} | more.pop("shared", {})
    if more.get("status", "ok") == "ok":
        draw = np.random.default_rng([seed, len(method)])
        labels = np.array([draw.permutation(data.test.Y.shape[1])[:5] for _ in range(len(data.test))], dtype=np.int32)
        for n in np.flatnonzero(draw.random(len(labels)) < skill):
            true = data.test.Y.indices[data.test.Y.indptr[n] : data.test.Y.indptr[n + 1]]
            if len(true) and true[0] not in labels[n]:
                labels[n, 0] = true[0]
        folder.write_predictions([RankedLabels(None, np.zeros(labels.shape, np.float32), labels)])
        score = Scorer(data).score(labels)
        rows = [score.quality | {"fit_s": 10.0 * skill, "params_total": 100}]
        write_record(folder, status="ok", shared=shared, rows=rows, deciles=[score.deciles])
    else:
        write_record(folder, **({"reason": "made up", "shared": shared} | more))
    folder.complete()
    write_results(store)
    return run_id


@pytest.fixture
def results(tmp_path: Path) -> Path:
    (tmp_path / "env").mkdir()
    for env, version in (("e1", "2.0"), ("e2", "2.1")):
        content = {"env_id": env, "cpu": "made-up", "packages": {"numpy": version}}
        (tmp_path / "env" / f"{env}.json").write_text(json.dumps(content))
    return tmp_path


def test_an_experiment_is_equal_to_itself(results: Path) -> None:
    add_run(Store(results / "a"), "m", 0.5)
    lines, significant = diff("a", "a", results, times=False)
    text = "\n".join(lines)
    assert not significant
    assert "+0.00 [+0.00, +0.00]  won 0, lost 0, tied 500 of 500 points; p 1, Holm 1" in text
    assert "Environment e1 on both sides." in text


def test_a_difference_is_tested_over_points(results: Path) -> None:
    run_a = add_run(Store(results / "a"), "m", 0.3)
    add_run(Store(results / "b"), "m", 0.7)
    lines, significant = diff("a", "b", results, times=False)
    assert significant
    (line,) = [line for line in lines if line.strip().startswith("P@1 ")]
    assert "Holm" in line
    assert line.endswith("*")
    assert any("fit_s 3.00 → 7.00 s (2.33×)" in line for line in lines)
    # the lines report the paired bootstrap of the two rankings' hits
    hits = []
    for name in "ab":
        data, folder = load_dataset("tiny"), results / name / "runs" / run_a
        labels = np.load(folder / "topk.npz")["labels"][0]
        hits.append(np.asarray(data.test.Y[np.arange(len(labels)), labels[:, 0]]).ravel().astype(float))
    found = paired_bootstrap(*hits)
    assert f"won {found.won}, lost {found.lost}, tied {found.tied} of 500 points" in line


def test_times_of_two_machines_only_with_the_option(results: Path) -> None:
    add_run(Store(results / "a"), "m", 0.5)
    add_run(Store(results / "b"), "m", 0.5, env="e2", shared={"device": "cuda"})
    lines = "\n".join(diff("a", "b", results, times=False)[0])
    assert "times and memory not compared: measured in environments e1 and e2" in lines
    assert "packages.numpy: 2.0 → 2.1" in lines
    shutil.copytree(results / "b", results / "c")
    add_run(Store(results / "c"), "m", 0.6, env="e2")
    assert "fit_s 5.00 → 6.00" not in "\n".join(diff("a", "c", results, times=False)[0])
    assert "fit_s 5.00 → 6.00" in "\n".join(diff("a", "c", results, times=True)[0])


def test_runs_are_matched_by_method_settings_and_seed(results: Path) -> None:
    for seed in (0, 1, 2):
        add_run(Store(results / "a"), "m", 0.4, seed)
        add_run(Store(results / "b"), "m", 0.6, seed)
    other = add_run(Store(results / "b"), "m", 0.6, epochs=6)
    lines, _ = diff("a", "b", results, times=False)
    assert lines[0].endswith("3 matched, 1 on one side only")
    assert f"only in B: {other}" in lines
    assert sum("(95 % t interval, n 3)" in line for line in lines) == 4
    add_run(Store(results / "d"), "else", 0.5)
    with pytest.raises(InputError, match="no run of a"):
        diff("a", "d", results, times=False)


def test_two_runs_by_their_ids(results: Path) -> None:
    first, second = (add_run(Store(results / "a"), name, skill) for name, skill in (("m", 0.2), ("other", 0.8)))
    lines, significant = diff(first, second, results, times=False)
    assert significant
    assert "  setting method: m → other" in lines
    with pytest.raises(InputError, match="two experiments or two runs"):
        diff("a", second, results, times=False)
    with pytest.raises(InputError, match="did you mean"):
        diff(first, second[:-1], results, times=False)


def test_runs_on_different_data_are_shown_without_differences(results: Path) -> None:
    add_run(Store(results / "a"), "m", 0.2)
    for name, value in (("data_fingerprint", "0000"), ("evaluated_on", "validation")):
        add_run(Store(results / name), "m", 0.8, shared={name: value})
        lines, significant = diff("a", name, results, times=False)
        assert significant
        text = "\n".join(lines)
        assert f" → {value}" in text
        assert "not comparable" in text
        (quality,) = (line for line in lines if line.startswith("  P@1"))
        assert quality.endswith("%")  # both values, and no difference
        assert "0 of 0 paired tests" in text


def test_a_replaced_run_can_be_compared_with_the_one_that_replaced_it(results: Path) -> None:
    store = Store(results / "a")
    old = add_run(store, "m", 0.2, shared={"data_fingerprint": "0000"})
    (store.runs / old).rename(store.runs / "old")
    record = store.runs / "old" / "record.json"
    record.write_text(record.read_text().replace(old, "old"))
    store.ledger.append("finished", "old", status="ok")
    new = add_run(store, "m", 0.8)
    store.ledger.append("finished", new, status="ok")
    write_results(store)
    assert load_results(store.root)["run_id"].tolist() == [new]
    text = "\n".join(diff("old", new, results, times=False)[0])
    assert "data_fingerprint 0000 → " in text


def test_a_failure_on_one_side_is_a_difference(results: Path) -> None:
    add_run(Store(results / "a"), "m", 0.5)
    add_run(Store(results / "b"), "m", 0.5, status="crashed")
    lines, significant = diff("a", "b", results, times=False)
    assert significant
    assert "  status ok → crashed" in lines


def test_without_predictions_there_is_no_test(results: Path) -> None:
    for name, skill in (("a", 0.2), ("b", 0.8)):
        add_run(Store(results / name), "m", skill)
        shutil.rmtree(results / name / "runs")
    lines, significant = diff("a", "b", results, times=False)
    assert not significant
    assert any("no paired test: the kept predictions" in line for line in lines)
    assert any("spec.json is not beside" in line for line in lines)


def test_exit_status(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, skill in (("a", 0.2), ("b", 0.8)):
        add_run(Store(results / name), "m", skill)
    for arguments, code in ((("a", "a"), 0), (("a", "b"), 1), (("a", "nothing-like-it"), 2)):
        monkeypatch.setattr(sys, "argv", ["machbench", "diff", *arguments, "--results", str(results)])
        with pytest.raises(SystemExit) as end:
            main()
        assert int(end.value.code or 0) == code


def test_rows_not_significantly_different_from_the_best_are_marked(results: Path) -> None:
    store = Store(results / "a")
    for method, skill in (("bad", 0.1), ("good", 0.700), ("better", 0.705)):
        for seed in (0, 1):
            add_run(store, method, skill, seed)
    df = load_results(store.root)
    tested = against_best(df, store.root)
    assert tested.untested == ()
    quality, _ = build_tables(df, tested)
    at = [head.name for head in quality.heads].index("P@1")
    marks = {row[0].text: row[at].mark for row in quality.rows}
    assert sorted(marks.values()) == ["", "", "≈"]
    assert marks["bad"] == ""
    p = {row[0].text: row[at].p for row in quality.rows}
    assert p["bad"] is not None
    assert p["bad"] < 1e-6
    assert "not significantly different from the best" in to_markdown(quality)
    assert "$^{\\approx}$" in to_latex(quality)
    assert "P@1_p" in to_csv(quality).splitlines()[0].split(",")


def test_tables_without_runs_say_that_nothing_was_tested(results: Path) -> None:
    store = Store(results / "a")
    for method in ("one", "other"):
        add_run(store, method, 0.5)
    shutil.rmtree(store.runs)
    df = load_results(store.root)
    quality, _ = build_tables(df, against_best(df, store.root))
    assert "Not tested over test points: the kept predictions (runs/) are not beside the table" in to_markdown(quality)
    assert "≈" not in to_markdown(quality)
    assert frequency_table(df) is not None
    assert decile_table(df, store.root) is None


def test_deciles_of_the_table_add_up_to_precision(results: Path) -> None:
    store = Store(results / "a")
    add_run(store, "m", 0.5)
    table = decile_table(load_results(store.root), store.root)
    assert table is not None
    parts, whole = table.rows[0][-11:], load_results(store.root)["P@5"][0]
    assert sum(float(cell.value or 0.0) for cell in parts) == pytest.approx(whole)


def test_reading_results_needs_no_torch() -> None:
    modules = "bench.report.diff, bench.report.tables, bench.report.html, bench.results.left_out.quarantine"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
