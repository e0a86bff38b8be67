"""How the first process of a run deals with others that something else starts, on whichever machines: by files.

Of a folder on the machine of the first process. That process leaves there the address of its store; what starts the
others (`bench.launch.ray.multi_node`) waits for that, and leaves in turn how each of them ended. Imports no torch.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from bench.common.files import write_atomic
from bench.process.options import Rendezvous
from bench.run.ranks.peer_process import Outcome

LOOK_S = 0.1  # between looks at the folder
ADDRESS = "address"


class RemotePeers:
    """The other processes of a run that something else starts (`bench.launch.ray.multi_node`)."""

    def __init__(self, at: Rendezvous) -> None:
        self._folder, self._world_size = Path(at.folder), at.world_size

    def begin(self, address: str, hear: Callable[[int, Outcome], None]) -> None:
        """For the first process: say where the others find it; ``hear`` is told, by a thread, how each has ended."""
        write_atomic(self._folder / ADDRESS, address)
        threading.Thread(target=self._listen, args=(hear,), daemon=True).start()

    def end(self) -> None:
        """For the first process. Whoever started the others sees it end, and ends them."""

    def address(self, over: threading.Event) -> str | None:
        """For what starts the others: the address, once it is known; None when all is over before."""
        path = self._folder / ADDRESS
        while not over.wait(LOOK_S):
            if path.exists():
                return path.read_text()
        return None

    def tell(self, rank: int, outcome: Outcome, log: Sequence[str] = ()) -> None:
        """For what started a process: how it ended, and what it has printed."""
        write_atomic(self._folder / f"{rank}.json", json.dumps({**asdict(outcome), "log": list(log)}))

    def _listen(self, hear: Callable[[int, Outcome], None]) -> None:
        awaited = {rank: self._folder / f"{rank}.json" for rank in range(1, self._world_size)}
        while awaited:
            for rank in [rank for rank, path in awaited.items() if path.exists()]:
                told = json.loads(awaited.pop(rank).read_text())
                for line in told["log"]:
                    sys.stderr.write(f"[rank {rank}] {line}")
                sys.stderr.flush()
                hear(rank, Outcome.of(told) or Outcome())
            time.sleep(LOOK_S)
