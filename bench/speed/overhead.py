"""What the harness adds to training: a bare loop and a run of `bench.run.execute`, in turn, epoch by epoch.

Behind `machbench speed overhead`.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from bench.config.experiment import load_experiment
from bench.config.spec import RunSpec, derive_seed
from bench.data import load_dataset
from bench.launch.memory_watch import INTERVAL_S, held_bytes
from bench.model.ensemble import Ensemble
from bench.model.methods import Method
from bench.model.optim import Optimiser
from bench.process.events import EpochDone, Event, PhaseStarted
from bench.results.run_folder import RunFolder
from bench.run.execute import execute
from bench.run.train import batches
from bench.speed import Row

SECONDS = 20.0  # of training on each side, approximately
LEAST_EPOCHS = 9
LOOKS = 200
BARE, CLOCK, FITTING = "bare loop", "harness: fit clock", "harness: phase of fitting"
BARE_CPU, FITTING_CPU = "bare loop, CPU", "harness: phase of fitting, CPU"
BESIDE = {CLOCK: BARE, FITTING: BARE, FITTING_CPU: BARE_CPU}  # what each is compared with
EXPERIMENT: dict[str, Any] = {
    "dataset": {"name": "amazon670k-style", "scale": 0.02},
    "train": {
        "hidden": 128,
        "batch_size": 256,
        "lr": 0.001,
        "holdout": False,
        "validate_every": 0,
        "checkpoint_every_s": 1e9,
    },
    "methods": {"full_softmax": {}},
}


def overhead(seconds: float = SECONDS) -> list[Row]:
    """Rows for the bare loop, the harness's fit clock, its whole phase of fitting, and a second of watching a run; for
    the first and the third also the CPU seconds of all threads, which other work on the machine disturbs less.

    The harness is everything that runs in the process of a run: its loop and clocks, a learning curve written to disk
    after each epoch, and events; nothing is validated. One of its epochs follows each bare epoch, in one process, for
    about ``seconds`` on each side, so that a slow minute of the machine affects both. The launching process does the
    watching, reported as its CPU seconds. RuntimeError when the two do not train the same network.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = list(bare_epochs(configured(folder, 2)))  # compiles and builds what the measurement needs
        epochs = max(LEAST_EPOCHS, round(seconds / first[-1][0]))
        spec = configured(folder, epochs)
        by_variant = alternate(spec, RunFolder.create(folder / "results" / "overhead" / "runs", "overhead", spec))
    return [*rows_of(by_variant), watching()]


def configured(folder: Path, epochs: int) -> RunSpec:
    """The run, read from a file like every run."""
    path = folder / "overhead.yaml"
    content = {**EXPERIMENT, "train": {**EXPERIMENT["train"], "epochs": epochs}}
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(content)))
    (spec,) = load_experiment(str(path)).runs
    return spec


def bare_epochs(spec: RunSpec) -> Iterator[tuple[float, float, float]]:
    """(seconds, CPU seconds, mean loss) of each epoch of a plain loop over a run's batches, network and optimiser."""
    settings = spec.train
    split = load_dataset(spec.dataset, **spec.dataset_overrides).train
    X, Y = split.X, split.Y
    layer = Method.load(spec.target, spec.settings).build_layer(settings.hidden_sizes()[-1], Y, spec.seed)
    ensemble = Ensemble(layer, X.shape[1], settings, spec.seed, torch.device("cpu"))
    ensemble.warm_up(X, Y)
    (group,), order = ensemble.groups, derive_seed(spec.seed, "data order")
    step, n_steps = 0, settings.epochs * math.ceil(X.shape[0] / settings.batch_size)
    with Optimiser(group.network, settings.lr, settings.optimiser, order) as optimiser:
        for epoch in range(1, settings.epochs + 1):
            loss_sum, started, started_cpu = 0.0, time.perf_counter(), time.process_time()
            for rows in batches(X.shape[0], settings.batch_size, order, epoch):
                optimiser.scale_lr(1.0 - step / n_steps)
                optimiser.zero_grad()
                loss = group.network.loss(X[rows], Y[rows])
                loss.backward()
                optimiser.step()
                loss_sum += float(loss.detach()) * len(rows)
                step += 1
            seconds, cpu = time.perf_counter() - started, time.process_time() - started_cpu
            yield seconds, cpu, loss_sum / X.shape[0]


