"""The base class of external methods: an environment, a folder of input and output files, a child for every call."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from baselines.external import child
from baselines.external.environments import cache_root, isolated, locked, python_of

SHOWN = 4000  # characters of a failed child's output that the run's log gets
OUT_OF_MEMORY = ("MemoryError", "std::bad_alloc", "memory allocation of")  # Python's words, C++'s and Rust's


class ExternalMethod(ABC):
    """A classifier of another library; subclasses name the library and write its input files.

    ``fit`` and ``topk`` each start a child in the library's environment. The model is kept in a folder on disk
    that is removed with this object; the folder of a killed run is removed by the next external method.
    """

    library: str  # name of the distribution that is measured
    requirements: tuple[str, ...]  # package==version, complete; the library first, so that a failure names it
    script: str  # path of the method's child script
    reproducible: bool  # the same settings and seed give the same predictions
    batched = False  # topk is to be called once with all points, because each call loads the model

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """``settings`` go to the child script unchanged."""
        self._settings = dict(settings)
        self._facts: dict[str, Any] = {}
        self._seed, self._threads = 0, len(os.sched_getaffinity(0))

    def prepare(self, seed: int, threads: int) -> None:
        """Make the environment if there is none yet. ``threads``: 0 = all cores.

        Raises NotImplementedError when it cannot be made here.
        """
        self._seed, self._threads = seed, threads or self._threads
        self._python = python_of(self.library, self.requirements)
        self._folder = work_folder(self)

    def fit(self, X: sp.csr_matrix, Y: sp.csr_matrix) -> None:
        """X CSR [N, n_features], Y CSR [N, n_labels]. Raises RuntimeError when the child fails, MemoryError when it
        reports that memory ran out."""
        # Out of order, indices are read wrongly by some libraries and end napkinXC with a segmentation fault.
        X, Y = X.sorted_indices(), Y.sorted_indices()
        self.write_points(self._folder, "train", X)
        self.write_labels(self._folder, X, Y)
        found = self._call("fit")
        self._n_labels = Y.shape[1]
        self._facts = {
            "library": f"{self.library} {found['version']}",
            "reproducible": "yes" if self.reproducible else "no",
            "device": "cpu",
            "params_output": found["params_output"],
            "params_total": found["params_output"],
            "model_bytes": found["model_bytes"],
            "baseline_host_bytes": found["baseline_host_bytes"],
            "peak_host_bytes": found["peak_host_bytes"],
            "fit_s": found["seconds"],
            "predict_s": 0.0,
        }

    def topk(self, X: sp.csr_matrix, k: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """(scores [N, k], labels [N, k]), best first, −1 where the library returns fewer; errors as in ``fit``."""
        self.write_points(self._folder, "test", X.sorted_indices())
        found = self._call("predict", k=k)
        peaks = [found["peak_host_bytes"], self._facts["peak_host_bytes"]]
        self._facts["peak_host_bytes"] = max(peaks) if None not in peaks else None
        self._facts["predict_s"] += found["seconds"]
        with np.load(self._folder / "topk.npz", allow_pickle=False) as kept:
            scores, labels = kept["scores"], kept["labels"]
        if scores.shape != (X.shape[0], k) or labels.shape != scores.shape:
            raise RuntimeError(f"{self.library}: found rankings {labels.shape}; expected {(X.shape[0], k)}")
        if labels.size and not -1 <= labels.min() <= labels.max() < self._n_labels:
            ids = f"{labels.min()} to {labels.max()}"
            raise RuntimeError(f"{self.library}: found label ids from {ids}; expected 0 to {self._n_labels - 1}")
        return scores, labels

    def facts(self) -> dict[str, Any]:
        """Columns as the child measured them: seconds of the library's own work, peak bytes of the larger child,
        bytes of the model on disk, non-zero weights (None where they cannot be counted), version."""
        return dict(self._facts)

    @abstractmethod
    def write_points(self, folder: Path, split: str, X: sp.csr_matrix) -> None:
        """Write the features of ``split`` (train or test) for the child script."""

    @abstractmethod
    def write_labels(self, folder: Path, X: sp.csr_matrix, Y: sp.csr_matrix) -> None:
        """Write the labels of the train points for the child script."""

    def _call(self, action: str, **more: Any) -> dict[str, Any]:
        """Run one child and return its facts. It is in this process's group, and is killed with it."""
        script, main = Path(self.script).resolve(), Path(child.__file__).resolve()
        job = {"action": action, "script": str(script), "library": self.library, "parent": os.getpid(), **more}
        job |= {"settings": self._settings, "seed": self._seed, "threads": self._threads}
        path, log = self._folder / "job.json", self._folder / "log.txt"
        path.write_text(json.dumps(job))
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), str(self._threads))
        with log.open("wb") as output:
            code = subprocess.run(
                [str(self._python), "-I", str(main), str(path)],
                cwd=self._folder,
                env=isolated(os.environ) | threads,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            ).returncode
        if code:
            raise self._failure(action, code, log.read_text(errors="replace"))
        facts: dict[str, Any] = json.loads((self._folder / "facts.json").read_text())
        return facts

    def _failure(self, action: str, code: int, output: str) -> Exception:
        print(output[-SHOWN:], file=sys.stderr)
        what = f"{self.library}, {action}"
        last = next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "it printed nothing")
        if any(words in output[-SHOWN:] for words in OUT_OF_MEMORY):
            return MemoryError(f"{what}: {last}")
        if code == -9:
            return RuntimeError(f"{what}: killed by signal 9; the kernel does that when memory runs out")
        how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
        return RuntimeError(f"{what}: {how}: {last}")


def work_folder(owner: object) -> Path:
    """A new folder in the cache that is removed with its owner, or at the latest when this process ends.

    A process killed by its limits cannot clean up; its folder is recognised by a lock that no process holds.
    """
    root = (cache_root() / "peers").absolute()
    root.mkdir(parents=True, exist_ok=True)
    with locked(root / ".sweeping"):  # no other process sees a folder before its lock is held
        for lock in root.glob("*.lock"):
            with contextlib.suppress(OSError), lock.open("a") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                lock.unlink()
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=root))
        held = folder.with_name(f"{folder.name}.lock").open("a")
        fcntl.flock(held, fcntl.LOCK_EX)

    def remove() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_name(f"{folder.name}.lock").unlink(missing_ok=True)
        held.close()

    weakref.finalize(owner, remove)
    return folder


def unit_rows(X: sp.csr_matrix) -> sp.csr_matrix:
    """X with every row at Euclidean length 1, float32, columns in order; rows without features stay empty."""
    rows = sp.csr_matrix(X, dtype=np.float32, copy=True)
    rows.sort_indices()
    lengths = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1), dtype=np.float64)).ravel()
    rows.data /= np.repeat(np.where(lengths > 0, lengths, 1), np.diff(rows.indptr)).astype(np.float32)
    return rows


def at_least(low: float, **settings: float) -> None:
    """ValueError when one of the settings is below ``low``."""
    for name, value in settings.items():
        if isinstance(value, bool) or not value >= low:
            raise ValueError(f"{name}: found {value!r}; expected at least {low}")
