"""How the first process of a run deals with others that something else starts, on whichever machines: by files.

Of a folder on the machine of the first process. That process leaves there the address of its store; what starts the
others (`bench.ray_ranks`) waits for that, and leaves in turn how each of them ended. Imports no torch.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.files import write_atomic
from bench.follower import Outcome

LOOK_S = 0.1  # between looks at the folder
ADDRESS = "address"


@dataclass(frozen=True)
class Meeting:
    """``host``: address of the first process's machine for the others; ``threads``: of its own, as in a `Place`."""

    folder: str
    world_size: int
    host: str
    threads: int

    def begin(self, address: str, hear: Callable[[int, Outcome], None]) -> None:
        """For the first process: say where the others find it; ``hear`` is told, by a thread, how each has ended."""
        write_atomic(Path(self.folder) / ADDRESS, address)
        threading.Thread(target=self._listen, args=(hear,), daemon=True).start()

    def end(self) -> None:
        """For the first process. Whoever started the others sees it end, and ends them."""

    def address(self, over: threading.Event) -> str | None:
        """For what starts the others: the address, once it is known; None when all is over before."""
        path = Path(self.folder) / ADDRESS
        while not over.wait(LOOK_S):
            if path.exists():
                return path.read_text()
        return None

    def tell(self, rank: int, outcome: Outcome, log: Sequence[str] = ()) -> None:
        """For what started a process: how it ended, and what it has printed."""
        write_atomic(Path(self.folder) / f"{rank}.json", json.dumps({**asdict(outcome), "log": list(log)}))

    def _listen(self, hear: Callable[[int, Outcome], None]) -> None:
        awaited = {rank: Path(self.folder) / f"{rank}.json" for rank in range(1, self.world_size)}
        while awaited:
            for rank in [rank for rank, path in awaited.items() if path.exists()]:
                told = json.loads(awaited.pop(rank).read_text())
                for line in told["log"]:
                    sys.stderr.write(f"[rank {rank}] {line}")
                sys.stderr.flush()
                hear(rank, Outcome.of(told) or Outcome())
            time.sleep(LOOK_S)
