"""Tuning on equal terms: how trials are drawn, which is chosen, and that test points play no part in it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_records import write_record

from bench.common.errors import InputError
from bench.common.paths import config_root
from bench.common.text_table import to_csv, to_markdown
from bench.config.experiment import TRIAL, Experiment, experiment_name, load_experiment
from bench.config.search_space import Space, draw_trials
from bench.config.spec import RunSpec, TrainSettings
from bench.data import load_dataset
from bench.launch.tune import write_chosen
from bench.metrics.ranking import evaluate
from bench.plan.plan import PlannedRun
from bench.report.tables import build_tables
from bench.report.tables.tuning import tuning_table
from bench.results.run_folder import RunFolder
from bench.results.store import Store
from bench.results.table import load_results, rows_to_frame

ROOT = Path(__file__).resolve().parents[3]
TUNE = """
dataset: tiny
tune: {trials: 4, seed: 3}
train: {hidden: 16, epochs: 2, batch_size: 64, lr: 0.03}
methods:
  label_frequency: {}
  mach: {B: 32, R: 2, lr: {log_uniform: [0.001, 0.1]}, loss: {choice: [bce, softmax]}}
  full_softmax: {epochs: {choice: [1, 2]}}
"""


def write(folder: Path, text: str = TUNE, name: str = "small") -> str:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return str(path)


SPACES = {
    "uniform": Space("uniform", (-2.0, 3)),
    "log_uniform": Space("log_uniform", (0.002, 0.05)),
    "uniform_int": Space("uniform_int", (1, 3)),
    "log_uniform_int": Space("log_uniform_int", (2, 4096)),
    "choice": Space("choice", ("a", None, 2)),
}


@given(u=st.floats(0, 1, exclude_max=True), kind=st.sampled_from(sorted(SPACES)))
def test_values_lie_in_their_space(u: float, kind: str) -> None:
    space = SPACES[kind]
    value = space.at(u)
    if kind == "choice":
        assert value in space.values
        return
    low, high = space.values
    assert low <= value <= high
    assert isinstance(value, int) == kind.endswith("_int") or value in space.values
    assert float(f"{value:.3g}") == value or kind.endswith("_int")


def test_spaces_are_covered_evenly() -> None:
    """Equal shares for whole numbers and choices, equal shares of each decade for the log kinds; both ends reached."""
    quantiles = (np.arange(3000) + 0.5) / 3000
    for kind, expected in (("uniform_int", [1, 2, 3]), ("choice", ["a", None, 2])):
        found = [SPACES[kind].at(u) for u in quantiles]
        assert [found.count(value) for value in expected] == [1000] * 3
    decades = Space("log_uniform", (0.01, 10))
    found = [math.floor(math.log10(decades.at(u))) for u in quantiles]
    assert [found.count(decade) for decade in (-2, -1, 0)] == pytest.approx([1000] * 3, abs=10)
    assert Space("log_uniform_int", (1, 8)).at(0.0) == 1
    assert Space("log_uniform_int", (1, 8)).at(1 - 1e-12) == 8


def test_trials_are_the_defaults_and_then_different_draws() -> None:
    spaces, defaults = {"lr": SPACES["log_uniform"], "n": SPACES["log_uniform_int"]}, {"lr": 0.01, "n": 8192}
    eight = draw_trials(spaces, defaults, 8, 0, ("tiny", "mach"))
    assert eight[0] == defaults
    assert len({json.dumps(trial) for trial in eight}) == 8
    assert eight[:5] == draw_trials(spaces, defaults, 5, 0, ("tiny", "mach"))  # more trials later change none
    for others in (("tiny", "other"), ("other", "mach")):
        assert not any(trial in eight for trial in draw_trials(spaces, defaults, 8, 0, others)[1:])
    assert draw_trials(spaces, defaults, 8, 1, ("tiny", "mach"))[1:] != eight[1:]
    more = draw_trials(spaces | {"x": SPACES["choice"]}, defaults | {"x": 2}, 8, 0, ("tiny", "mach"))
    assert [{"lr": t["lr"], "n": t["n"]} for t in more] == eight  # a further setting leaves the others


def test_a_small_space_is_tried_whole_and_each_point_once() -> None:
    spaces = {"a": Space("choice", (1, 2, 3)), "b": Space("choice", ("x", "y"))}
    found = draw_trials(spaces, {"a": 1, "b": "x"}, 50, 0, ())
    assert sorted((t["a"], t["b"]) for t in found) == [(a, b) for a in (1, 2, 3) for b in "xy"]
    assert draw_trials({}, {}, 8, 0, ()) == [{}]


def test_an_experiment_unfolds_into_trials(tmp_path: Path) -> None:
    experiment = load_experiment(write(tmp_path))
    runs = {name: [run for run in experiment.runs if run.method == name] for name in experiment.config["methods"]}
    assert {name: len(of) for name, of in runs.items()} == {"label_frequency": 1, "mach": 4, "full_softmax": 2}
    assert [run.swept[TRIAL] for run in runs["mach"]] == [0, 1, 2, 3]
    assert all(run.train.evaluate_on == "validation" and run.train.holdout for run in experiment.runs)
    # Defaults as without tuning: the method's file, overruled by what the experiment says for all.
    default = runs["mach"][0]
    assert (default.settings["loss"], default.train.lr) == ("bce", 0.03)
    assert default.swept == {TRIAL: 0, "tune.lr": 0.03}  # loss has a column of its own
    assert all(0.001 <= run.train.lr <= 0.1 and run.settings["B"] == 32 for run in runs["mach"][1:])
    assert [run.train.epochs for run in runs["full_softmax"]] == [2, 1]


def test_trials_of_several_datasets_and_seeds(tmp_path: Path) -> None:
    text = TUNE.replace("dataset: tiny", "seeds: [0, 1]\ndataset: [{name: tiny, seed: [3, 4]}, tiny]")
    runs = [run for run in load_experiment(write(tmp_path, text)).runs if run.method == "mach"]
    assert len(runs) == 2 * 3 * 4
    drawn = {run.train.lr for run in runs if run.swept[TRIAL]}
    assert len(drawn) == 3 * 3  # each dataset has its own draws, seeds share them


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tune.trials=0"], r"tune.trials: found 0; expected a whole number of at least 1"),
        (["tune.trails=3"], r"unknown key 'trails' in .*tune; did you mean 'trials'\?"),
        (["tune.metric=P@2"], r"unknown metric 'P@2' in .*tune"),
        (["methods.mach.B=32,64"], r"B of mach: found \[32, 64\]; with the key tune expected a value, or a search"),
        (["train.epochs={choice: [1, 2]}"], r"train.epochs of label_frequency: found .*search space of one method"),
        (["methods.mach.lr={log_unifrom: [1, 2]}"], r"unknown search space 'log_unifrom' in .*lr; did you mean 'log"),
        (["methods.mach.lr={log_uniform: [0, 2]}"], r"lr.log_uniform: found \[0, 2\]; expected two numbers above 0"),
        (["methods.mach.lr={uniform: [2, 1]}"], r"lr.uniform: found \[2, 1\]; expected two numbers, the lower first"),
        (["methods.mach.R={uniform_int: [1.5, 2]}"], r"R.uniform_int: found .*; expected two whole numbers"),
        (["methods.mach.R={choice: 3}"], r"R.choice: found 3; expected a list"),
        (["methods.mach.lr={choice: [1], uniform: [1, 2]}"], r"methods.mach.lr: found .*; expected one of choice"),
        (["train.holdout=false"], r"holdout: found False; expected True"),
        (["name=a/b"], r"key name: found 'a/b'; expected letters"),
    ],
)
def test_experiments_that_cannot_be_tuned(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_experiment(write(tmp_path), overrides)


def test_a_search_space_needs_a_tuning(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"methods.mach.(lr|loss): found .*; expected a value, or the key tune"):
        load_experiment(write(tmp_path, TUNE.replace("tune:", "# tune:")))


def test_runs_on_test_points_keep_the_names_they_had() -> None:
    def spec(**train: str) -> RunSpec:
        return RunSpec("m", "a.B", {}, TrainSettings(**train), "tiny", {}, 0)  # type: ignore[arg-type]

    assert "evaluate_on" not in spec().canonical()
    assert spec().canonical() == spec(evaluate_on="test").canonical() != spec(evaluate_on="validation").canonical()
    assert RunSpec.from_json(spec(evaluate_on="validation").to_json()) == spec(evaluate_on="validation")


Record = Callable[[RunSpec], float | None]


def recorded(experiment: Experiment, store: Store, quality: Record) -> list[PlannedRun]:
    """The experiment's runs, with records that hold a made-up P@1, or the failure that None stands for."""
    runs = []
    for spec in experiment.runs:
        run_id = spec.run_id("code", "data")
        folder = RunFolder.create(store.runs, run_id, spec)
        p1 = quality(spec)
        status = "crashed" if p1 is None else "ok"
        rows = [{"P@1": 1.0, "P@3": 1.0, "P@5": 1.0}] if p1 is not None else []  # a derived row does not count
        rows.append({} if p1 is None else {"P@1": p1, "P@3": p1 / 2, "P@5": p1 / 4})
        write_record(folder, status=status, shared={"data_fingerprint": "f00d"}, rows=rows)
        folder.complete()
        runs.append(PlannedRun(run_id, spec, status))
    return runs


