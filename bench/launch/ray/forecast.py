"""What is to be known of runs before a Ray cluster places them, told by a worker: what predicts loads torch."""

from __future__ import annotations

from dataclasses import dataclass

from bench.launch.ray.worker import WorkerFolder, data_here, method_of, part_spec
from bench.plan.plan import PlannedRun

GPU_CONTEXT = 10**9  # bytes that a process takes of a GPU beside what is predicted


@dataclass(frozen=True)
class Foreseen:
    """Of a run: predicted bytes of it and of a part of it, of that also on a GPU, and names of its repetitions.

    None is not known; no names where the repetitions are not independent, or there are none. Of its predictions: their
    points, their labels, and whether they can be shared by label. And the processes that a run takes
    (`bench.run.ranks.group`)."""

    peak: int | None = None
    part_peak: int | None = None
    part_gpu: int | None = None
    names: tuple[str, ...] = ()
    n_points: int = 0
    n_labels: int = 0
    by_label: bool = False
    processes: int = 1


def foresee(runs: list[PlannedRun], place: WorkerFolder, threads: list[int], device: str, parts: int) -> list[Foreseen]:
    """What is to be known of runs before they are placed, each to be cut into so many parts if it can be."""
    place.enter()
    import torch

    from bench.data.sizes import dataset_sizes
    from bench.run.admission import predict_here
    from bench.run.checkpoint.trained_repetitions import names

    found = []
    for run, n_threads in zip(runs, threads, strict=True):
        spec = run.spec
        kind = "cpu" if spec.train.device == "cpu" else device
        try:
            method = method_of(spec)
            whole = predict_here(method, spec, torch.device("cpu"))
            peak = None if whole.peak_bytes is None else whole.peak_bytes * whole.processes
            known: tuple[str, ...] = ()
            if method.has_parts:
                identity = data_here(spec).identity
                known = tuple(names(method, spec, run.code, identity, kind, n_threads) or ())
            if not known:
                found.append(Foreseen(peak, processes=method.processes))
                continue
            part = part_spec(spec, range(-(-len(known) // parts)))
            predicted = predict_here(method_of(part), part, torch.device("cpu"))
            on_gpu = ("weights", "gradients", "optimiser", "activations")
            gpu = sum(predicted.bytes[name] for name in on_gpu) + GPU_CONTEXT if predicted.bytes else None
            sizes = dataset_sizes(spec.dataset, **spec.dataset_overrides)
            predicts = (sizes.n_evaluated(spec.train.evaluate_on), sizes.n_labels, method.ranks_label_ranges)
            found.append(Foreseen(peak, predicted.peak_bytes, gpu, known, *predicts))
        except ValueError:  # the run itself will say what is wrong
            found.append(Foreseen())
    return found


def gpu_bytes() -> int | None:
    """Memory of the GPU that this worker was given; None where torch sees none."""
    import torch

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None
