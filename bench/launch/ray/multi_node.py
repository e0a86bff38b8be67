"""Runs whose processes Ray places one by one, because no node has room for all of them (`bench.run.ranks.group`).

Each process has a bundle of a placement group. The task of the run is in the first; from there it starts a task in each
of the others, which starts that process on its node and tells how it ended.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

from bench.common.code_hash import code_hash
from bench.common.errors import InputError
from bench.launch.experiment_runner import LaunchContext
from bench.launch.ray.exchange import Exchange
from bench.launch.ray.worker import WorkerFolder, WorkerResult, arrive, check_data, execute
from bench.plan.plan import PlannedRun
from bench.process.options import Rendezvous, RunOptions
from bench.results.run_folder import RunFolder
from bench.results.store import Store
from bench.run.ranks.peer_process import Failure, Outcome, PeerProcess, RankAddress
from bench.run.ranks.rendezvous import RemotePeers

LOOK_S = 0.5  # between looks whether the first process is still there
LOG_LINES = 10_000  # the last that go into the log of the run


def options_of(bundle: Mapping[str, float]) -> dict[str, float]:
    """A bundle's resources as a task asks for them."""
    names = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
    return {names[kind]: count for kind, count in bundle.items()}


def execute_in_bundles(
    run: PlannedRun,
    done: int,
    context: LaunchContext,
    place: WorkerFolder,
    bundle: Mapping[str, float],
    options: RunOptions,
    names: tuple[str, ...],
) -> WorkerResult | None:
    """`bench.launch.ray.worker.execute`, with the other processes of the run in the other bundles of its placement
    group."""
    with others(run, context.store, place, bundle) as rendezvous:
        return execute(run, done, context, place, rendezvous.threads, replace(options, rendezvous=rendezvous), names)


@contextmanager
def others(run: PlannedRun, of: Store, place: WorkerFolder, bundle: Mapping[str, float]) -> Iterator[Rendezvous]:
    """For the task of a run, in the first bundle of its group: the other processes, as the first is to meet them.

    Begins when all bundles have their places. The tasks of the others end with the block. When one of them is lost with
    its worker or node, so is this worker: then Ray begins the run again, which goes on from its checkpoint.
    """
    import ray

    group = ray.util.get_current_placement_group()
    ranks = range(1, group.bundle_count)

    def task(function: Any, rank: int) -> Any:
        where = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(group, rank)
        return ray.remote(function).options(scheduling_strategy=where, max_retries=0, **options_of(bundle))

    ray.get([task(_arrive, rank).remote() for rank in ranks])
    over = threading.Event()
    with TemporaryDirectory(prefix="machbench-") as folder:
        rendezvous = Rendezvous(folder, group.bundle_count, ray.util.get_node_ip_address(), int(bundle["CPU"]))

        def start_and_listen() -> None:
            address = RemotePeers(rendezvous).address(over)
            if address is None:
                return
            places = {r: RankAddress(r, rendezvous.world_size, address, rendezvous.threads) for r in ranks}
            tasks = {task(follow, r).remote(run, places[r], of, place): r for r in ranks}
            waiting = list(tasks)
            while waiting and not over.is_set():
                ended, waiting = ray.wait(waiting, timeout=LOOK_S)
                for reference in ended:
                    RemotePeers(rendezvous).tell(tasks[reference], *_outcome(ray, reference))
            for reference in waiting:
                ray.cancel(reference, force=True)

        listener = threading.Thread(target=start_and_listen, daemon=True)
        listener.start()
        try:
            yield rendezvous
        finally:
            over.set()
            listener.join()


def _arrive() -> None:
    """That this ends says that its bundle has a place."""


def _outcome(ray: Any, reference: Any) -> tuple[Outcome, list[str]]:
    """How a process ended, and its log; ends this process where its task was lost."""
    try:
        found: tuple[Outcome, list[str]] = ray.get(reference)
        return found
    except ray.exceptions.RayTaskError as error:
        return Outcome(failure=Failure("crashed", str(error.cause))), []
    except ray.exceptions.TaskCancelledError:  # by the command, which stops the first process too
        return Outcome(failure=Failure("crashed", "stopped", follows=True)), []
    except ray.exceptions.RayError:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def follow(run: PlannedRun, at: RankAddress, of: Store, place: WorkerFolder) -> tuple[Outcome, list[str]]:
    """Be one of the processes of a run beside the first; how that ended, and what it printed.

    InputError where data or code of this node are others than those of the command.
    """
    store, host = arrive(place, at.threads, of), socket.gethostname()
    check_data(run)
    if code_hash(run.spec.target) != run.code:
        raise InputError(f"node {host}: found other code of {run.spec.target}; expected that of the command")
    print(f"{run.run_id}, process {at.rank} of {at.world_size}: starts on {host}", flush=True)
    lines: deque[str] = deque(maxlen=LOG_LINES)
    folder = RunFolder.create(store.runs, run.run_id, run.spec, run.code, run.asked, f"rank-{at.rank}-{os.getpid()}")
    process = PeerProcess(folder.path, at)
    try:
        outcome = process.wait(lines.append)
    finally:
        process.kill()
        shutil.rmtree(folder.path, ignore_errors=True)
    if place.exchange and outcome.row is not None:
        store.drop_checkpoint(run.run_id)  # where folders are shared, the command does
        Exchange(place.exchange).push_all(store.root.parent / "env", "env", new_only=True)
    return outcome, list(lines)
