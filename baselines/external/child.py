"""The program that runs in the environment of an external method, a process per call: ``python -I child.py JOB.json``.

The method's script has ``fit(folder, job, clock)`` and ``predict(folder, job, clock)``. It reads the files that the
adapter wrote into ``folder``, keeps its model in ``folder/model``, and runs the clock for the library's own work alone:
no interpreter start, no reading of arrays, no loading of the model. Measurements go to ``facts.json``, rankings to
``topk.npz``. Uses numpy and the standard library only.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import signal
import sys
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Flat = tuple[
    npt.ArrayLike, npt.ArrayLike, npt.ArrayLike
]  # of some points: labels per point, then all labels, all scores


class Clock:
    """A stopwatch: the sum of the seconds of all ``with`` blocks."""

    seconds = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._started


def ranked(parts: Iterable[Flat], k: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """(scores [N, k], labels [N, k]) of all points: best first, ties by lowest label id, −1 where there are fewer."""
    scores = [np.zeros((0, k), dtype=np.float32)]
    labels = [np.zeros((0, k), dtype=np.int32)]
    for part in parts:
        lengths, found = np.asarray(part[0], dtype=np.int64), np.asarray(part[1], dtype=np.int32)
        values = np.asarray(part[2], dtype=np.float32)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        order = np.lexsort((found, -values, rows))
        ranks = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        kept = ranks < k
        scores.append(np.full((len(lengths), k), -np.inf, dtype=np.float32))
        labels.append(np.full((len(lengths), k), -1, dtype=np.int32))
        scores[-1][rows[kept], ranks[kept]] = values[order][kept]
        labels[-1][rows[kept], ranks[kept]] = found[order][kept]
    return np.concatenate(scores), np.concatenate(labels)


def memory(field: str) -> int | None:
    """Bytes of this process as the kernel counts them (VmRSS, or its high-water mark VmHWM); None where it does not."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def main(path: str) -> None:
    """Run the job that the file describes, and write the results into the folder of the file."""
    job: dict[str, Any] = json.loads(Path(path).read_text())
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no orphan continues when the run is killed
    if os.getppid() != job["parent"]:
        sys.exit("the run that started this has ended")
    folder, clock = Path(path).parent, Clock()
    script = runpy.run_path(job["script"])
    facts: dict[str, Any] = {"version": metadata.version(job["library"]), "baseline_host_bytes": memory("VmRSS")}
    if job["action"] == "fit":
        script["fit"](folder, job, clock)
        facts["peak_host_bytes"] = memory("VmHWM")
        facts["model_bytes"] = sum(file.stat().st_size for file in (folder / "model").rglob("*") if file.is_file())
        facts["params_output"] = script["parameters"](folder)  # after the peak was read: counting may need memory
    else:
        scores, labels = ranked(script["predict"](folder, job, clock), job["k"])
        facts["peak_host_bytes"] = memory("VmHWM")
        np.savez(folder / "topk.npz", scores=scores, labels=labels)
    facts["seconds"] = clock.seconds
    (folder / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(sys.argv[1])
