"""The grid of an experiment before it runs: what is done, size and cost of each run, and whether it fits here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from bench.common.code_hash import code_hash
from bench.common.errors import InputError
from bench.common.units import in_units
from bench.config.experiment import Experiment
from bench.config.spec import RunSpec
from bench.data import dataset_fingerprint
from bench.data.dataset import identity_of
from bench.data.evaluation import cached_evaluation_inputs
from bench.data.sizes import DataSizes, dataset_sizes
from bench.model.device import has_bf16, threads_each
from bench.model.group_size import available_bytes
from bench.model.methods import Method
from bench.plan.forecast import EMPTY, Forecast, predict_run, process_bytes
from bench.plan.plan import answered, outdated, stale
from bench.plan.rates import EarlierRun, Rates, earlier_runs, measure_rates, seconds_like
from bench.results.record import RunRecord
from bench.results.store import UNSETTLED, Store

CPU = torch.device("cpu")


@dataclass(frozen=True)
class PlanRow:
    """A run of the grid. ``state``: cached, to do, unsupported, or failed with the status of its record."""

    spec: RunSpec
    state: str
    reason: str
    predicted: Forecast
    seconds: float | None
    seconds_from: str  # measured, earlier run or cost model
    fits: bool | None

    def row(self) -> dict[str, Any]:
        """As one JSON object."""
        p = self.predicted
        return {
            "method": self.spec.method,
            "dataset": self.spec.dataset_name,
            "seed": self.spec.seed,
            "settings": dict(self.spec.settings) | {"hidden": self.spec.train.hidden},
            "swept": dict(self.spec.swept),
            "state": self.state,
            "reason": self.reason,
            "fits": self.fits,
            **(p.parameters or {}),
            **{f"{name}_bytes": count for name, count in (p.bytes or {}).items()},
            "predicted_peak_bytes": p.peak_bytes,
            "fit_s": self.seconds,
            "fit_s_from": self.seconds_from,
        }


@dataclass
class Planner:
    """Predicts runs on this machine; sizes of datasets, its rates and earlier runs are looked up once."""

    results: Path
    time_limit_s: float | None = None
    memory_limit_bytes: int | None = None
    process: int = field(default_factory=process_bytes)
    available: int | None = field(default_factory=lambda: available_bytes(CPU))
    threads: int = field(default_factory=torch.get_num_threads)
    rates: Rates = field(default_factory=measure_rates)
    _sizes: dict[str, DataSizes] = field(default_factory=dict)
    _earlier: list[EarlierRun] | None = None

    def sizes(self, spec: RunSpec) -> DataSizes:
        key = f"{spec.dataset} {sorted(spec.dataset_overrides.items())}"
        if key not in self._sizes:
            self._sizes[key] = dataset_sizes(spec.dataset, **spec.dataset_overrides)
        return self._sizes[key]

    def predict(self, spec: RunSpec) -> Forecast:
        """InputError where a class, a setting or a dataset is unknown, ValueError for settings that make no sense."""
        method = Method.load(spec.target, spec.settings)
        threads = threads_each(spec.train.threads or self.threads, method.processes)
        return predict_run(method, spec, self.sizes(spec), self.process, self.available, threads)

    def seconds(self, spec: RunSpec, predicted: Forecast) -> tuple[float | None, str]:
        """Seconds of training, and where they are from."""
        model = self.rates.seconds(predicted)
        if model is None:
            return None, ""
        if self._earlier is None:
            self._earlier = list(earlier_runs(self.results))
        known = seconds_like(spec, model, self._earlier, self._model)
        return (model, "cost model") if known is None else (known, "earlier run")

    def _model(self, spec: RunSpec) -> float | None:
        try:
            return self.rates.seconds(self.predict(spec))
        except ValueError:
            return None

    def plan(self, spec: RunSpec, record: RunRecord | None) -> PlanRow:
        """One run of the grid."""
        try:
            reason = self.unsupported(spec)
            predicted = self.predict(spec)
        except InputError:
            raise
        except ValueError as error:
            return PlanRow(spec, "unsupported", str(error), EMPTY, None, "", None)
        seconds, origin = self.seconds(spec, predicted)
        fits, why = self.fits(predicted, seconds)
        state = "unsupported" if reason else "to do"
        if record is not None:
            state = "cached" if record.status == "ok" else f"failed: {record.status}"
            state = "to do" if record.status in UNSETTLED else state
            measured = record.own.fit_s
            seconds, origin = (measured, "measured") if measured else (seconds, origin)
            reason = record.reason or ""
        return PlanRow(spec, state, reason or why, predicted, seconds, origin, fits)

    def fits(self, predicted: Forecast, seconds: float | None) -> tuple[bool | None, str]:
        """Whether memory and time allow for it, and why not; None where no bytes are known."""
        if predicted.peak_bytes is None:
            return (
                None,
                "the method declares no bytes" if predicted.bytes is None else "bytes on a GPU not predicted",
            )
        if why := predicted.unfit(self.available, self.memory_limit_bytes):
            return False, why
        if self.time_limit_s and seconds and seconds > self.time_limit_s:
            return False, f"about {seconds:,.0f} s of training, time limit {self.time_limit_s:,.0f} s"
        return True, ""

    def unsupported(self, spec: RunSpec) -> str:
        """Why the run cannot be executed here; empty when it can."""
        method, train = Method.load(spec.target, spec.settings), spec.train
        if train.device == "cuda" and not torch.cuda.is_available():
            return "device cuda: torch sees no GPU here"
        if method.is_classifier:
            return ""
        wanted, found = method.processes, torch.cuda.device_count()
        if train.device != "cpu" and 0 < found < wanted:
            return f"GPUs: found {found}; expected {wanted}, one for each process of the run"
        if train.precision not in method.precisions:
            return f"precision {train.precision}: {method.name} offers fp32 only"
        if train.precision == "bf16" and not has_bf16(CPU):
            return "precision bf16: this cpu has no bfloat16 instructions"
        return ""


def make_grid(experiment: Experiment, results: Path) -> list[PlanRow]:
    """Every run of an experiment with its state and prediction. Nothing is built, downloaded or written."""
    store = Store(results / experiment.name)
    planner = Planner(results, experiment.time_limit_s, experiment.memory_limit_bytes)
    hashes: dict[str, str] = {}
    answers = answered(store)
    grid = []
    for given in experiment.runs:
        spec = given.with_settings(Method.load(given.target, given.settings).settings)
        found = dataset_fingerprint(spec.dataset, **spec.dataset_overrides)
        record, evaluate = None, ""
        if found is not None:
            hashes.setdefault(spec.target, code_hash(spec.target))
            record = store.record(spec.run_id(hashes[spec.target], identity_of(found, spec.dataset)))
            inputs = cached_evaluation_inputs(spec.dataset, spec.train.evaluate_on, **spec.dataset_overrides)
            evaluate = outdated(record, inputs) if record else ""
        run = planner.plan(spec, record)
        others = stale(answers.get(spec.request(), ()), "", found) if found is not None and record is None else ()
        if others and run.state == "to do":
            reason = "; ".join(filter(None, [f"{others[-1].run_id} was {others[-1].why}", run.reason]))
            run = replace(run, state="stale", reason=reason)
        elif evaluate and run.state == "cached":
            run = replace(run, state="stale", reason=f"will be evaluated again: {evaluate}")
        grid.append(run)
    return grid


HEADS = ("method", "settings", "state", "output", "parameters", "weights", "gradients", "optimiser", "activations",
         "index", "peak", "fit", "fits")  # fmt: skip


def grid_table(grid: list[PlanRow], name: str) -> Table:
    """For a terminal or a file: one line per run."""
    done = sum(run.state == "cached" for run in grid)
    table = Table(title=f"{name}: {len(grid)} runs, {done} cached", title_justify="left")
    for head in HEADS:
        table.add_column(head, justify="left" if head in ("method", "settings", "state", "fits") else "right")
    for run in grid:
        p, parts = run.predicted, run.predicted.bytes or {}
        counts = [f"{p.parameters[f'params_{which}']:,}" if p.parameters else "" for which in ("output", "total")]
        sizes = [in_units(parts.get(part)) for part in HEADS[5:10]]
        seconds = "" if run.seconds is None else f"{run.seconds:,.3g} s ({run.seconds_from})"
        fits = {True: "yes", False: "no", None: "?"}[run.fits] + (f": {run.reason}" if run.reason else "")
        table.add_row(
            run.spec.method, _settings(run.spec), run.state, *counts, *sizes, in_units(p.peak_bytes), seconds, fits
        )
    return table


def _settings(spec: RunSpec) -> str:
    own = [f"{key}={spec.settings[key]}" for key in ("B", "R") if key in spec.settings]
    swept = [f"{key.rpartition('.')[2]}={value}" for key, value in spec.swept.items()]
    return " ".join(dict.fromkeys([spec.dataset_name, *own, *swept, f"seed={spec.seed}"]))
