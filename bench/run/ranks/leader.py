"""What the first process of a run does about the others, its peers: starts them, watches them, reads their outcomes.

The peers end with it, however it ends (`bench.run.__main__`), and are of its process group, unless they are on other
machines (`bench.run.ranks.rendezvous`). When a peer ends before its work is done, the run fails with the reason of that
peer, or with how it ended, also where this process waits for it in a collective operation that never returns."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from bench.process.options import Rendezvous
from bench.run.ranks.group import ALONE, ProcessGroup
from bench.run.ranks.peer_process import Failure, Outcome, PeerProcess, RankAddress, log_lines
from bench.run.ranks.rendezvous import RemotePeers

Fail = Callable[[str, str], None]  # (status, reason)
Rows = Callable[[], list[dict[str, Any]]]
OnEnd = Callable[[int, Outcome], None]  # (rank, outcome)
GRACE_S = 2.0  # after a failure is noticed, until another process, which may know the reason, has reported one


class FailedElsewhere(RuntimeError):
    """Another process of the run failed; ``status`` is the run's."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@contextmanager
def processes(
    folder: Path, world_size: int, on_failure: Fail | None, rendezvous: Rendezvous | None = None
) -> Iterator[tuple[ProcessGroup, Rows]]:
    """The processes of a run: starts all but this one, which is the first, and kills those that are left at the end.

    With a ``rendezvous`` something else does both. Yields also a function that waits until the peers have done their
    work and returns the columns that each measured. An error of this process that follows from the end of another is
    raised as FailedElsewhere. Where this process still waits some seconds after a peer has failed, a thread calls
    ``on_failure(status, reason)`` and ends this process."""
    if world_size == 1:
        yield ALONE, list
        return
    group, address = ProcessGroup.create(world_size, rendezvous.host if rendezvous else None)
    launcher = RemotePeers(rendezvous) if rendezvous else LocalPeers(folder, world_size)
    peers = Peers(launcher, address, world_size, on_failure)
    try:
        yield group, peers.rows
    except ConnectionError as error:
        if cause := peers.cause():
            raise FailedElsewhere(cause.status, cause.reason) from error
        raise
    finally:
        peers.stop()


class PeerLauncher(Protocol):
    """What starts the peers of a run."""

    def start(self, address: str, on_end: OnEnd) -> None:
        """Start them; they connect to the address. ``on_end`` is called, in a thread, when one has ended."""

    def stop(self) -> None:
        """Kill those that have not ended."""


class LocalPeers:
    """Starts the peers on this machine, in the run's folder."""

    def __init__(self, folder: Path, world_size: int) -> None:
        self._folder, self._world_size = folder, world_size
        self._processes: list[PeerProcess] = []

    def start(self, address: str, on_end: OnEnd) -> None:
        for rank in range(1, self._world_size):
            peer = PeerProcess(self._folder, RankAddress(rank, self._world_size, address))
            self._processes.append(peer)
            threading.Thread(target=self._watch, args=(rank, peer, on_end), daemon=True).start()

    def stop(self) -> None:
        for peer in self._processes:
            peer.kill()

    @staticmethod
    def _watch(rank: int, peer: PeerProcess, on_end: OnEnd) -> None:
        on_end(rank, peer.wait(lambda line: log_lines(rank, [line])))


class Peers:
    """Ranks 1 to ``world_size`` − 1, which connect to the store at ``address``."""

    def __init__(self, launcher: PeerLauncher, address: str, world_size: int, on_failure: Fail | None) -> None:
        self._launcher, self._world_size, self._on_failure = launcher, world_size, on_failure
        self._rows: dict[int, dict[str, Any]] = {}
        self._failures: list[Failure] = []
        self._changed = threading.Condition()
        self._decided = threading.Lock()  # held once it is settled who reports the end: this process, or a thread
        launcher.start(address, self._on_end)

    def rows(self) -> list[dict[str, Any]]:
        """The columns of each, in the order of ranks, once all have done their work. FailedElsewhere when one fails."""
        with self._changed:
            self._changed.wait_for(lambda: self._failures or len(self._rows) == self._world_size - 1)
        if cause := self.cause():
            raise FailedElsewhere(cause.status, cause.reason)
        return [row for _, row in sorted(self._rows.items())]

    def cause(self) -> Failure | None:
        """The failure that caused the others, of those noticed within GRACE_S; None where there is none."""
        with self._changed:
            done = len(self._rows) == self._world_size - 1
            if not done:
                self._changed.wait_for(lambda: any(not failure.secondary for failure in self._failures), GRACE_S)
            return min(self._failures, key=lambda failure: failure.secondary, default=None)

    def stop(self) -> None:
        """The work of this process is over: kill the peers that are left."""
        self._decided.acquire()
        self._launcher.stop()

    def _on_end(self, rank: int, outcome: Outcome) -> None:
        with self._changed:
            if outcome.row is not None:
                self._rows[rank] = outcome.row
            elif outcome.failure is not None:
                reason = f"process {rank} of {self._world_size}: {outcome.failure.reason}"
                self._failures.append(replace(outcome.failure, reason=reason))
                threading.Thread(target=self._end_this_process, daemon=True).start()
            self._changed.notify_all()

    def _end_this_process(self) -> None:
        """Report the failure and end this process, unless it has come out of its work within some seconds."""
        threading.Event().wait(2 * GRACE_S)
        if self._on_failure and self._decided.acquire(blocking=False) and (cause := self.cause()):
            self._on_failure(cause.status, cause.reason)
            os._exit(0)
