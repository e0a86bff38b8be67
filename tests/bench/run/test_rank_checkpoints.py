"""Checkpoints of a run in several processes: all of them go on from the same epoch, or none does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks_in_threads import CPU, IDENTITY, in_ranks

from bench.config.spec import TrainSettings
from bench.run.checkpoint.checkpoint import INDEX, Checkpoints, Done, Refused
from bench.run.ranks.group import ProcessGroup

# ── Checkpoints of several processes ──


def checkpoints(folder: Path, ranks: ProcessGroup, every: float = 0.0) -> Checkpoints:
    def note(text: str) -> None:
        (folder / f"note-{ranks.rank}").write_text(text)

    settings = TrainSettings(checkpoint_every_s=every)
    return Checkpoints(folder / str(ranks.rank), IDENTITY, settings, CPU, note, ranks)


def leave(folder: Path, rank: int, epoch: int) -> None:
    path = folder / str(rank) / INDEX
    path.parent.mkdir()
    done = {"epoch": epoch, "train_loss": 1.0, "elapsed_s": 1.5, "peaks": {}}
    path.write_text(json.dumps({"format": 1, **IDENTITY, "done": done, "tables": "", "files": {}}))


def find(folder: Path, ranks: ProcessGroup) -> Done | str:
    found = checkpoints(folder, ranks)
    try:
        found.find()
    except Refused as error:
        return str(error)
    return found.done


def test_processes_go_on_from_the_same_epoch(tmp_path: Path) -> None:
    for rank in range(2):
        leave(tmp_path, rank, 3)
    assert [(done.epoch, done.resumed) for done in in_ranks(2, lambda r: find(tmp_path, r))] == [(3, 1)] * 2


def test_processes_without_checkpoints_begin(tmp_path: Path) -> None:
    assert in_ranks(2, lambda ranks: find(tmp_path, ranks)) == [Done(), Done()]


@pytest.mark.parametrize("other", [2, None])
def test_another_epoch_or_none_in_one_process_is_refused_by_all(tmp_path: Path, other: int | None) -> None:
    leave(tmp_path, 0, 3)
    if other is not None:
        leave(tmp_path, 1, other)
    at = [[0, 3], [0, other or 0]]
    expected = f"checkpoints of the processes: found [groups, epochs] {at}; expected the same of all"
    assert in_ranks(2, lambda ranks: find(tmp_path, ranks)) == [expected, expected]


def test_a_damaged_one_is_refused_by_all(tmp_path: Path) -> None:
    for rank in range(2):
        leave(tmp_path, rank, 3)
    (tmp_path / "1" / INDEX).write_text("{")
    first, second = in_ranks(2, lambda ranks: find(tmp_path, ranks))
    assert first == f"process 1 of 2: {second}"
    assert second.startswith(f"{INDEX}: JSONDecodeError")


class Writing(Checkpoints):
    """Checkpoints of a network that there is not."""

    def _state(self, optimiser: Any) -> Any:
        del optimiser
        if self.fails:
            raise OSError("no space left")
        return {self.position: ({"x": torch.zeros(3)}, {})}


def write(folder: Path, ranks: ProcessGroup, every: tuple[float, float], failing: int | None) -> list[str]:
    mine = checkpoints(folder, ranks, every[ranks.rank])
    mine.__class__ = Writing
    mine.fails, mine._tables = ranks.rank == failing, ""
    mine.done.epoch = 1
    mine.write_if_due(None)
    return sorted(path.name for path in mine.folder.glob("*"))


def test_the_first_process_decides_when_all_write(tmp_path: Path) -> None:
    """And removes what is old, but not what others keep in folders beside its own files."""
    written = [INDEX, "group-0-epoch-1.safetensors"]
    (tmp_path / "now" / "0" / "rank-1").mkdir(parents=True)
    for at in range(9):
        (tmp_path / "now" / "0" / f"group-{at}-epoch-0.safetensors").touch()
    found = in_ranks(2, lambda ranks: write(tmp_path / "now", ranks, (0.0, 1e9), None))
    assert found == [[*written, "rank-1"], written]
    assert in_ranks(2, lambda ranks: write(tmp_path / "later", ranks, (1e9, 0.0), None)) == [[], []]


def test_what_one_cannot_write_none_takes_for_written(tmp_path: Path) -> None:
    assert in_ranks(2, lambda ranks: write(tmp_path, ranks, (0.0, 0.0), 1)) == [[], []]
    assert (tmp_path / "note-0").read_text() == "checkpoint not written: process 1 of 2: OSError: no space left"
    assert (tmp_path / "note-1").read_text() == "checkpoint not written: OSError: no space left"
