"""What a run will take, before it runs: parameters exactly, bytes by purpose, and operations of its training.

The trunk and the data are counted here; the output layer tells its own share (`OutputLayer` in `bench.model.network`).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.common import procfs
from bench.common.units import in_units
from bench.config.spec import NOTHING, RunSpec
from bench.data.sizes import DataSizes
from bench.model.group_size import group_size
from bench.model.methods import processes_of

FLOAT_BYTES = 4
KERNELS_BYTES = 85 * 2**20  # compiled kernels, thread pools and what the allocator keeps; see docs/planning.md
PAGE, HUGE_PAGE = 4096, 2**21
NAMES = ("weights", "gradients", "optimiser", "activations", "index", "decoding", "build", "predict")


@dataclass(frozen=True)
class Forecast:
    """Counts are exact; bytes are None where the layer does not tell its share, and for methods that are no layers.

    Bytes are of one process, operations and memory traffic of all ``processes`` of the run together.
    """

    parameters: dict[str, int] | None
    bytes: dict[str, int] | None  # weights, gradients, optimiser, activations, index, data, process
    peak_bytes: int | None
    step_flops: float | None
    step_bytes: float | None
    n_steps: int
    processes: int = 1

    def largest(self) -> str:
        """The purpose that takes most bytes, in words."""
        name, count = max((self.bytes or {}).items(), key=lambda item: item[1], default=("", 0))
        return f"{name} {count / 1e9:.3g} GB"

    def unfit(self, available: float | None, limit: float | None) -> str:
        """Why the peak is more than the free bytes or than a limit; empty where it is not, or not known."""
        needed = None if self.peak_bytes is None else self.peak_bytes * self.processes
        for count, name in ((available, "{} free"), (limit, "memory limit {}")):
            if needed is not None and count is not None and needed > count:
                have = name.format(in_units(count))
                spread = f" in {self.processes} processes" if self.processes > 1 else ""
                return f"needs {in_units(needed)}{spread}, {have}; largest part {self.largest()}"
        return ""


EMPTY = Forecast(None, None, None, None, None, 0)


@dataclass(frozen=True)
class Trunk:
    """Encoders of a method: ``repetitions`` is None for an ordinary layer; features hashed to 0 are as they are."""

    repetitions: int | None = None
    encoders: int = 1
    feature_hash: int = 0

    @classmethod
    def of(cls, method: Any, spec: RunSpec) -> Trunk:
        """As the layer's static method ``encoders`` tells from the run's settings."""
        return cls(**method.encoders(**spec.settings)) if hasattr(method, "encoders") else cls()


def process_bytes() -> int:
    """Resident memory once everything that a run imports is loaded (torch loads its compiler with its first Adam)."""
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    return procfs.host_bytes() or 0


def predicted_parameters(method: Any, spec: RunSpec, sizes: DataSizes) -> dict[str, int] | None:
    """The params_* and index_bytes columns of a run; None where the layer declares no ``parameter_count``."""
    if not hasattr(method, "parameter_count"):
        return None
    trunk, widths = Trunk.of(method, spec), spec.train.hidden_sizes()
    n_input = trunk.encoders * ((trunk.feature_hash or sizes.n_features) + 1) * widths[0]
    n_hidden = trunk.encoders * sum((a + 1) * b for a, b in itertools.pairwise(widths))
    n_output = method.parameter_count(n_labels=sizes.n_labels, hidden=widths[-1], **spec.settings)
    total = n_input + n_hidden + n_output
    return {
        "params_total": total,
        "params_input": n_input,
        "params_hidden": n_hidden,
        "params_output": n_output,
        "params_per_repetition": total // (trunk.repetitions or 1),
    }


def predict_run(
    method: Any, spec: RunSpec, sizes: DataSizes, process: int, available: int | None, threads: int
) -> Forecast:
    """The prediction of a run with a method's class on data of those sizes.

    process: resident bytes of a process that has loaded everything but data. available: bytes free for the run, which
    decide how many repetitions are trained at a time. threads: of a process, where the run takes several. ValueError
    where settings make no sense to the layer.
    """
    settings = spec.train
    points = sizes.n_fit if settings.holdout else sizes.n_train
    n_steps = settings.epochs * math.ceil(points / settings.batch_size)
    parameters = predicted_parameters(method, spec, sizes)
    if parameters is None or not hasattr(method, "cost"):
        return Forecast(parameters, None, None, None, None, n_steps)
    trunk, widths = Trunk.of(method, spec), settings.hidden_sizes()
    n_rows = trunk.feature_hash or sizes.n_features
    each = parameters["params_output"] // (trunk.repetitions or 1)
    shared = trunk.repetitions is not None and trunk.encoders < trunk.repetitions
    together = (
        trunk.repetitions or 1
        if trunk.repetitions is None or shared
        else group_size(settings, trunk.repetitions, n_rows, each, available)
    )
    evaluated = sizes.n_evaluated(settings.evaluate_on)
    validated = bool(settings.holdout and settings.validate_every and sizes.n_validation)
    run = {
        "n_points": points,
        "labels_per_point": sizes.labels_per_point,
        "epochs": settings.epochs,
        "batch_size": min(settings.batch_size, points),
        "predict_batch": min(settings.predict_batch, max(evaluated, sizes.n_validation * validated)),
        "threads": threads,
        "together": together,
        "validated": int(validated),
        "page_bytes": page_bytes(),
    }
    told = method.cost(n_labels=sizes.n_labels, hidden=widths[-1], run=run, **spec.settings)
    layer = {name: told.get(f"{name}_bytes", 0) for name in NAMES}
    own = trunk_bytes(trunk, spec, sizes, run)
    purposes = {name: layer[name] + own.get(name, 0) for name in NAMES}
    if settings.evaluate_on == NOTHING:
        purposes |= {"decoding": 0, "predict": 0}
    training = purposes["gradients"] + purposes["optimiser"]
    # The allocator keeps what a step has freed, and validation points are ranked while the moments are still there.
    ranking = purposes["activations"] + purposes["predict"] + purposes["decoding"]
    data = data_bytes(spec, sizes)
    peak = process + KERNELS_BYTES + data + purposes["weights"] + purposes["index"]
    during = training + (ranking if validated else purposes["activations"])
    peak += max(purposes["build"], during, ranking)
    shown = {name: round(purposes[name]) for name in ("weights", "gradients", "optimiser")}
    shown |= {
        "activations": round(purposes["activations"] + purposes["predict"]),
        "index": round(purposes["index"] + purposes["decoding"]),
        "data": data,
        "process": process + KERNELS_BYTES,
    }
    flops, moved = trunk_operations(trunk, spec, sizes, run)
    processes = processes_of(method, spec.settings)
    return Forecast(
        parameters,
        shown,
        round(peak) if settings.device != "cuda" else None,
        processes * (told["step_flops"] + flops),
        processes * (told["step_bytes"] + moved),
        n_steps,
        processes,
    )


def trunk_bytes(trunk: Trunk, spec: RunSpec, sizes: DataSizes, run: dict[str, float]) -> dict[str, float]:
    """Bytes of the encoders, by purpose."""
    widths, n_rows = spec.train.hidden_sizes(), trunk.feature_hash or sizes.n_features
    together = min(run["together"], trunk.encoders)
    table = FLOAT_BYTES * n_rows * widths[0]
    dense = FLOAT_BYTES * sum((a + 1) * b for a, b in itertools.pairwise(widths))
    # Moments of rows that no batch names take no memory, but for what shares a page with others.
    row = FLOAT_BYTES * widths[0] * (1 if trunk.feature_hash else together)
    unused = 1.0 - sizes.features_used / sizes.n_features if not trunk.feature_hash else 0.0
    reached = 1.0 - unused ** max(1.0, run["page_bytes"] / row)
    moments = 2 * table * reached if spec.train.optimiser == "adam" else table / widths[0]
    # Outputs of a layer before and after its ReLU, and their gradients; ranking has no gradients.
    values = FLOAT_BYTES * sum(widths)
    entries = run["batch_size"] * sizes.features_per_point
    return {
        "weights": trunk.encoders * (table + dense + FLOAT_BYTES * n_rows),
        "gradients": together * dense,
        "optimiser": together * (moments + 2 * dense),
        "activations": 5 * run["batch_size"] * together * values + 40 * entries,
        "index": FLOAT_BYTES * trunk.encoders * sizes.n_features if trunk.feature_hash else 0,
        "build": table,
        "predict": 3 * run["predict_batch"] * trunk.encoders * values,
    }


def data_bytes(spec: RunSpec, sizes: DataSizes) -> int:
    """Train and test as mapped files, and the copies that are made when points are held out."""
    copies = sizes.n_fit + sizes.n_validation if spec.train.holdout and sizes.n_validation else 0
    return sizes.matrix_bytes(sizes.n_train + sizes.n_test + copies)


def trunk_operations(trunk: Trunk, spec: RunSpec, sizes: DataSizes, run: dict[str, float]) -> tuple[float, float]:
    """(floating-point operations, bytes read and written) of a training step of all encoders."""
    widths, encoders = spec.train.hidden_sizes(), trunk.encoders
    entries = run["batch_size"] * sizes.features_per_point
    dense = sum(a * b for a, b in itertools.pairwise(widths))
    rows = min(entries, trunk.feature_hash or sizes.n_features)
    flops = encoders * (6 * run["batch_size"] * dense + 4 * entries * widths[0])
    moved = FLOAT_BYTES * encoders * (2 * entries * widths[0] + 6 * rows * widths[0] + 8 * dense)
    return flops, moved


def page_bytes() -> int:
    """Size of the pages that the kernel gives to large arrays (numpy asks for huge ones)."""
    try:
        enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return PAGE
    return PAGE if "[never]" in enabled else HUGE_PAGE
