"""Size and cost of a run, before it starts: parameters exactly, bytes by purpose, and operations of its training.

Encoders and data are counted here; the output layer declares its own share (`bench.interface.Planning`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.common import procfs
from bench.common.units import in_units
from bench.config.spec import NOTHING, RunSpec
from bench.data.sizes import DataSizes
from bench.model.group_size import group_size
from bench.model.methods import Encoders, Method

FLOAT_BYTES = 4
KERNELS_BYTES = 85 * 2**20  # compiled kernels, thread pools and what the allocator keeps; see docs/planning.md
PAGE, HUGE_PAGE = 4096, 2**21
NAMES = ("weights", "gradients", "optimiser", "activations", "index", "decoding", "build", "predict")


@dataclass(frozen=True)
class Forecast:
    """Counts are exact; bytes are None where the layer does not declare them, and for classifiers.

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
        """The purpose with most bytes, in words."""
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


def process_bytes() -> int:
    """Resident memory once everything that a run imports is loaded (torch loads its compiler with its first Adam)."""
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    return procfs.host_bytes() or 0


def predicted_parameters(method: Method, spec: RunSpec, sizes: DataSizes) -> dict[str, int] | None:
    """The params_* columns of a run; None where the layer declares no ``parameter_count``."""
    widths = spec.train.hidden_sizes()
    n_output = method.parameter_count(sizes.n_labels, widths[-1])
    if n_output is None:
        return None
    trunk = method.encoders
    n_input = trunk.encoders * ((trunk.feature_hash or sizes.n_features) + 1) * widths[0]
    n_hidden = trunk.encoders * sum((a + 1) * b for a, b in itertools.pairwise(widths))
    total = n_input + n_hidden + n_output
    return {
        "params_total": total,
        "params_input": n_input,
        "params_hidden": n_hidden,
        "params_output": n_output,
        "params_per_repetition": total // (trunk.repetitions or 1),
    }


def predict_run(
    method: Method, spec: RunSpec, sizes: DataSizes, process: int, available: int | None, threads: int
) -> Forecast:
    """The prediction of a run with a method on data of those sizes.

    process: resident bytes of a process that has loaded everything but data. available: bytes free for the run, which
    decide how many repetitions are trained at a time. threads: per process, where the run has several. ValueError
    where the settings make no sense to the layer.
    """
    settings, trunk = spec.train, method.encoders
    n_steps = settings.epochs * math.ceil(points_to_train(spec, sizes) / settings.batch_size)
    parameters = predicted_parameters(method, spec, sizes)
    if parameters is None or not method.predicts_cost:
        return Forecast(parameters, None, None, None, None, n_steps)
    together = repetitions_together(spec, trunk, sizes, parameters["params_output"], available)
    run = cost_arguments(spec, sizes, together, threads)
    layer = method.cost(sizes.n_labels, settings.hidden_sizes()[-1], run)
    assert layer is not None
    purposes = bytes_by_purpose(layer, trunk_bytes(trunk, spec, sizes, run), settings.evaluate_on == NOTHING)
    data, loaded = data_bytes(spec, sizes), process + KERNELS_BYTES
    peak = loaded + data + peak_beside_data(purposes, validated=bool(run["validated"]))
    shown = {name: round(purposes[name]) for name in ("weights", "gradients", "optimiser")}
    shown |= {
        "activations": round(purposes["activations"] + purposes["predict"]),
        "index": round(purposes["index"] + purposes["decoding"]),
        "data": data,
        "process": loaded,
    }
    flops, moved = trunk_operations(trunk, spec, sizes, run)
    processes = method.processes
    return Forecast(
        parameters,
        shown,
        round(peak) if settings.device != "cuda" else None,
        processes * (layer["step_flops"] + flops),
        processes * (layer["step_bytes"] + moved),
        n_steps,
        processes,
    )


def points_to_train(spec: RunSpec, sizes: DataSizes) -> int:
    """Train points without those held out for validation."""
    return sizes.n_fit if spec.train.holdout else sizes.n_train


def repetitions_together(
    spec: RunSpec, trunk: Encoders, sizes: DataSizes, output_parameters: int, available: int | None
) -> int:
    """Repetitions that are trained at a time; 1 for an ordinary layer."""
    if trunk.repetitions is None or trunk.encoders < trunk.repetitions:  # a shared encoder trains all
        return trunk.repetitions or 1
    n_rows = trunk.feature_hash or sizes.n_features
    return group_size(spec.train, trunk.repetitions, n_rows, output_parameters // trunk.repetitions, available)


def cost_arguments(spec: RunSpec, sizes: DataSizes, together: int, threads: int) -> dict[str, float]:
    """What a layer's ``cost`` gets as ``run``."""
    settings, points = spec.train, points_to_train(spec, sizes)
    validated = bool(settings.holdout and settings.validate_every and sizes.n_validation)
    ranked = max(sizes.n_evaluated(settings.evaluate_on), sizes.n_validation * validated)
    return {
        "n_points": points,
        "labels_per_point": sizes.labels_per_point,
        "epochs": settings.epochs,
        "batch_size": min(settings.batch_size, points),
        "predict_batch": min(settings.predict_batch, ranked),
        "threads": threads,
        "together": together,
        "validated": int(validated),
        "page_bytes": page_bytes(),
    }


def bytes_by_purpose(layer: Mapping[str, float], trunk: Mapping[str, float], trains_only: bool) -> dict[str, float]:
    """Bytes of output layer and encoders by each of `NAMES`."""
    purposes = {name: layer.get(f"{name}_bytes", 0) + trunk.get(name, 0) for name in NAMES}
    return purposes | ({"decoding": 0, "predict": 0} if trains_only else {})


def peak_beside_data(purposes: Mapping[str, float], validated: bool) -> float:
    """The largest number of bytes in use at a time while the network is built, trained or ranks."""
    training = purposes["gradients"] + purposes["optimiser"]
    # The allocator keeps what a step has freed, and validation points are ranked while the moments are still there.
    ranking = purposes["activations"] + purposes["predict"] + purposes["decoding"]
    during = training + (ranking if validated else purposes["activations"])
    return purposes["weights"] + purposes["index"] + max(purposes["build"], during, ranking)


def trunk_bytes(trunk: Encoders, spec: RunSpec, sizes: DataSizes, run: dict[str, float]) -> dict[str, float]:
    """Bytes of the encoders, by purpose."""
    widths, n_rows = spec.train.hidden_sizes(), trunk.feature_hash or sizes.n_features
    together = min(run["together"], trunk.encoders)
    table = FLOAT_BYTES * n_rows * widths[0]
    dense = FLOAT_BYTES * sum((a + 1) * b for a, b in itertools.pairwise(widths))
    # Moments of rows without a gradient take no memory, unless they share a page with other rows.
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


def trunk_operations(trunk: Encoders, spec: RunSpec, sizes: DataSizes, run: dict[str, float]) -> tuple[float, float]:
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
