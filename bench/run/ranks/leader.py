"""The processes beside the first of a run that takes several: started, watched and heard by the first.

They end with it, however it ends (`bench.run.__main__`), and are of its process group, unless they are on other
machines (`bench.run.ranks.rendezvous`). When one of them ends before its work is done, the run fails with what that one
told, or with how it ended, even if this process waits for it in vain."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from bench.process.options import Rendezvous
from bench.run.ranks.group import ALONE, ProcessGroup
from bench.run.ranks.peer_process import Failure, Outcome, PeerProcess, RankAddress
from bench.run.ranks.rendezvous import RemotePeers

Fail = Callable[[str, str], None]  # (status, reason)
Rows = Callable[[], list[dict[str, Any]]]
GRACE_S = 2.0  # for a failure noticed in one process to be told by another, which may know the reason


class FailedElsewhere(RuntimeError):
    """Another process of the run failed; ``status`` is the run's."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@contextmanager
def processes(
    folder: Path, world_size: int, fail: Fail | None, rendezvous: Rendezvous | None = None
) -> Iterator[tuple[ProcessGroup, Rows]]:
    """The processes of a run: starts all but this one, which is the first, and kills what is left of them.

    Where there is a ``rendezvous``, something else does both. Yields also a function that waits until the others have
    done their work and gives the columns that each measured. Raises FailedElsewhere in the place of an error that
    follows from the end of another. If this process does not come out of its work within seconds of that, it is ended,
    by a thread, after ``fail(status, reason)``."""
    if world_size == 1:
        yield ALONE, list
        return
    ranks, address = ProcessGroup.lead(world_size, rendezvous.host if rendezvous else None)
    peers = Peers(RemotePeers(rendezvous) if rendezvous else Here(folder, world_size), address, world_size, fail)
    try:
        yield ranks, peers.rows
    except ConnectionError as error:
        if cause := peers.cause():
            raise FailedElsewhere(cause.status, cause.reason) from error
        raise
    finally:
        peers.end()


class Start(Protocol):
    """What starts the others: tells how each ends, in a thread, and ends what is left of them."""

    def begin(self, address: str, hear: Callable[[int, Outcome], None]) -> None: ...

    def end(self) -> None: ...


class Here:
    """Starts them on this machine, in the run's folder."""

    def __init__(self, folder: Path, world_size: int) -> None:
        self._folder, self._world_size = folder, world_size
        self._followers: list[PeerProcess] = []

    def begin(self, address: str, hear: Callable[[int, Outcome], None]) -> None:
        """They meet at the address."""
        for rank in range(1, self._world_size):
            peer = PeerProcess(self._folder, RankAddress(rank, self._world_size, address))
            self._followers.append(peer)
            threading.Thread(target=self._watch, args=(rank, peer, hear), daemon=True).start()

    def end(self) -> None:
        """Kill what is left of them."""
        for peer in self._followers:
            peer.kill()

    @staticmethod
    def _watch(rank: int, peer: PeerProcess, hear: Callable[[int, Outcome], None]) -> None:
        def log(line: str) -> None:
            sys.stderr.write(f"[rank {rank}] {line}")
            sys.stderr.flush()

        hear(rank, peer.wait(log))


class Peers:
    """Ranks 1 to ``world_size`` − 1, who meet at ``address``."""

    def __init__(self, start: Start, address: str, world_size: int, fail: Fail | None) -> None:
        self._start, self._world_size, self._fail = start, world_size, fail
        self._rows: dict[int, dict[str, Any]] = {}
        self._failures: list[Failure] = []
        self._changed = threading.Condition()
        self._out = threading.Lock()  # taken by what tells first how this process has ended: itself, or a watch
        start.begin(address, self._hear)

    def rows(self) -> list[dict[str, Any]]:
        """What each measured, in the order of ranks, once all have done their work. FailedElsewhere when one fails."""
        with self._changed:
            self._changed.wait_for(lambda: self._failures or len(self._rows) == self._world_size - 1)
        if cause := self.cause():
            raise FailedElsewhere(cause.status, cause.reason)
        return [row for _, row in sorted(self._rows.items())]

    def cause(self) -> Failure | None:
        """The failure that the others follow from, of those noticed within GRACE_S; None where there is none."""
        with self._changed:
            over = len(self._rows) == self._world_size - 1
            if not over:
                self._changed.wait_for(lambda: any(not failure.follows for failure in self._failures), GRACE_S)
            return min(self._failures, key=lambda failure: failure.follows, default=None)

    def end(self) -> None:
        """Kill what is left of them: the work of this process is over."""
        self._out.acquire()
        self._start.end()

    def _hear(self, rank: int, outcome: Outcome) -> None:
        with self._changed:
            if outcome.row is not None:
                self._rows[rank] = outcome.row
            elif outcome.failure is not None:
                reason = f"process {rank} of {self._world_size}: {outcome.failure.reason}"
                self._failures.append(replace(outcome.failure, reason=reason))
                threading.Thread(target=self._give_up, daemon=True).start()
            self._changed.notify_all()

    def _give_up(self) -> None:
        """End this process if it is still there some seconds after a failure."""
        threading.Event().wait(2 * GRACE_S)
        if self._fail and self._out.acquire(blocking=False) and (cause := self.cause()):
            self._fail(cause.status, cause.reason)
            os._exit(0)
