"""The side of the command when runs are spread over a Ray cluster: what is to be a task, when, and how it ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.common.errors import InputError
from bench.launch.experiment_runner import PATIENCE_S, LaunchContext
from bench.launch.progress import Progress
from bench.launch.ray import worker
from bench.launch.ray.exchange import Exchange, fetch_folder
from bench.launch.ray.forecast import foresee, gpu_bytes
from bench.launch.ray.multi_node import execute_in_bundles, options_of
from bench.launch.ray.nodes import Nodes
from bench.launch.ray.tasks import Part, Shared, Task, Whole, runs_of, share_of_gpu
from bench.launch.ray.worker import WorkerFolder, WorkerResult, called, called_share
from bench.plan.plan import PlannedRun
from bench.process.events import RunTrace
from bench.process.failure import failure_record
from bench.process.options import RunOptions, Shortfall
from bench.results.ledger import end_of
from bench.results.record import described
from bench.results.run_folder import RunFolder
from bench.results.store import REPETITIONS, WEIGHTS, Store
from bench.run.prediction_shards import cut

ATTEMPTS = 3  # of what a worker or node dies over
STOP_S = 20.0  # for the runs in progress to write down that they were stopped
SHARED_FROM = 1e12  # labels to be scored, about a minute of a core: a process of a share takes seconds to start


class Driver:
    """The side of the command: hands tasks out, and tells how they end.

    ``shared_from``: labels to be scored (points × labels × repetitions) from which on workers share the predictions.
    """

    def __init__(
        self,
        ray: Any,
        context: LaunchContext,
        progress: Progress,
        done: Mapping[str, int],
        exchange: Exchange | None = None,
        shared_from: float = SHARED_FROM,
    ) -> None:
        self._ray, self._progress, self._done, self._exchange = ray, progress, done, exchange
        self._shared_from = shared_from
        self._place = WorkerFolder(str(Path.cwd()), exchange.url if exchange else None)
        self._ways = replace(context, force=False)  # a run is begun anew once, not after each death of its node
        self._from_the_beginning = context.force
        self._kept = Store(context.store.root.parent / REPETITIONS)
        self._nodes = Nodes(ray.nodes())
        self._gpu_bytes: int | None = None
        self._waiting: dict[Any, Task] = {}  # by what Ray gave for the task
        self._groups: dict[Any, Any] = {}  # placement groups of such tasks, where they have one
        self._blocked: list[Whole] = []  # runs that wait for their parts
        self._pending: set[str] = set()  # names of the repetitions that parts are training
        self._failed: dict[str, tuple[str, str]] = {}  # status and reason by name

    def launcher(self, todo: Sequence[PlannedRun]) -> dict[str, str | None]:
        """See `RayCluster`."""
        if self._kept.root.is_dir():
            self._kept.sweep_up()
        if self._exchange:
            with contextlib.ExitStack() as stack:
                held = [run for run in todo if stack.enter_context(self._ways.store.claim(run.run_id)) is not None]
                for run in todo:
                    if run not in held:
                        self._progress.note(f"{run.run_id}: held by another machbench; left to it")
                return self._work_off(held) if held else {}
        return self._work_off(todo)

    def _work_off(self, todo: Sequence[PlannedRun]) -> dict[str, str | None]:
        wholes = self._foresee(todo)
        for whole in wholes:
            whole.bundle = self._nodes.bundle_of(whole)
        if self._from_the_beginning:
            self._forget(wholes)
        statuses: dict[str, str | None] = {}
        try:
            self._hand_out(wholes)
            while self._waiting:
                (ready,), _ = self._ray.wait(list(self._waiting), num_returns=1)
                task = self._waiting.pop(ready)
                if group := self._groups.pop(ready, None):
                    self._ray.util.remove_placement_group(group)
                ended = self._ended(ready, task)
                if ended is None:  # another command holds it
                    time.sleep(PATIENCE_S)
                    self._submit(task)
                elif isinstance(task, Part):
                    self._part_ended(task, ended)
                elif isinstance(task, Shared):
                    self._share_ended(task, ended)
                else:
                    statuses[task.run.run_id] = ended.status
                    self._run_ended(task, ended)
        except BaseException:
            self._stop(list(self._waiting))
            raise
        return statuses

    def _foresee(self, todo: Sequence[PlannedRun]) -> list[Whole]:
        """In workers that end with it: what predicts loads torch."""
        once = {"num_cpus": 0, "max_calls": 1}
        if self._nodes.gpus:
            seen = self._ray.remote(**once, num_gpus=1)(gpu_bytes)
            self._gpu_bytes = self._result(seen.remote())
        self._parts = self._parts_of_a_run(todo)
        task = self._ray.remote(**once)(foresee)
        threads = [self._nodes.cpus_of(run) for run in todo]
        kind = "cuda" if self._gpu_bytes else "cpu"
        found = self._result(task.remote(list(todo), self._place, threads, kind, self._parts))
        return [Whole(run, foreseen) for run, foreseen in zip(todo, found, strict=True)]

    def _parts_of_a_run(self, todo: Sequence[PlannedRun]) -> int:
        """As many as it takes to give every worker something to do."""
        if self._ways.skip_unfit:  # what a whole run takes is to be seen
            return 1
        cpus = min(self._nodes.cpus_of(run) for run in todo)
        workers = self._nodes.workers(cpus)
        return max(1, -(-workers // len(todo)))

    def _forget(self, wholes: Sequence[Whole]) -> None:
        """Checkpoints and kept repetitions of runs that are to be begun anew."""
        for whole in wholes:
            with self._ways.store.claim(whole.run.run_id) as claim:
                if claim is not None:
                    self._ways.store.drop_checkpoint(whole.run.run_id)
            if self._exchange:
                kept = [f"{name}.json" for name in whole.foreseen.names]
                self._exchange.remove(kept, f"{REPETITIONS}/{WEIGHTS}")
            for name in whole.foreseen.names:
                self._about(name).unlink(missing_ok=True)

    def _hand_out(self, wholes: Sequence[Whole]) -> None:
        """Runs whole, but for those that share repetitions or are to be cut: of these what is missing, part by part."""
        users = Counter(name for whole in wholes for name in whole.foreseen.names)
        at_hand = self._at_hand(users)
        for whole in wholes:
            names = whole.foreseen.names
            missing = [r for r, name in enumerate(names) if name not in at_hand]
            if not missing:
                self._trained(whole)
                continue
            if self._parts == 1 and all(users[name] == 1 for name in names):
                self._submit(whole)
                continue
            self._blocked.append(whole)
            size = -(-len(missing) // self._parts)
            for members in runs_of([r for r in missing if names[r] not in self._pending], size):
                part = Part(whole, members)
                self._pending |= set(part.names)
                self._submit(part)

    def _trained(self, whole: Whole) -> None:
        """A run whose repetitions are there, or failed: it is submitted, or first shares of its predictions."""
        known = whole.foreseen
        to_score = known.n_points * known.n_labels * len(known.names)
        if self._parts > 1 and to_score >= self._shared_from and not self._shortfall(whole):
            batch = whole.run.spec.train.predict_batch
            sizes = (known.n_points, known.n_labels, batch, self._parts)
            whole.shares = cut(*sizes, known.peak, self._nodes.memory, known.by_label)
        for share in whole.shares:
            self._submit(Shared(whole, share))
        if not whole.shares:
            self._submit(whole)

    def _submit(self, task: Task) -> None:
        run, foreseen = (task.run, task.foreseen) if isinstance(task, Whole) else (task.of.run, task.of.foreseen)
        cpus = self._nodes.cpus_of(run)
        needs: dict[str, float] = {"num_cpus": cpus}
        predicted = foreseen.part_peak if isinstance(task, Part) else foreseen.peak
        if predicted is not None:
            # What no node has room for goes to the largest, and becomes a row with what happens there.
            needs["memory"] = min(predicted, self._nodes.memory)
        if whole_gpus := self._nodes.gpus_of(task if isinstance(task, Whole) else task.of):
            part = isinstance(task, Part)
            needs["num_gpus"] = share_of_gpu(foreseen.part_gpu, self._gpu_bytes) if part else whole_gpus
        asked = {"max_retries": ATTEMPTS - 1, **needs}
        # Nodes that share no folder may have repetitions of their own that are to be trained again.
        first = not isinstance(task, Whole) or task.began is None
        context = replace(self._ways, force=self._from_the_beginning and self._exchange is not None and first)
        if isinstance(task, Part):
            name = f"{run.run_id}, {called(task.members)}"
            remote = self._ray.remote(worker.train_part).options(name=name, **asked)
            reference = remote.remote(run, task.members, context, self._place, cpus, task.names)
        elif isinstance(task, Shared):
            remote = self._ray.remote(worker.predict_share).options(name=f"{run.run_id}, predictions", **asked)
            arguments = (self._ways, self._place, cpus, foreseen.names, self._from_the_beginning)
            reference = remote.remote(run, task.share, *arguments)
        else:
            kept = replace(run, spec=replace(run.spec, train=replace(run.spec.train, keep_repetitions=True)))
            shares = tuple(task.shared[share] for share in task.shares)
            options = RunOptions(
                begun=task.began, shortfall=self._shortfall(task), shares=shares if all(shares) else ()
            )
            done, names = self._done.get(run.run_id, 0), foreseen.names
            if task.bundle:
                reference = self._submit_in_bundles(
                    task, kept, (done, context, self._place, task.bundle, options, names)
                )
            else:
                remote = self._ray.remote(worker.execute).options(name=run.run_id, **asked)
                reference = remote.remote(kept, done, context, self._place, cpus, options, names)
            if self._exchange:  # the ledger of the worker is on its machine
                told = {"shared": described(run.spec), "asked": run.asked}
                self._ways.store.ledger.append("started", run.run_id, attempt="elsewhere", **told)
        self._waiting[reference] = task

    def _submit_in_bundles(self, task: Whole, kept: PlannedRun, arguments: tuple[Any, ...]) -> Any:
        """A bundle for each process, near each other if it can be; the task of the run is in the first."""
        assert task.bundle
        util = self._ray.util
        group = util.placement_group([task.bundle] * task.foreseen.processes, strategy="PACK")
        where = util.scheduling_strategies.PlacementGroupSchedulingStrategy(group, 0)
        asked = {"max_retries": ATTEMPTS - 1, "scheduling_strategy": where, **options_of(task.bundle)}
        remote = self._ray.remote(execute_in_bundles).options(name=kept.run_id, **asked)
        reference = remote.remote(kept, *arguments)
        self._groups[reference] = group
        return reference

    def _at_hand(self, names: Iterable[str]) -> set[str]:
        """Those of the repetitions that are kept."""
        if self._exchange:
            there = self._exchange.names(f"{REPETITIONS}/{WEIGHTS}")
            return {name for name in names if f"{name}.json" in there}
        return {name for name in names if self._about(name).exists()}

    def _bring_in(self, exchange: Exchange, run_id: str, ended: WorkerResult) -> None:
        """What a worker of another machine handed in of a run, into the results of the command."""
        store = self._ways.store
        folder = RunFolder(store.runs / f".{run_id}.{os.getpid()}.tmp")
        fetch_folder(exchange, f"{store.root.name}/runs/{run_id}", folder.path)
        for shared in ("env", "data"):
            exchange.pull_all(shared, store.root.parent / shared, new_only=True)
        folder.complete()
        status = str(ended.status)
        told = {"status": status, "seconds": round(ended.seconds, 3), "host": ended.host}
        store.ledger.append(end_of(status), run_id, **told)

    def _about(self, name: str) -> Path:
        return self._kept.root / WEIGHTS / f"{name}.json"

    def _part_ended(self, part: Part, ended: WorkerResult) -> None:
        """Tell of it, and submit the runs that waited for nothing else."""
        self._tell(part.of, called(part.members), ended)
        self._pending -= set(part.names)
        if ended.status not in ("ok", None):
            failed = (ended.status, f"{called(part.members)}: {ended.outcome}")
            self._failed |= dict.fromkeys(set(part.names) - self._at_hand(part.names), failed)
        for whole in list(self._blocked):
            names = set(whole.foreseen.names)
            if names & set(part.names):
                whole.begin(ended)
            if not names & self._pending:
                self._blocked.remove(whole)
                self._trained(whole)

    def _share_ended(self, task: Shared, ended: WorkerResult) -> None:
        """Tell of it, and submit the run if it was the last. Where a share failed, the run predicts all by itself."""
        self._tell(task.of, called_share(task.share), ended)
        task.of.begin(ended)
        task.of.shared[task.share] = ended.run_id if ended.status == "ok" else ""
        if len(task.of.shared) == len(task.of.shares):
            self._submit(task.of)

    def _run_ended(self, whole: Whole, ended: WorkerResult) -> None:
        run_id = whole.run.run_id
        if self._exchange and ended.status is not None and ended.host:
            self._bring_in(self._exchange, run_id, ended)
        if ended.status == "ok":
            for share in filter(None, whole.shared.values()):
                shutil.rmtree(self._kept.runs / share, ignore_errors=True)
        self._progress.ended_on(run_id, ended.host, ended.status, ended.outcome, ended.seconds)

    def _tell(self, whole: Whole, called: str, ended: WorkerResult) -> None:
        where = f" on {ended.host}" if ended.host else ""
        told = f"{whole.run.run_id}, {called}: {ended.status or 'left'}"
        self._progress.note(f"{told}, {ended.outcome}, {ended.seconds:.1f} s{where}".replace(", , ", ", "))

    def _shortfall(self, whole: Whole) -> Shortfall | None:
        """The first repetition of a run that failed."""
        for r, name in enumerate(whole.foreseen.names):
            if name in self._failed:
                return Shortfall(r, *self._failed[name])
        return None

    def _result(self, reference: Any) -> Any:
        """What a task returned; what it raised is raised."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, (InputError, OSError)) else error from None

    def _ended(self, reference: Any, task: Task) -> WorkerResult | None:
        """How a task ended. A run whose node died again and again gets a row that says so."""
        try:
            found: WorkerResult | None = self._result(reference)
            return found
        except self._ray.exceptions.RayTaskError:
            raise
        except self._ray.exceptions.RayError as error:
            reason = f"its worker or node died {ATTEMPTS} times: {str(error).strip().splitlines()[0]}"
        if not isinstance(task, Whole):
            return WorkerResult("crashed", reason, "", 0.0)
        if self._exchange:  # the claim is this command's own
            return self._crashed(task.run, reason)
        store, run = self._ways.store, task.run
        deadline = time.monotonic() + STOP_S
        while store.claimed(run.run_id) and time.monotonic() < deadline:
            time.sleep(PATIENCE_S)  # the process of the run ends with its worker, but not in the same moment
        with store.claim(run.run_id) as claim:
            return None if claim is None else self._crashed(run, reason)

    def _crashed(self, run: PlannedRun, reason: str) -> WorkerResult:
        store = self._ways.store
        store.close_books(run.run_id)
        folder = RunFolder.create(store.runs, run.run_id, run.spec, run.code, run.asked)
        folder.write_record(failure_record(run.spec, "crashed", reason, RunTrace(), None, folder.path / "log.txt"))
        folder.complete()
        store.ledger.append(end_of("crashed"), run.run_id, status="crashed", reason=reason)
        return WorkerResult("crashed", reason, "", 0.0)

    def _stop(self, references: list[Any]) -> None:
        """As Ctrl-C would on one machine: the runs in progress are stopped and written down."""
        for reference in reversed(references):  # those that wait first, so that none takes the place of one that stops
            self._ray.cancel(reference, force=False)
        if references:
            self._ray.wait(references, num_returns=len(references), timeout=STOP_S)
