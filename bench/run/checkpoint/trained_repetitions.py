"""Trained repetitions, kept under a name made of all that their weights depend on, so that each is trained once.

A layer whose repetitions are independent says what one of them depends on (``part``, see
`bench.interface.OutputLayer`); `names` adds the rest. The folder has two files for each: its tensors, and how it was
trained, written last. See docs/repetitions.md."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

from bench.common import environment
from bench.common.files import write_atomic
from bench.common.locks import held, hold
from bench.config.spec import RunSpec
from bench.model.ensemble import Ensemble, RepetitionGroup
from bench.model.methods import Method
from bench.results.measurements import TrainedRepetition
from bench.run import memory
from bench.run.checkpoint.tensor_file import TensorFile, sha256_of, write_tensors

# Settings of training on which the weights do not depend.
NO_PART_OF_THE_NAME = (
    "repetitions_at_a_time",
    "validate_every",
    "evaluate_on",
    "top_k",
    "predict_batch",
    "checkpoint_every_s",
    "keep_repetitions",
    "device",  # the one that it comes to is
    "threads",
)
LOCKS = ".locks"  # beside the weights: of the repetitions that are being trained
ROOM = 0.1  # share of the disk that stays free


def names(method: Method, spec: RunSpec, code: str, identity: str, device: str, threads: int) -> list[str] | None:
    """A name for each of a run's repetitions; None where the layer's are not independent.

    code: the hash of the code that is to train. identity: of the data (`bench.data.dataset.identity_of`). Threads
    count, because the order in which floats are added depends on them."""
    found = []
    for r in range(method.encoders.repetitions or 1):
        alone = method.part(range(r, r + 1))
        if alone is None:
            return None
        train = {key: value for key, value in asdict(spec.train).items() if key not in NO_PART_OF_THE_NAME}
        content = [spec.target, alone, train, spec.seed, code, identity, device, threads]
        found.append(hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32])
    return found


class Repetitions:
    """Those of one run, by number: which are kept, their weights, and how they were trained."""

    def __init__(self, folder: Path, names: Sequence[str], note: Callable[[str], None]) -> None:
        """note: takes what is damaged or could not be written."""
        self.folder, self.names, self._note = folder, names, note
        self.trained: dict[int, TrainedRepetition] = {}
        self._held: dict[int, ExitStack] = {}

    def find(self, among: Iterable[int] | None = None) -> list[int]:
        """Numbers of the repetitions that are kept (of those ``among``), in order; damaged ones are removed."""
        for r in range(len(self.names)) if among is None else among:
            path = self._about(r)
            if r in self.trained or not path.exists():
                continue
            try:
                about = TrainedRepetition.from_json(json.loads(path.read_text()))
                if sha256_of(self._weights(r)) != about.sha256:
                    raise ValueError(f"{self._weights(r).name}: other SHA-256 than when it was written")
                self.trained[r] = replace(about, trained_before=True)
            except (OSError, ValueError, KeyError, TypeError) as error:
                self._note(f"kept repetition {r} not used, it is trained again: {error}")
                self.drop([r])
        return sorted(self.trained)

    @contextmanager
    def alone(self, among: Iterable[int] | None = None) -> Iterator[list[int]]:
        """Lock those that are not kept, each until it is, so that nobody else trains them; yields as `find`.

        What another process is training is waited for. All lock them in the same order, so none waits in a circle.
        """
        try:
            missing = set(range(len(self.names))) - set(self.find(among))
            for r in sorted(missing, key=lambda r: self.names[r]):
                self._hold(r)
                if among is None and r in self.find([r]):
                    self._release(r)
            yield sorted(self.trained)
        finally:
            for r in list(self._held):
                self._release(r)

    def _hold(self, r: int) -> None:
        lock = self.folder.parent / LOCKS / self.names[r]
        if held(lock):
            self._note(f"repetition {r} is being trained by another process; waits for it")
        self._held[r] = ExitStack()
        with suppress(OSError):  # a full disk: what is trained will not be kept either
            self._held[r].enter_context(hold(lock, wait=True))

    def _release(self, r: int) -> None:
        if r in self._held:
            self._held.pop(r).close()

    def load(self, ensemble: Ensemble) -> None:
        """Set the repetitions that are not to be trained. ValueError or OSError where a file does not fit them."""
        for group in ensemble.groups:
            if not group.to_train:
                for r in _numbers(group):
                    file = TensorFile(self._weights(r))
                    for name, tensor in ensemble.repetition_parameters(r).items():
                        file.read_into(name, tensor)

    def keep(self, ensemble: Ensemble, group: RepetitionGroup, seconds: float) -> None:
        """Write a group that was trained in so many seconds. OSError where there is no room."""
        for r in _numbers(group):
            if r in self.find([r]):  # by an earlier attempt at the run, or by another run in the meantime
                self.trained[r] = replace(self.trained[r], trained_before=False)
            else:
                self.trained[r] = self._write(ensemble, r, len(_numbers(group)), seconds)
            self._release(r)

    def _write(self, ensemble: Ensemble, r: int, together: int, seconds: float) -> TrainedRepetition:
        """Write one of the repetitions that were trained together in so many seconds; how it was trained."""
        tensors = ensemble.repetition_parameters(r)
        n_bytes = sum(tensor.nbytes for tensor in tensors.values())
        self.folder.mkdir(parents=True, exist_ok=True)
        disk = shutil.disk_usage(self.folder)
        if disk.free - n_bytes < ROOM * disk.total:
            raise OSError(f"a tenth of the disk is to stay free, {disk.free / 1e9:.1f} GB are")
        about = TrainedRepetition(
            repetition=r + ensemble.first,
            seconds=seconds / together,
            together=together,
            held=len(ensemble.prefixes),
            host=socket.gethostname(),
            process=f"{socket.gethostname()} {os.getpid()}",
            env_id=environment.env_id(),
            peaks=memory.peaks(ensemble.device),
            sha256=write_tensors(self._weights(r), tensors, {}),
        )
        write_atomic(self._about(r), json.dumps(about.to_json(), indent=1) + "\n")
        return about

    def drop(self, repetitions: Iterable[int] | None = None) -> None:
        """Forget repetitions (None: all of the run's)."""
        for r in range(len(self.names)) if repetitions is None else repetitions:
            self.trained.pop(r, None)
            for path in (self._about(r), self._weights(r)):
                with suppress(FileNotFoundError):
                    path.unlink()

    def _weights(self, r: int) -> Path:
        return self.folder / f"{self.names[r]}.safetensors"

    def _about(self, r: int) -> Path:
        return self.folder / f"{self.names[r]}.json"


def _numbers(group: RepetitionGroup) -> range:
    assert group.repetitions is not None
    return group.repetitions
