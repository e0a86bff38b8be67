"""What the nodes of a Ray cluster have, and how much of it a run takes: counted as if nothing else were on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.common.errors import InputError
from bench.launch.ray.tasks import Whole
from bench.plan.plan import PlannedRun


class Nodes:
    """Those of a cluster that are alive, from ``ray.nodes()``."""

    def __init__(self, told: Sequence[Mapping[str, Any]]) -> None:
        self._nodes: list[Mapping[str, float]] = [node["Resources"] for node in told if node["Alive"]]
        cores = [int(node["CPU"]) for node in self._nodes if node.get("CPU", 0) >= 1] or [1]
        self._fewest_cores, self._most_cores = min(cores), max(cores)
        self.memory = max((node.get("memory", 0.0) for node in self._nodes), default=0.0)  # of the largest
        gpus = [int(node.get("GPU", 0)) for node in self._nodes]
        self.gpus, self._most_gpus = sum(gpus), max(gpus, default=0)

    def cpus_of(self, run: PlannedRun) -> int:
        """Cores that a run reserves: its threads, or all of the smallest node."""
        return run.spec.train.threads or self._fewest_cores

    def gpus_of(self, whole: Whole) -> int:
        """One for each process of a run, where it is to use them and there are any."""
        return whole.foreseen.processes if self.gpus and whole.run.spec.train.device != "cpu" else 0

    def workers(self, cpus: int) -> int:
        """What can be done at a time by tasks with so many cores, and a GPU each where there are any."""
        return self.gpus or sum(int(node.get("CPU", 0)) // cpus for node in self._nodes)

    def bundle_of(self, whole: Whole) -> dict[str, float] | None:
        """Resources of each process of a run, where they are to be placed one by one: no node has room for all.

        InputError where Ray would wait for ever for a node, or nodes, with so many cores or GPUs.
        """
        run, count, peak = whole.run, whole.foreseen.processes, whole.foreseen.peak or 0
        threads, gpus = run.spec.train.threads, self.gpus_of(whole)
        cores = max(1, self._fewest_cores // self._most_gpus) if gpus else self._fewest_cores
        each = {"CPU": max(1, threads // count) if threads else cores, "GPU": gpus // count, "memory": peak // count}
        room = self.room_for(each)
        if 1 < count <= room and not self.room_for({"CPU": self.cpus_of(run), "GPU": gpus, "memory": peak}):
            return {kind: needed for kind, needed in each.items() if needed}
        if threads > self._most_cores:
            asked = f"{run.run_id}, key train.threads: found {threads}"
            raise InputError(f"{asked}; expected at most {self._most_cores}, the cores of the largest node")
        if gpus > max(1, self._most_gpus):
            found = f"{run.run_id}: found {count} processes with a GPU each"
            raise InputError(f"{found}; expected at most {max(room, self._most_gpus)}, for which the cluster has room")
        return None

    def room_for(self, bundle: Mapping[str, float]) -> int:
        """How many bundles of resources the nodes have room for."""
        needs = {kind: needed for kind, needed in bundle.items() if needed}
        return sum(min(int(node.get(kind, 0) // needed) for kind, needed in needs.items()) for node in self._nodes)
