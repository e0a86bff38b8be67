"""Runs spread over a Ray cluster: tasks that Ray places by what they need, and repeats where a node dies.

A task is a run, or a part of the repetitions of one: trained parts are kept
(`bench.run.checkpoint.trained_repetitions`), and the run itself, which finds them, is a task after them. What a task
does (`bench.launch.ray.worker`) is what `bench.launch.experiment_runner` does on one machine. Without Ray (the extra
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
from bench.launch.ray.driver import Driver
from bench.launch.ray.exchange import Exchange
from bench.plan.plan import PlannedRun

PASSED_ON = ("MACHBENCH_", "AWS_", "FSSPEC_")  # beginnings of environment variables that hold on all nodes


@dataclass(frozen=True)
class RayCluster:
    """``address`` of a cluster, or None: that of $RAY_ADDRESS, else one that is started here and ends with the command.

    ``exchange``: URL by way of which nodes hand in what they leave; None where they share the folder of the command.
    Used as ``launcher`` of `bench.launch.experiment_runner.run_experiment`. InputError where Ray is not installed or
    not reached, or nothing can be written to the URL."""

    address: str | None = None
    exchange: str | None = None

    def __call__(
        self, todo: Sequence[PlannedRun], done: Mapping[str, int], context: LaunchContext, progress: Progress
    ) -> dict[str, str | None]:
        """Execute the runs, or see another process execute them; statuses by run id."""
        if not todo:
            return {}
        exchange = None if self.exchange is None else Exchange(self.exchange)
        if exchange:
            exchange.check()
        ray = connect(self.address)
        try:
            return Driver(ray, context, progress, done, exchange).launcher(todo)
        finally:
            ray.shutdown()


def connect(address: str | None, cores: int | None = None) -> Any:
    """The module ``ray``, connected; ``cores``: of a cluster that is started here, None for all of the machine."""
    try:
        import ray
    except ImportError as error:
        raise InputError(
            f"--launcher ray: {error}; expected Ray, as `pip install machbench[ray]` installs it"
        ) from error
    # What memory a run may take is ours to watch; Ray's own watch would repeat a run that is too large for ever.
    os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that is started here tells nobody
    passed_on = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
    passed_on["PYTHONPATH"] = search_path()
    try:
        # Left to itself Ray would join whatever cluster `ray start` has last been told of on this machine.
        ray.init(
            address=address or os.environ.get("RAY_ADDRESS") or "local",
            num_cpus=cores,
            logging_level="ERROR",
            log_to_driver=cores is None,
            runtime_env={"env_vars": passed_on},
        )
    except (ConnectionError, ValueError) as error:
        token = "" if "RAY_AUTH_MODE" in os.environ else "; a cluster that asks for a token: RAY_AUTH_MODE=token"
        raise InputError(f"--address {address}: no Ray cluster there: {error}{token}") from error
    return ray
