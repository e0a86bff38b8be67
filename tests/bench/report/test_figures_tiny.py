"""What the name of the main figure states, on runs of the tiny dataset: cost linear in R, resolution exponential."""

from __future__ import annotations

import csv
import math

import pytest

from bench.config.experiment import load_experiment
from bench.report.figures import write_figures
from bench.results.run_folder import RunFolder
from bench.results.store import Store
from bench.results.table import load_results, write_results

pytestmark = pytest.mark.slow
B, R_MAX, SEEDS, K = 8, 6, (0, 1, 2), 500
EXPERIMENT = f"""
dataset: tiny
seeds: {list(SEEDS)}
train: {{hidden: 8, epochs: 1, batch_size: 500, validate_every: 0, device: cpu}}
methods:
  mach: {{B: {B}, R: {R_MAX}, hash: murmur3, repetitions_at_a_time: 2}}
"""


@pytest.fixture(scope="module")
def plotted(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    from bench.run.execute import execute

    folder = tmp_path_factory.mktemp("tiny")
    (folder / "linear.yaml").write_text(EXPERIMENT)
    store = Store(folder / "results" / "linear")
    for spec in load_experiment(str(folder / "linear.yaml")).runs:
        run = RunFolder.create(store.runs, f"mach-s{spec.seed}", spec)
        run.write_record(execute(spec, run, lambda _: None))
        run.complete()
    write_results(store)
    write_figures(load_results(store.root), folder / "figures", store.runs)
    with (folder / "figures" / "linear_cost_exponential_resolution.csv").open(newline="") as f:
        return list(csv.DictReader(f))


def points(plotted: list[dict[str, str]], panel: str, kind: str) -> dict[int, dict[str, str]]:
    return {int(row["R"]): row for row in plotted if row["panel"] == panel and row["kind"] == kind}


def test_cost_in_parameters_and_bytes_is_exactly_linear(plotted: list[dict[str, str]]) -> None:
    for panel, intercept in (("params_output", 0), ("model_bytes", 0)):
        measured = points(plotted, panel, "measured")
        assert list(measured) == list(range(1, R_MAX + 1))
        each = float(measured[1]["mean"])
        assert [float(measured[R]["mean"]) for R in measured] == [each * R for R in measured], "exactly"
        fit = points(plotted, panel, "fit")[R_MAX]
        assert float(fit["slope_per_repetition"]) == pytest.approx(each, rel=1e-9)
        assert float(fit["intercept"]) == pytest.approx(intercept, abs=1e-6 * each)
        assert float(fit["r_squared"]) == pytest.approx(1, abs=1e-12)
    assert float(points(plotted, "params_output", "measured")[1]["mean"]) == B * (8 + 1)


def test_training_time_has_a_fitted_line_where_it_was_measured(plotted: list[dict[str, str]]) -> None:
    assert list(points(plotted, "fit_s", "measured")) == [2, 4, 6]
    assert float(points(plotted, "fit_s", "fit")[6]["r_squared"]) <= 1


def test_unresolved_pairs_are_within_sampling_error_of_theory(plotted: list[dict[str, str]]) -> None:
    """Pairs of labels collide independently of each other, pair by pair, under a hash that is random enough: the
    variance of their number is that of as many coins. Four standard errors of the mean over seeds are allowed."""
    pairs = K * (K - 1) / 2
    measured, expected = (
        points(plotted, "unresolved_pairs", "measured"),
        points(plotted, "unresolved_pairs", "expected"),
    )
    assert list(measured) == list(expected) == list(range(1, R_MAX + 1))
    for R, row in measured.items():
        chance = B**-R
        assert float(expected[R]["mean"]) == pytest.approx(pairs * chance)
        error = math.sqrt(pairs * chance * (1 - chance) / len(SEEDS))
        assert abs(float(row["mean"]) - pairs * chance) <= 4 * error, R