def alternate(spec: RunSpec, folder: RunFolder) -> dict[str, list[float]]:
    """Seconds of each epoch by variant; the phase of fitting goes from one turn of the harness to its next."""
    bare = bare_epochs(spec)
    losses: list[float] = []
    epochs: dict[str, list[float]] = {name: [] for name in (BARE, *BESIDE, BARE_CPU)}
    clock = resumed = resumed_cpu = 0.0
    with Path(os.devnull).open("w") as pipe:

        def emit(event: Event) -> None:
            nonlocal clock, resumed, resumed_cpu
            for _ in range(2):  # to the launching process and to the log
                print(json.dumps(event.to_json()), file=pipe, flush=True)
            if isinstance(event, EpochDone):
                epochs[FITTING].append(time.perf_counter() - resumed)
                epochs[FITTING_CPU].append(time.process_time() - resumed_cpu)
                epochs[CLOCK].append(event.fit_s - clock)
                clock = event.fit_s
                if not math.isclose(event.train_loss, losses[-1], rel_tol=1e-3):
                    raise RuntimeError(
                        f"speed overhead: epoch {event.epoch} ends at loss {event.train_loss} in the harness "
                        f"and at {losses[-1]} in the bare loop"
                    )
            fitting = isinstance(event, EpochDone) or (isinstance(event, PhaseStarted) and event.phase == "fit")
            if fitting and len(losses) < spec.train.epochs:
                seconds, cpu, loss = next(bare)
                epochs[BARE].append(seconds)
                epochs[BARE_CPU].append(cpu)
                losses.append(loss)
            resumed, resumed_cpu = time.perf_counter(), time.process_time()

        execute(spec, folder, emit)
    return epochs


def rows_of(epochs: dict[str, list[float]]) -> list[Row]:
    """Rows from the seconds of each epoch, the bare loop first.

    ``added``: the median over epochs of (seconds of an epoch / seconds of the bare epoch before it) - 1. On a busy
    machine that is mostly noise; the time off the clock, a difference within each epoch, is not.
    """
    rows = []
    for variant, seconds in epochs.items():
        median, bare = statistics.median(seconds), epochs[BESIDE.get(variant, variant)]
        row: Row = {"what": "overhead", "variant": variant, "median_s": median, "repeats_s": seconds}
        row["ratio"] = statistics.median(bare) / median
        if variant in BESIDE:
            shares = [own / other - 1 for own, other in zip(seconds, bare, strict=True)]
            low, row["added"], high = statistics.quantiles(shares, n=4)
            row["note"] = f"adds {row['added']:+.2%} (quartiles of {len(shares)} epochs: {low:+.2%}, {high:+.2%})"
        if variant == FITTING:
            off = [whole / on - 1 for whole, on in zip(seconds, epochs[CLOCK], strict=True)]
            row["off_the_clock"] = statistics.median(off)
            row["note"] += f", {row['off_the_clock']:.2%} off the clock"
        rows.append(row)
    return rows


def watching() -> Row:
    """CPU seconds that the launching process spends on watching a second of a run (`bench.launch.memory_watch`)."""
    started = time.thread_time()
    for _ in range(LOOKS):
        held_bytes(os.getpid())
    spent = (time.thread_time() - started) / LOOKS / INTERVAL_S
    row: Row = {"what": "overhead", "variant": "a second of watching", "median_s": spent, "ratio": 1 / (1 + spent)}
    return row | {"added": spent, "note": f"{spent:.2%} of one core, in the launching process"}
