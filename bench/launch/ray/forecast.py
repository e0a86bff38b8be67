"""What the command needs to know of runs before it places them; computed by a worker, because that loads torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.launch.ray.worker import method_of, repetitions_spec
from bench.launch.ray.worker_folder import WorkerFolder, dataset_of
from bench.plan.plan import PlannedRun

if TYPE_CHECKING:
    from bench.model.methods import Method

GPU_CONTEXT = 10**9  # bytes of a GPU that a process takes beside what is predicted
ON_GPU = ("weights", "gradients", "optimiser", "activations")  # parts of the prediction that are in a GPU's memory


@dataclass(frozen=True)
class RunForecast:
    """Forecast of a run; None is not known.

    ``peak``: predicted bytes of all its processes; ``part_peak`` and ``part_gpu``: those of a task for a part of its
    repetitions, in host memory and on a GPU. ``names``: of its repetitions; empty where they are not independent, or
    there are none. ``n_points``, ``n_labels``: of its predictions; ``by_label``: whether they can be split by label.
    ``processes``: that the run takes (`bench.run.ranks.group`).
    """

    peak: int | None = None
    part_peak: int | None = None
    part_gpu: int | None = None
    names: tuple[str, ...] = ()
    n_points: int = 0
    n_labels: int = 0
    by_label: bool = False
    processes: int = 1


def forecast_runs(
    runs: list[PlannedRun], folder: WorkerFolder, threads: list[int], device: str, parts: int
) -> list[RunForecast]:
    """Forecasts of runs, with so many threads each, if their repetitions are split into ``parts`` tasks."""
    folder.enter()
    found = []
    for run, n_threads in zip(runs, threads, strict=True):
        kind = "cpu" if run.spec.train.device == "cpu" else device
        try:
            found.append(_forecast(run, n_threads, kind, parts))
        except ValueError:  # the run itself will report what is wrong
            found.append(RunForecast())
    return found


def _forecast(run: PlannedRun, threads: int, device: str, parts: int) -> RunForecast:
    import torch

    from bench.data.sizes import dataset_sizes
    from bench.run.admission import predict_here

    spec, method, cpu = run.spec, method_of(run.spec), torch.device("cpu")
    whole = predict_here(method, spec, cpu)
    peak = None if whole.peak_bytes is None else whole.peak_bytes * whole.processes
    names = _repetition_names(method, run, device, threads)
    if not names:
        return RunForecast(peak, processes=method.processes)
    part_spec = repetitions_spec(spec, range(-(-len(names) // parts)))
    part = predict_here(method_of(part_spec), part_spec, cpu)
    sizes = dataset_sizes(spec.dataset, **spec.dataset_overrides)
    return RunForecast(
        peak,
        part.peak_bytes,
        sum(part.bytes[name] for name in ON_GPU) + GPU_CONTEXT if part.bytes else None,
        names,
        sizes.n_evaluated(spec.train.evaluate_on),
        sizes.n_labels,
        method.ranks_label_ranges,
    )


def _repetition_names(method: Method, run: PlannedRun, device: str, threads: int) -> tuple[str, ...]:
    from bench.run.checkpoint.trained_repetitions import names

    if not method.has_parts:
        return ()
    found = names(method, run.spec, run.code, dataset_of(run.spec).identity, device, threads)
    return tuple(found or ())


def gpu_bytes() -> int | None:
    """Memory of the GPU that this worker was given; None where torch sees none."""
    import torch

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None
