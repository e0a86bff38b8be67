"""Runs spread over a Ray cluster: tasks that Ray places by the resources they need, and repeats where a node dies.

A task is a run; or some repetitions of a run, which are then kept (`bench.run.checkpoint.trained_repetitions`); or a
shard of its predictions. The run itself is a task after those and finds what they made. A task does on its worker
(`bench.launch.ray.worker`) what `bench.launch.experiment_runner` does on one machine. Without Ray (the extra
``machbench[ray]``) the rest of machbench works."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.common.child_processes import search_path
from bench.common.errors import InputError
from bench.launch.experiment_runner import LaunchContext
from bench.launch.progress import Progress
from bench.launch.ray.driver import SHARD_FROM, Driver
from bench.launch.ray.exchange import Exchange
from bench.plan.plan import PlannedRun

FORWARDED = ("MACHBENCH_", "AWS_", "FSSPEC_")  # first parts of the environment variables that all nodes get


@dataclass(frozen=True)
class RayCluster:
    """``address`` of a cluster, or None: that of $RAY_ADDRESS, else one that is started here and ends with the command.

    ``exchange``: URL through which nodes exchange files; None where they share the folder of the command.
    ``shard_from``: labels to be scored (points × labels × repetitions) from which on the predictions of a run are made
    in shards. Used as ``launcher`` of `bench.launch.experiment_runner.run_experiment`. InputError where Ray is not
    installed or not reached, or the URL cannot be written to."""

    address: str | None = None
    exchange: str | None = None
    shard_from: float = SHARD_FROM

    def __call__(
        self, todo: Sequence[PlannedRun], done: Mapping[str, int], context: LaunchContext, progress: Progress
    ) -> dict[str, str | None]:
        """Execute the runs, or wait until other processes have; returns statuses by run id."""
        if not todo:
            return {}
        if self.exchange:
            Exchange(self.exchange).check()
        ray = connect(self.address)
        try:
            return self.execute(ray, todo, done, context, progress)
        finally:
            ray.shutdown()

    def execute(
        self,
        ray: Any,
        todo: Sequence[PlannedRun],
        done: Mapping[str, int],
        context: LaunchContext,
        progress: Progress,
    ) -> dict[str, str | None]:
        """The same with the module ``ray`` connected, which stays so (`connect`)."""
        exchange = None if self.exchange is None else Exchange(self.exchange)
        return Driver(ray, context, progress, exchange, self.shard_from).execute(todo, done)


def connect(address: str | None, cores: int | None = None) -> Any:
    """The module ``ray``, connected; ``cores``: of a cluster that is started here, None for all of the machine."""
    try:
        import ray
    except ImportError as error:
        raise InputError(
            f"--launcher ray: {error}; expected Ray, as `pip install machbench[ray]` installs it"
        ) from error
    # The launcher limits the memory of a run itself; Ray's own monitor would repeat a run that is too large for ever.
    os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that is started here reports no usage
    forwarded = {name: value for name, value in os.environ.items() if name.startswith(FORWARDED)}
    forwarded["PYTHONPATH"] = search_path()
    try:
        # Without an address Ray would join the cluster that `ray start` has last started on this machine.
        ray.init(
            address=address or os.environ.get("RAY_ADDRESS") or "local",
            num_cpus=cores,
            logging_level="ERROR",
            log_to_driver=cores is None,
            runtime_env={"env_vars": forwarded},
        )
    except (ConnectionError, ValueError) as error:
        token = "" if "RAY_AUTH_MODE" in os.environ else "; a cluster that asks for a token: RAY_AUTH_MODE=token"
        raise InputError(f"--address {address}: no Ray cluster there: {error}{token}") from error
    return ray
