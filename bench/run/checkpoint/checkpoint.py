"""The checkpoint of a run, from which another process goes on when this one is killed (docs/resume.md)."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from bench.common import environment
from bench.common.files import write_atomic
from bench.config.spec import RunSpec, TrainSettings
from bench.data import Dataset
from bench.model.ensemble import Ensemble
from bench.model.optim import Optimiser
from bench.results.measurements import Memory
from bench.run import memory
from bench.run.checkpoint.tensor_file import TensorFile, sha256_of, write_tensors
from bench.run.checkpoint.training_state import (
    State,
    load_network,
    load_optimiser,
    network_state,
    optimiser_state,
    random_state,
    random_state_in,
    set_random_state,
    tables_digest,
)
from bench.run.clock import Clock
from bench.run.ranks.group import ALONE, ProcessGroup

FORMAT = 1
INDEX = "checkpoint.json"
SHARE = 0.1  # of the time since the last checkpoint that writing the next may take
FIRST_SPEED = 100e6  # bytes/s of a slow disk: believed until a write was measured


class Refused(Exception):
    """A checkpoint is there but cannot be gone on from; says why."""


@dataclass
class Done:
    """How far training has come, and what it took."""

    group_size: int | None = None  # repetitions trained together: memory may decide otherwise the next time
    trained_before: list[int] = field(default_factory=list)  # repetitions that were there when the run began
    finished: list[float] = field(default_factory=list)  # what the clock showed at the end of each group trained
    epoch: int = 0  # epochs behind the group in training
    train_loss: float | None = None  # of the last of these
    fit_s: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)
    resumed: int = 0
    elapsed_s: float = 0.0  # of all attempts until this was written
    peaks: dict[str, int | None] = field(default_factory=dict)  # highest of all attempts: columns of `Memory`


class Checkpoints:
    """Finds, restores and writes the checkpoint of one run.

    The folder holds `INDEX`, which names all other files and is renamed into place last; a file for each finished group
    (its network), written once; and one for where training stands (network and optimiser of the group in training, and
    random states). What the index does not name is removed.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        settings: TrainSettings,
        device: torch.device,
        note: Callable[[str], None],
        ranks: ProcessGroup = ALONE,
    ) -> None:
        """identity: what must be equal for a checkpoint to be of this run. note: takes why one was not written.

        ranks: the processes of the run, each of which has a checkpoint of its part, of the same epoch as the others'.
        They find, restore and write together; what one refuses, all do.
        """
        self.ranks = ranks
        self.folder, self.identity, self.settings = folder, dict(identity), settings
        self.device, self.note = device, note
        self.done = Done()
        self.earlier_s = 0.0  # that attempts before this one took, and in what memory
        self.earlier_memory = Memory()
        self._files: dict[str, str] = {}  # SHA-256 by name
        self._tables: str | None = None
        self._started = self._last = time.perf_counter()
        self._speed = FIRST_SPEED

    def find(self) -> None:
        """Take up what an earlier attempt left, if it left anything.

        Refused when it is damaged or of another run, or when the processes of the run have none of the same epoch.
        """
        refused, found = None, Done()
        try:
            found = self._find() or found
        except Refused as error:
            refused = error
        if why := self.ranks.first_error(None if refused is None else str(refused)):
            raise refused or Refused(why)
        at = self.ranks.exchange([len(found.finished), found.epoch])
        if any(other != at[0] for other in at):
            raise Refused(f"checkpoints of the processes: found [groups, epochs] {at}; expected the same of all")
        if found.epoch or found.finished:
            self.earlier_s, self.earlier_memory = found.elapsed_s, Memory.from_json(found.peaks)
            self.done = replace(found, resumed=found.resumed + 1)

    def _find(self) -> Done | None:
        path = self.folder / INDEX
        if not path.exists():
            return None
        try:
            index = json.loads(path.read_text())
            for key, expected in {"format": FORMAT, **self.identity}.items():
                if index[key] != expected:
                    raise Refused(f"{INDEX}, key {key}: found {index[key]!r}; expected {expected!r}")
            done = Done(**index["done"])
            for name, digest in index["files"].items():
                if (found := sha256_of(self.folder / name)) != digest:
                    raise Refused(f"{name}: found SHA-256 {found[:8]}; expected {digest[:8]}")
            self._files, self._tables = index["files"], index["tables"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Refused(f"{INDEX}: {type(error).__name__}: {error}") from error
        return done

    def restore(self, ensemble: Ensemble, trained_before: list[int]) -> None:
        """Set networks and random states to what was found. Refused when hash tables or shapes differ."""
        self._ensemble = ensemble
        self.done.group_size, self.done.trained_before = ensemble.group_size, trained_before
        if self._tables is None:
            return
        with refusing(self.ranks):
            if (found := tables_digest(ensemble)) != self._tables:
                raise ValueError(f"hash tables: found SHA-256 {self._tables[:8]}; expected {found[:8]} as made now")
            for at in range(len(self.done.finished)):
                load_network(ensemble.to_train[at].network, TensorFile(self.folder / _finished(at)))
            position = TensorFile(self.folder / self.position)
            if self.done.epoch:
                load_network(ensemble.to_train[len(self.done.finished)].network, position)
            set_random_state(self.device, random_state_in(position))

    def keeper(self, clock: Clock) -> GroupKeeper:
        """For the training of the next group; ``clock`` is the fit clock."""
        return GroupKeeper(self, clock)

    def write_if_due(self, optimiser: Optimiser) -> None:
        """Write a checkpoint, unless it would take too much of the time since the last; a failure is only noted.

        The first process decides for all, and no index is renamed into place before all have written their files.
        """
        started, every = time.perf_counter(), self.settings.checkpoint_every_s
        waited = started - self._last
        if not self.ranks.exchange(waited >= every)[0]:
            return
        state: dict[str, State] = {}
        why = _failure_of(lambda: state.update(self._state(optimiser)))
        n_bytes = sum(tensor.nbytes for tensors, _ in state.values() for tensor in tensors.values())
        if self.ranks.exchange(bool(every) and waited * SHARE < n_bytes / self._speed)[0]:
            return
        written: dict[str, str] = {}
        why = why or _failure_of(lambda: written.update(self._write_files(state)))
        why = self.ranks.first_error(why) or _failure_of(lambda: self._write_index(written))
        if why:
            self.note(f"checkpoint not written: {why}")
        self._prune()
        self._last = time.perf_counter()
        self._speed = max(n_bytes, 1) / (self._last - started)

    def _state(self, optimiser: Optimiser) -> dict[str, State]:
        """What is to be written, by file: finished groups that were not, and where training stands."""
        finished = len(self.done.finished)
        missing = [at for at in range(finished) if _finished(at) not in self._files]
        state = {_finished(at): network_state(self._ensemble.to_train[at].network) for at in missing}
        parts = [random_state(self.device)]
        if self.done.epoch:
            parts += [network_state(self._ensemble.to_train[finished].network), optimiser_state(optimiser)]
        tensors, values = ({k: v for part in parts for k, v in part[i].items()} for i in (0, 1))
        return {**state, self.position: (tensors, values)}

    def _write_files(self, state: Mapping[str, State]) -> dict[str, str]:
        """SHA-256 by name."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return {name: write_tensors(self.folder / name, *content) for name, content in state.items()}

    def _write_index(self, written: Mapping[str, str]) -> None:
        if self._tables is None:
            self._tables = tables_digest(self._ensemble)
        finished = [_finished(at) for at in range(len(self.done.finished))]
        files = {
            name: digest for name, digest in {**self._files, **written}.items() if name in (*finished, self.position)
        }
        spent = self.earlier_s + time.perf_counter() - self._started
        highest = Memory(peaks=memory.peaks(self.device)).highest([self.earlier_memory])
        done = replace(self.done, elapsed_s=spent, peaks=highest.to_json())
        index = {"format": FORMAT, **self.identity, "done": asdict(done), "tables": self._tables, "files": files}
        write_atomic(self.folder / INDEX, json.dumps(index, indent=1) + "\n")
        self._files = files

    def _prune(self) -> None:
        """Remove what the index does not name: earlier checkpoints, and files of one that failed."""
        with suppress(OSError):
            for path in self.folder.iterdir():
                if path.name not in (INDEX, *self._files) and path.is_file():  # those of other ranks lie in folders
                    path.unlink(missing_ok=True)

    @property
    def position(self) -> str:
        return f"group-{len(self.done.finished)}-epoch-{self.done.epoch}.safetensors"


@dataclass(frozen=True)
class GroupKeeper:
    """Goes between a run's checkpoints and the training of one group (`bench.run.train.EpochWatch`)."""

    checkpoints: Checkpoints
    clock: Clock

    def restore(self, optimiser: Optimiser) -> tuple[int, float]:
        """Set optimiser and clock to what was found, as `Checkpoints.restore` did the network. Refused as there."""
        done = self.checkpoints.done
        self.clock.seconds = done.fit_s
        if not done.epoch or done.train_loss is None:
            return 0, math.nan
        with refusing(self.checkpoints.ranks):
            load_optimiser(optimiser, TensorFile(self.checkpoints.folder / self.checkpoints.position))
        return done.epoch, done.train_loss

    def after_epoch(self, optimiser: Optimiser, epoch: int, mean_loss: float) -> None:
        """Note where training stands, and write it if it is time."""
        done = self.checkpoints.done
        done.epoch, done.train_loss, done.fit_s = epoch, mean_loss, self.clock.seconds
        if epoch == self.checkpoints.settings.epochs:
            done.epoch, done.finished = 0, [*done.finished, done.fit_s]
        self.checkpoints.write_if_due(optimiser)


def _finished(at: int) -> str:
    return f"group-{at}.safetensors"


def _failure_of(work: Callable[[], None]) -> str | None:
    """What went wrong, whatever it is: a run can do without a checkpoint. None where nothing did."""
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


@contextmanager
def refusing(ranks: ProcessGroup = ALONE) -> Iterator[None]:
    """Whatever does not fit becomes Refused, in all processes."""
    cause = None
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        cause = error
    if why := ranks.first_error(None if cause is None else f"{type(cause).__name__}: {cause}"):
        raise Refused(why) from cause


def identity_of(run_id: str, spec: RunSpec, data: Dataset) -> dict[str, Any]:
    """What a checkpoint is of. The run's id has the hash of the code; times must all be of one environment."""
    return {
        "run_id": run_id,
        "spec": hashlib.sha256(spec.canonical().encode()).hexdigest(),
        "data": data.fingerprint,
        "env_id": environment.env_id(),
    }