def test_the_best_trial_becomes_an_experiment(tmp_path: Path) -> None:
    experiment, store = load_experiment(write(tmp_path)), Store(tmp_path / "results" / "small")
    best = [run for run in experiment.runs if run.method == "mach"][2]
    runs = recorded(
        experiment, store, lambda spec: {0: 0.3, 1: None, 2: 0.5, 3: 0.4}[spec.swept[TRIAL]] if spec.settings else 0.1
    )
    path = write_chosen(experiment, runs, store)
    assert path is not None
    text = path.read_text()
    write_chosen(experiment, runs, store)
    assert path.read_text() == text

    chosen = load_experiment(str(path))
    assert (chosen.name, experiment_name(str(path)), experiment_name("small")) == (*["small_chosen"] * 2, "small")
    found = {run.method: run for run in chosen.runs}
    assert list(found) == list(experiment.config["methods"])
    assert found["mach"].settings == best.settings
    assert found["mach"].train.lr == best.train.lr
    assert {run.train.evaluate_on for run in chosen.runs} == {"test"}
    assert found["full_softmax"].train.epochs == 2  # trial 1 failed, so that trial 0 is the best

    (label_frequency, mach, full) = chosen.config["tuned"]["methods"]
    assert label_frequency["trials"] == 1
    assert (mach["trial"], mach["trials"], mach["trials_ok"], mach["data_fingerprint"]) == (2, 4, 3, "f00d")
    assert mach["run_ids"] == [best.run_id("code", "data")]
    assert mach["validation"] == {"P@1": 0.5, "P@3": 0.25, "P@5": 0.125}
    assert mach["default_validation"]["P@1"] == 0.3
    assert mach["settings"]["lr"] == best.train.lr
    assert mach["default_settings"] == {"lr": 0.03, "loss": "bce"}
    assert (full["trials"], full["trials_ok"], full["trial"]) == (2, 1, 0)

    table = tuning_table(store.root)
    assert table is not None
    assert "nothing to tune" in to_markdown(table)
    assert "At most 4 trials per method, seed 3" in to_markdown(table)
    line = to_csv(table).splitlines()[2]
    assert line.startswith("tiny,mach,4,3,2,P@1,0.5,0.3,")
    assert f"lr {best.train.lr}" in line


