"""Kept repetitions, and runs that hold shards of predictions: in the shared folder, or at the URL of an exchange."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from bench.launch.ray.exchange import Exchange, fetch_folder
from bench.results.run_folder import RunFolder
from bench.results.store import REPETITIONS, WEIGHTS, Store

AT_URL = f"{REPETITIONS}/{WEIGHTS}"
FILES = ("safetensors", "json")  # of a repetition; the last says that it is complete


class KeptRepetitions:
    """The kept repetitions of all experiments beside a store, as the command sees them."""

    def __init__(self, store: Store, exchange: Exchange | None) -> None:
        """store: of the command's experiment."""
        self._store, self._exchange = Store(store.root.parent / REPETITIONS), exchange

    def sweep_up(self) -> None:
        """As `bench.results.store.Store.sweep_up`."""
        if self._store.root.is_dir():
            self._store.sweep_up()

    def present(self, names: Iterable[str]) -> set[str]:
        """Those of the named repetitions that are kept."""
        if self._exchange:
            there = self._exchange.names(AT_URL)
            return {name for name in names if f"{name}.json" in there}
        return {name for name in names if self._index(name).exists()}

    def remove(self, names: Iterable[str]) -> None:
        """Let the named repetitions be trained again."""
        names = list(names)
        if self._exchange:
            self._exchange.remove([f"{name}.json" for name in names], AT_URL)
        for name in names:
            self._index(name).unlink(missing_ok=True)

    def remove_runs(self, run_ids: Iterable[str]) -> None:
        """Remove runs that held shards of predictions."""
        for run_id in run_ids:
            shutil.rmtree(self._store.runs / run_id, ignore_errors=True)

    def _index(self, name: str) -> Path:
        return self._store.root / WEIGHTS / f"{name}.json"


def pull_repetitions(exchange: Exchange, names: Iterable[str], weights: Path) -> None:
    """Copy the named repetitions that are at the URL, and not in the folder ``weights``, into it."""
    there = exchange.names(AT_URL)
    for name in names:
        if f"{name}.json" in there and not (weights / f"{name}.json").exists():
            for kind in FILES:
                exchange.pull(f"{name}.{kind}", AT_URL, weights)


def push_repetitions(exchange: Exchange, names: Iterable[str], weights: Path) -> None:
    """Copy the named repetitions that are in the folder ``weights``, and not at the URL, to it."""
    there = exchange.names(AT_URL)
    for name in names:
        if (weights / f"{name}.json").exists() and f"{name}.json" not in there:
            for kind in FILES:
                exchange.push(weights / f"{name}.{kind}", AT_URL)


def pull_run(exchange: Exchange, store: Store, run_id: str) -> None:
    """Copy a run that is at the URL, and not in the store, into the store."""
    if not (store.runs / run_id).exists():
        folder = RunFolder(store.runs / f".{run_id}.{os.getpid()}.tmp")
        fetch_folder(exchange, f"{store.root.name}/runs/{run_id}", folder.path)
        if (folder.path / "record.json").exists():
            folder.complete()
