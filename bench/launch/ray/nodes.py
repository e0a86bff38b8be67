"""The resources of a Ray cluster's nodes, and those of a run: counted as if the cluster were empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.common.errors import InputError
from bench.launch.ray.tasks import RunTask
from bench.plan.plan import PlannedRun

OPTION = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}  # a resource as an option of a Ray task


def task_options(bundle: Mapping[str, float]) -> dict[str, float]:
    """Resources (CPU, GPU, memory) as the options of a Ray task that needs them."""
    return {OPTION[kind]: count for kind, count in bundle.items()}


def bundle_options(ray: Any, group: Any, index: int, bundle: Mapping[str, float]) -> dict[str, Any]:
    """Options of a Ray task that goes into one bundle, of these resources, of a placement group."""
    strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(group, index)
    return {"scheduling_strategy": strategy, **task_options(bundle)}


class Nodes:
    """The living nodes of a cluster, from ``ray.nodes()``."""

    def __init__(self, descriptions: Sequence[Mapping[str, Any]]) -> None:
        self._nodes: list[Mapping[str, float]] = [node["Resources"] for node in descriptions if node["Alive"]]
        cores = [int(node["CPU"]) for node in self._nodes if node.get("CPU", 0) >= 1] or [1]
        self._fewest_cores, self._most_cores = min(cores), max(cores)
        self.memory = max((node.get("memory", 0.0) for node in self._nodes), default=0.0)  # of the largest
        gpus = [int(node.get("GPU", 0)) for node in self._nodes]
        self.gpus, self._most_gpus = sum(gpus), max(gpus, default=0)

    def cpus_of(self, run: PlannedRun) -> int:
        """Cores that a run reserves: its threads, or all of the smallest node."""
        return run.spec.train.threads or self._fewest_cores

    def gpus_of(self, task: RunTask) -> int:
        """One GPU per process of a run, where it may use them and the cluster has any."""
        return task.forecast.processes if self.gpus and task.run.spec.train.device != "cpu" else 0

    def workers(self, cpus: int) -> int:
        """How many tasks run at once that need so many cores each, and a GPU where the cluster has any."""
        return self.gpus or sum(int(node.get("CPU", 0)) // cpus for node in self._nodes)

    def bundle_of(self, task: RunTask) -> dict[str, float] | None:
        """Resources of each process of a run, if they are to be placed one by one because no node has room for all.

        InputError where Ray would wait for ever for a node, or nodes, with so many cores or GPUs.
        """
        run, count, peak = task.run, task.forecast.processes, task.forecast.peak or 0
        threads, gpus = run.spec.train.threads, self.gpus_of(task)
        cores = max(1, self._fewest_cores // self._most_gpus) if gpus else self._fewest_cores
        each = {"CPU": max(1, threads // count) if threads else cores, "GPU": gpus // count, "memory": peak // count}
        room = self.room_for(each)
        if 1 < count <= room and not self.room_for({"CPU": self.cpus_of(run), "GPU": gpus, "memory": peak}):
            return {kind: needed for kind, needed in each.items() if needed}
        if threads > self._most_cores:
            found = f"{run.run_id}, key train.threads: found {threads}"
            raise InputError(f"{found}; expected at most {self._most_cores}, the cores of the largest node")
        if gpus > max(1, self._most_gpus):
            found = f"{run.run_id}: found {count} processes with a GPU each"
            raise InputError(f"{found}; expected at most {max(room, self._most_gpus)}, for which the cluster has room")
        return None

    def room_for(self, bundle: Mapping[str, float]) -> int:
        """How many bundles of resources the nodes have room for."""
        needs = {kind: needed for kind, needed in bundle.items() if needed}
        return sum(min(int(node.get(kind, 0) // needed) for kind, needed in needs.items()) for node in self._nodes)