def test_ties_go_to_the_earlier_trial_and_seeds_are_averaged(tmp_path: Path) -> None:
    text = TUNE.replace("dataset: tiny", "seeds: [0, 1]\ndataset: tiny")
    experiment, store = load_experiment(write(tmp_path, text)), Store(tmp_path / "small")
    by_seed = {0: (0.25, 0.25), 1: (0.5, 0.25), 2: (0.25, 0.5), 3: (0.9, None)}  # one seed without a result: no result
    runs = recorded(experiment, store, lambda spec: by_seed[spec.swept[TRIAL]][spec.seed])
    path = write_chosen(experiment, runs, store)
    mach = load_experiment(str(path)).config["tuned"]["methods"][1]
    assert (mach["trial"], mach["trials_ok"], len(mach["run_ids"])) == (1, 3, 2)
    assert mach["validation"]["P@1"] == 0.375


def test_without_a_result_the_defaults_stay_and_the_file_says_so(tmp_path: Path) -> None:
    experiment, store = load_experiment(write(tmp_path)), Store(tmp_path / "small")
    path = write_chosen(experiment, recorded(experiment, store, lambda _: None), store)
    chosen = load_experiment(str(path))
    mach = chosen.config["tuned"]["methods"][1]
    assert (mach["trials_ok"], mach["validation"], mach["trial"]) == (0, None, 0)
    assert [run.train.lr for run in chosen.runs if run.method == "mach"] == [0.03]
    table = tuning_table(store.root)
    assert table is not None
    assert "defaults, because no trial has a result" in to_markdown(table)


