"""Peers of a run that something else starts, on whichever machines; files in one folder carry what both sides say.

The folder is on the machine of the first process, which writes there the address of its store. What starts the peers
(`bench.launch.ray.multi_node`) waits for the address, and writes there how each of them ended. Imports no torch.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.common.files import write_atomic
from bench.process.options import Rendezvous
from bench.run.ranks.peer_process import Outcome, log_lines

POLL_S = 0.1  # between looks at the folder
ADDRESS = "address"


class RemotePeers:
    """Both sides of the folder; the first process uses it as a `bench.run.ranks.leader.PeerLauncher`."""

    def __init__(self, rendezvous: Rendezvous) -> None:
        self._folder, self._world_size = Path(rendezvous.folder), rendezvous.world_size

    def start(self, address: str, on_end: Callable[[int, Outcome], None]) -> None:
        """In the first process: publish the address; ``on_end`` is called, in a thread, when a peer has ended."""
        write_atomic(self._folder / ADDRESS, address)
        threading.Thread(target=self._read_outcomes, args=(on_end,), daemon=True).start()

    def stop(self) -> None:
        """In the first process: nothing to do, because what started the peers ends them when this process ends."""

    def wait_for_address(self, stopped: threading.Event) -> str | None:
        """In what starts the peers: the address, once it is published; None if ``stopped`` is set before."""
        path = self._folder / ADDRESS
        while not stopped.wait(POLL_S):
            if path.exists():
                return path.read_text()
        return None

    def write_outcome(self, rank: int, outcome: Outcome, log: Sequence[str] = ()) -> None:
        """In what starts the peers: how one of them ended, and the lines that it printed."""
        write_atomic(self._folder / f"{rank}.json", json.dumps({**outcome.to_json(), "log": list(log)}))

    def _read_outcomes(self, on_end: Callable[[int, Outcome], None]) -> None:
        running = {rank: self._folder / f"{rank}.json" for rank in range(1, self._world_size)}
        while running:
            for rank in [rank for rank, path in running.items() if path.exists()]:
                content = json.loads(running.pop(rank).read_text())
                log_lines(rank, content["log"])
                on_end(rank, Outcome.from_json(content) or Outcome())
            time.sleep(POLL_S)
