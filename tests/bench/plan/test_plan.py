"""The plan of an experiment before it runs: sizes without data, states, budgets, and predictions against real runs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import PEAK_TOLERANCE, machbench, results, write_experiment

from bench.common.errors import InputError
from bench.common.units import in_units, read_bytes
from bench.config.experiment import load_experiment
from bench.data.sizes import dataset_sizes
from bench.model.methods import Method
from bench.plan.budget import Budget, largest, solve
from bench.plan.forecast import predict_run
from bench.plan.grid import Planner, make_grid
from bench.plan.rates import EarlierRun, Rates, seconds_like
from bench.plan.view import read_budget, read_pair
from bench.results.record import RunRecord

LAYERS = ("mach", "full_softmax", "one_vs_all", "sampled_softmax", "adaptive_softmax", "bottleneck")


@pytest.fixture
def planner(tmp_path: Path) -> Planner:
    """A made-up machine, so that nothing depends on the one the tests run on."""
    return Planner(tmp_path, None, None, 400_000_000, 4_000_000_000, 2, Rates(1e11, 1e10))


@pytest.fixture
def no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MACHBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


def experiment(folder: Path, text: str) -> Any:
    path = folder / "small.yaml"
    path.write_text(text)
    return load_experiment(str(path))


def test_amazon_search_is_planned_without_data(no_data: Path, planner: Planner) -> None:
    """The published 6.4 billion parameters (and biases) of B = 20,000, for 49.46 million labels."""
    plans = {
        (run.spec.method, run.spec.settings.get("B")): run
        for run in (planner.plan(spec, None) for spec in load_experiment("amazon-search").runs)
    }
    mach, full = plans["mach", 20_000], plans["full_softmax", None]
    assert mach.predicted.parameters is not None
    assert mach.predicted.parameters["params_total"] == 6_400_000_000 + 32 * 22_000
    assert full.predicted.parameters is not None
    assert full.predicted.parameters["params_output"] == 49_460_000 * 2_001
    assert full.fits is False
    assert "needs" in full.reason
    assert "free" in full.reason
    assert not (no_data / "cache").exists()


def test_sizes_follow_card_and_overrides(no_data: Path) -> None:
    tiny = dataset_sizes("tiny")
    assert (tiny.n_train, tiny.n_validation, tiny.n_labels, tiny.known_from) == (2000, 200, 500, "card")
    small = dataset_sizes("amazon670k-style", scale=0.01, validation_points=7)
    assert (small.n_labels, small.n_train, small.n_validation) == (6701, 4904, 7)
    with pytest.raises(InputError, match="unknown parameter"):
        dataset_sizes("tiny", n_lables=3)
    with pytest.raises(InputError, match="n_train"):
        dataset_sizes("imagenet-22k")
    assert not (no_data / "cache").exists()


def test_a_run_too_large_says_what_it_needs(no_data: Path, planner: Planner) -> None:
    planner.available = 100_000_000
    chosen = experiment(no_data, "dataset: tiny\nmethods: {full_softmax: {}}\n")
    run = planner.plan(chosen.runs[0], None)
    assert run.fits is False
    assert run.reason.startswith("needs ")


def test_unsupported_and_failed_runs_differ(no_data: Path, planner: Planner) -> None:
    text = "dataset: tiny\ntrain: {precision: bf16}\nmethods: {adaptive_softmax: {}}\n"
    (spec,) = experiment(no_data, text).runs
    assert planner.plan(spec, None).state == "unsupported"
    (spec,) = experiment(no_data, "dataset: tiny\nmethods: {bottleneck: {}}\n").runs
    failed = planner.plan(spec, RunRecord("a-run", "oom_host", reason="fit: too much"))
    assert (failed.state, failed.reason) == ("failed: oom_host", "fit: too much")
    (spec,) = experiment(no_data, "dataset: tiny\nmethods: {adaptive_softmax: {cutoffs: 2000-900000}}\n").runs
    assert planner.plan(spec, None).state == "unsupported"


def test_a_time_limit_is_a_reason(no_data: Path, planner: Planner) -> None:
    planner.time_limit_s = 1e-9
    run = planner.plan(experiment(no_data, "dataset: tiny\nmethods: {mach: {}}\n").runs[0], None)
    assert run.fits is False
    assert "time limit" in run.reason


def test_a_memory_limit_is_a_reason(no_data: Path, planner: Planner) -> None:
    planner.memory_limit_bytes = 450_000_000
    run = planner.plan(experiment(no_data, "dataset: tiny\nmethods: {mach: {}}\n").runs[0], None)
    assert run.fits is False
    assert "memory limit 450 MB" in run.reason


@pytest.mark.parametrize("quantity", ["parameters", "bytes", "seconds"])
def test_solutions_keep_to_the_budget_and_one_more_does_not(no_data: Path, planner: Planner, quantity: str) -> None:
    text = "dataset: {name: amazon670k-style, scale: 0.1}\ntrain: {hidden: 64}\nmethods: {" + ", ".join(
        f"{name}: {{}}" for name in LAYERS
    )
    limit = {"parameters": 5e6, "bytes": 1.2e9, "seconds": 60.0}[quantity]
    chosen = experiment(no_data, text + "}\n")
    found = solve(chosen, planner, Budget(quantity, limit), {})
    assert {solution.spec.method for solution in found} == set(LAYERS)
    for solution in found:
        assert solution.override is not None, (solution.spec.method, solution.reason)
        assert solution.predicted is not None
        assert solution.predicted <= limit
        key, _, value = solution.override.partition("=")
        for size, keeps in ((int(value), True), (int(value) + 1, False)):
            (spec,) = (
                s
                for s in load_experiment(str(no_data / "small.yaml"), [f"{key}={size}"]).runs
                if s.method == solution.spec.method
            )
            predicted = planner.predict(spec)
            assert predicted.parameters is not None
            value_of = {
                "parameters": predicted.parameters["params_output"],
                "bytes": predicted.peak_bytes,
                "seconds": planner.seconds(spec, predicted)[0],
            }[quantity]
            assert value_of is not None
            assert (value_of <= limit) is keeps, (solution.override, size, value_of)


def test_a_setting_can_be_asked_for(no_data: Path, planner: Planner) -> None:
    chosen = experiment(no_data, "dataset: tiny\nmethods: {mach: {B: 100, R: 4}}\ntrain: {hidden: 9}\n")
    (found,) = solve(chosen, planner, Budget("parameters", 7_500), {"mach": "R"})
    assert (found.override, found.predicted) == ("methods.mach.R=7", 7_000)
    with pytest.raises(InputError, match="unknown setting"):
        solve(chosen, planner, Budget("parameters", 7_500), {"mach": "Q"})
    with pytest.raises(InputError, match="unknown method"):
        solve(chosen, planner, Budget("parameters", 7_500), {"march": "R"})


def test_what_cannot_be_met_says_why(no_data: Path, planner: Planner) -> None:
    chosen = experiment(no_data, "dataset: tiny\nmethods: {full_softmax: {}, label_frequency: {}}\n")
    found = {solution.spec.method: solution for solution in solve(chosen, planner, Budget("parameters", 10), {})}
    assert found["full_softmax"].override is None
    assert "already needs 1,000" in found["full_softmax"].reason
    assert "no size" in found["label_frequency"].reason


@pytest.mark.parametrize(("text", "count"), [("4e9", 4e9), ("4GB", 4e9), ("4 GiB", 2**32), ("1.5mb", 1.5e6)])
def test_bytes_are_read(text: str, count: float) -> None:
    assert read_bytes(text, "x") == count


@pytest.mark.parametrize("text", ["", "GB", "-4GB", "4 GBit", "0", "1.2.3"])
def test_other_words_are_no_bytes(text: str) -> None:
    with pytest.raises(InputError, match="expected bytes"):
        read_bytes(text, "x")


def test_one_budget_at_a_time() -> None:
    assert read_budget({"parameters": None, "bytes": "1kB"}) == Budget("bytes", 1000.0)
    assert read_budget({"parameters": None}) is None
    for given in ({"parameters": 3.0, "bytes": "4GB"}, {"parameters": 0.0}):
        with pytest.raises(InputError):
            read_budget(given)
    assert read_pair("mach=R") == ("mach", "R")
    with pytest.raises(InputError, match="METHOD=SETTING"):
        read_pair("mach")


@pytest.mark.parametrize("last", [1, 2, 3, 1000, 1023, 1024, 1025])
def test_the_largest_size(last: int) -> None:
    assert largest(lambda size: float(size), last + 0.5) == last


def test_earlier_runs_are_scaled_by_the_model(no_data: Path) -> None:
    chosen = experiment(no_data, "dataset: tiny\nmethods: {mach: {B: [8, 64, 512]}, bottleneck: {}}\n")
    small, middle, large, other = chosen.runs
    model: Callable[[Any], float] = lambda spec: float(spec.settings.get("B", 1))  # noqa: E731
    earlier = [EarlierRun(small, 1.0), EarlierRun(large, 100.0), EarlierRun(other, 1e6)]
    assert seconds_like(middle, 64.0, earlier[:1], model) == 8.0
    assert seconds_like(middle, 200.0, earlier, model) == pytest.approx(100.0 * 200 / 512)  # the nearer one
    assert seconds_like(other, 1.0, earlier[:2], model) is None


def test_units() -> None:
    assert [in_units(n) for n in (None, 12, 999_600, 3_120_000_000, 5e15)] == [
        "",
        "12 B",
        "1 MB",
        "3.12 GB",
        "5e+03 TB",
    ]


@pytest.mark.parametrize("method", LAYERS)
def test_parameters_equal_the_built_network(method: str, no_data: Path) -> None:
    """And the sum of the parts is the total; what a run counts is compared in the slow test."""
    text = f"dataset: tiny\ntrain: {{hidden: 24-16}}\nmethods: {{{method}: {{}}}}\n"
    (spec,) = experiment(no_data, text).runs
    found = predict_run(Method.load(spec.target, spec.settings), spec, dataset_sizes("tiny"), 0, None, 2).parameters
    assert found is not None
    encoders = spec.settings.get("R", 1)
    assert found["params_input"] == encoders * 1001 * 24
    assert found["params_hidden"] == encoders * 25 * 16
    assert found["params_total"] == sum(found[f"params_{part}"] for part in ("input", "hidden", "output"))


@pytest.mark.slow
@pytest.mark.soak
def test_predictions_against_runs(tmp_path: Path) -> None:
    """Parameters exactly, peak bytes within the tolerance; then the plan calls the runs cached and measured."""
    methods = "".join(f"  {name}: {{}}\n" for name in LAYERS if name != "mach")
    text = (
        "dataset: {name: amazon3m-style, n_train: 3000, n_test: 500, n_labels: 30000, n_features: 20000}\n"
        "train: {hidden: 64, epochs: 1, batch_size: 512}\n"
        f"methods:\n{methods}  mach: {{B: 500, R: 8}}\n"
    )
    write_experiment(tmp_path, text)
    machbench("run", "small.yaml", cwd=tmp_path)  # compiles what is not compiled yet, which takes memory of its own
    machbench("run", "small.yaml", "--force", cwd=tmp_path)
    table = results(tmp_path)
    own = table[table.derived_from.isna()]
    error = (own.predicted_peak_bytes.astype(float) / own.peak_host_bytes.astype(float) - 1).set_axis(own.method)
    assert error.abs().max() <= PEAK_TOLERANCE, error
    done = machbench("plan", "small.yaml", "--json", "plan.json", cwd=tmp_path)
    assert "6 runs, 6 cached" in done.stdout
    rows = {row["method"]: row for row in json.loads((tmp_path / "plan.json").read_text())}
    for run in own.to_dict("records"):
        planned = rows[run["method"]]
        assert planned["state"] == "cached"
        assert planned["fit_s_from"] == "measured"
        for name in ("params_total", "params_input", "params_hidden", "params_output", "params_per_repetition"):
            assert planned[name] == run[name], (run["method"], name)


@pytest.mark.slow
def test_bad_requests_end_with_status_2(tmp_path: Path) -> None:
    write_experiment(tmp_path, "dataset: tiny\nmethods: {mach: {}}\n")
    for arguments, words in ((["--budget-bytes", "4 apples"], "4 apples"), (["--solve", "mach"], "METHOD=SETTING")):
        extra = [] if "--budget-bytes" in arguments else ["--budget-parameters", "1e6"]
        done: subprocess.CompletedProcess[str] = machbench(
            "plan", "small.yaml", *arguments, *extra, cwd=tmp_path, check=2
        )
        assert words in done.stderr


def test_nothing_is_written_by_a_plan(no_data: Path) -> None:
    chosen = experiment(no_data, "dataset: tiny\nmethods: {mach: {}}\n")
    (run,) = make_grid(chosen, no_data / "results")
    assert run.state == "to do"
    assert not (no_data / "results").exists()
    assert not (no_data / "cache").exists()