def test_each_dataset_has_its_own_choice(tmp_path: Path) -> None:
    text = TUNE.replace("dataset: tiny", "dataset: {name: tiny, seed: [3, 4]}")
    experiment, store = load_experiment(write(tmp_path, text)), Store(tmp_path / "small")
    wanted = {3: 1, 4: 3}
    runs = recorded(
        experiment, store, lambda spec: 0.5 + 0.1 * (spec.swept[TRIAL] == wanted[spec.dataset_overrides["seed"]])
    )
    chosen = load_experiment(str(write_chosen(experiment, runs, store)))
    for seed, trial in wanted.items():
        here = [r for r in experiment.runs if r.method == "mach" and r.dataset_overrides == {"seed": seed}]
        (best,) = (run for run in here if run.swept[TRIAL] == trial)
        (found,) = (run for run in chosen.runs if (run.method, run.dataset_overrides) == ("mach", {"seed": seed}))
        assert (found.settings, found.train.lr) == (best.settings, best.train.lr)
    assert "tiny seed=4" in to_markdown(tuning_table(store.root))  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["name: x\n", "tuned: {metric: P@1}\n", "tuned: {metric: P@1, methods: [3]}\n"])
def test_a_broken_chosen_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "chosen.yaml").write_text(text)
    with pytest.raises(InputError, match=r"chosen.yaml, key tuned: found .*run the experiment again"):
        tuning_table(tmp_path)


@pytest.mark.parametrize("name", sorted(p.stem for p in (config_root() / "experiment").glob("*tune*.yaml")))
def test_our_tunings_give_every_method_the_same_number_of_trials(name: str) -> None:
    experiment = load_experiment(name)
    assert experiment.tuning is not None
    counts: dict[tuple[str, str], int] = {}
    for run in experiment.runs:
        counts[run.dataset, run.method] = counts.get((run.dataset, run.method), 0) + 1
    tuned = {method: count for (_, method), count in counts.items() if count > 1}
    assert set(tuned.values()) == {experiment.tuning.trials}
    assert set(experiment.config["methods"]) - set(tuned) <= {"label_frequency"}


def test_the_trials_of_quickstart_are_the_whole_grid() -> None:
    found: dict[str, set[tuple[float, str]]] = {}
    for run in load_experiment("quickstart_tune").runs:
        other = "loss" if run.method == "mach" else "bias"
        found.setdefault(run.method, set()).add((run.train.lr, run.settings[other]))
    grid = {
        "mach": {(lr, loss) for lr in (0.01, 0.02) for loss in ("bce", "softmax")},
        "full_softmax": {(lr, bias) for lr in (0.01, 0.02) for bias in ("prior", "zero")},
    }
    assert found == grid | {"sampled_softmax": grid["full_softmax"]}


def test_tables_name_the_points_that_they_evaluate(rows: list[dict[str, Any]]) -> None:
    def title_note(rows: list[dict[str, Any]]) -> str:
        quality, _ = build_tables(rows_to_frame(rows))
        return quality.notes[0][1]

    assert title_note(rows).startswith("Test points, per cent")  # results of before the column
    assert title_note([row | {"evaluated_on": "validation"} for row in rows]).startswith("Validation points, per cent")
    mixed = [row | {"evaluated_on": ("test", "validation")[at % 2]} for at, row in enumerate(rows)]
    assert title_note(mixed).startswith("Test and validation points, per cent")


def machbench(*arguments: str, cwd: Path) -> str:
    command = [sys.executable, "-m", "bench", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.soak
def test_from_trials_to_test_points(tmp_path: Path) -> None:
    """A classifier and a network, judged by the same points; the chosen run on test is a run like any other."""
    text = TUNE.split("  mach:")[0] + "  full_softmax: {lr: {choice: [0.0001, 0.05]}}\n"
    write(tmp_path, text)
    output = machbench("run", "small.yaml", "tune.trials=2", cwd=tmp_path)
    assert "Validation points, per cent" in output
    assert "Tuning of small" in output
    data = load_dataset("tiny")
    table = load_results(tmp_path / "results" / "small")
    assert set(table["evaluated_on"]) == {"validation"}
    A, B = data.propensity
    for row in table.to_dict("records"):
        with np.load(tmp_path / "results" / "small" / "runs" / row["run_id"] / "topk.npz") as kept:
            assert len(kept["labels"][-1]) == len(data.validation)
            expected = evaluate(kept["labels"][-1], data.validation.Y, data.train.Y, A=A, B=B)
        assert all(row[name] == pytest.approx(expected[name], abs=1e-12) for name in ("P@1", "PSP@3", "nDCG@5"))
    assert machbench("score", "small", cwd=tmp_path).count("unchanged") == len(table) == 3
    best = table[table["method"] == "full_softmax"].sort_values("P@1").iloc[-1]
    machbench("run", "results/small/chosen.yaml", cwd=tmp_path)
    chosen = load_results(tmp_path / "results" / "small_chosen").set_index("method")
    assert set(chosen["evaluated_on"]) == {"test"}
    assert chosen.loc["full_softmax", "lr"] == best["lr"]
    assert "**Quality on tiny**" in machbench("table", "results/small/chosen.yaml", cwd=tmp_path)
