"""Runs whose processes Ray places one by one, because no node has room for all of them (`bench.run.ranks.group`).

Each process has a bundle of a placement group. The task of the run is in the first bundle; from there it starts a task
in each of the others, which starts that process on its node and returns its outcome.
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
from bench.launch.ray.nodes import bundle_options
from bench.launch.ray.worker import WorkerContext, WorkerResult, execute
from bench.launch.ray.worker_folder import check_data
from bench.plan.plan import PlannedRun
from bench.process.options import Rendezvous, RunOptions
from bench.results.run_folder import RunFolder
from bench.run.ranks.peer_process import Failure, Outcome, PeerProcess, RankAddress
from bench.run.ranks.rendezvous import RemotePeers

POLL_S = 0.5  # between looks whether the run is over
LOG_LINES = 10_000  # of a peer that go into the log of the run: the last ones


def execute_in_bundles(
    run: PlannedRun, done: int, options: RunOptions, context: WorkerContext, bundle: Mapping[str, float]
) -> WorkerResult | None:
    """`bench.launch.ray.worker.execute`, with the other processes of the run in the other bundles of its group."""
    with peers(run, context, bundle) as rendezvous:
        here = replace(context, cpus=rendezvous.threads)
        return execute(run, done, replace(options, rendezvous=rendezvous), here)


@contextmanager
def peers(run: PlannedRun, context: WorkerContext, bundle: Mapping[str, float]) -> Iterator[Rendezvous]:
    """The other processes of a run, for its task, which is in the first bundle; yields how the run finds them.

    Waits until all bundles are placed. The tasks of the peers end with the block. When one of them is lost with its
    worker or node, this worker ends too: then Ray starts the run again, which continues from its checkpoint.
    """
    import ray

    group = ray.util.get_current_placement_group()
    ranks = range(1, group.bundle_count)

    def task(function: Any, rank: int) -> Any:
        return ray.remote(function).options(max_retries=0, **bundle_options(ray, group, rank, bundle))

    ray.get([task(_placed, rank).remote() for rank in ranks])
    over = threading.Event()
    with TemporaryDirectory(prefix="machbench-") as folder:
        rendezvous = Rendezvous(folder, group.bundle_count, ray.util.get_node_ip_address(), int(bundle["CPU"]))

        def start_and_watch() -> None:
            address = RemotePeers(rendezvous).wait_for_address(over)
            if address is None:
                return
            addresses = {r: RankAddress(r, rendezvous.world_size, address, rendezvous.threads) for r in ranks}
            tasks = {task(run_peer, r).remote(run, addresses[r], context): r for r in ranks}
            waiting = list(tasks)
            while waiting and not over.is_set():
                ended, waiting = ray.wait(waiting, timeout=POLL_S)
                for reference in ended:
                    RemotePeers(rendezvous).write_outcome(tasks[reference], *_outcome(ray, reference))
            for reference in waiting:
                ray.cancel(reference, force=True)

        watch = threading.Thread(target=start_and_watch, daemon=True)
        watch.start()
        try:
            yield rendezvous
        finally:
            over.set()
            watch.join()


def _placed() -> None:
    """Returns as soon as its bundle is placed."""


def _outcome(ray: Any, reference: Any) -> tuple[Outcome, list[str]]:
    """How a peer ended, and its log; ends this process where the peer's task was lost."""
    try:
        found: tuple[Outcome, list[str]] = ray.get(reference)
        return found
    except ray.exceptions.RayTaskError as error:
        return Outcome(failure=Failure("crashed", str(error.cause))), []
    except ray.exceptions.TaskCancelledError:  # by the command, which stops the first process too
        return Outcome(failure=Failure("crashed", "stopped", secondary=True)), []
    except ray.exceptions.RayError:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def run_peer(run: PlannedRun, address: RankAddress, context: WorkerContext) -> tuple[Outcome, list[str]]:
    """Execute a further process of a run on this node; returns its outcome and what it printed.

    InputError where data or code of this node differ from those of the command.
    """
    store, host = replace(context, cpus=address.threads).prepare(), socket.gethostname()
    check_data(run)
    if code_hash(run.spec.target) != run.code:
        raise InputError(f"node {host}: found other code of {run.spec.target}; expected that of the command")
    print(f"{run.run_id}, process {address.rank} of {address.world_size}: starts on {host}", flush=True)
    lines: deque[str] = deque(maxlen=LOG_LINES)
    name = f"rank-{address.rank}-{os.getpid()}"
    folder = RunFolder.create(store.runs, run.run_id, run.spec, run.code, run.question, name)
    process = PeerProcess(folder.path, address)
    try:
        outcome = process.wait(lines.append)
    finally:
        process.kill()
        shutil.rmtree(folder.path, ignore_errors=True)
    if context.exchange and outcome.row is not None:
        store.drop_checkpoint(run.run_id)  # where folders are shared, the command does
        context.exchange.push_all(store.root.parent / "env", "env", new_only=True)
    return outcome, list(lines)
