"""A disk that is full in the middle of a run: a clear error, what is finished stays, and the run completes later."""

from __future__ import annotations

import contextlib
import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import machbench
from sweep import N, assert_whole, executions, untimed, write_sweep

from bench.common.errors import InputError
from bench.common.files import is_full, write_atomic
from bench.results.ledger import Ledger

SIZE = "4m"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder whose results/ is a file system of SIZE in memory."""
    results = tmp_path / "e" / "results"
    results.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(results)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield results.parent
    subprocess.run(["umount", str(results)], check=True)


def make_room(folder: Path) -> None:
    for ballast in (folder / "results").glob("ballast*"):
        ballast.unlink()
    (folder / "results" / "made room").touch()


@pytest.mark.slow
def test_a_full_disk_costs_only_the_run_in_progress(small_disk: Path) -> None:
    """Run 2 of 6 leaves not a byte, so that neither its predictions nor its failure nor the ledger can be written."""
    text = f"dataset: tiny\nmethods:\n  quick: {{method: quick.yaml, which: {list(range(N))}, fill: results}}\n"
    write_sweep(small_disk, text)
    root = small_disk / "results" / "small"
    done = machbench("run", "small.yaml", cwd=small_disk, check=1)
    assert "no space left" in done.stderr
    assert str(root.relative_to(small_disk)) in done.stderr
    assert "goes on from here" in done.stderr
    assert "Traceback" not in done.stderr
    finished = assert_whole(root)
    assert len(finished) == 2
    assert executions(small_disk) == {0: 1, 1: 1, 2: 1}

    again = machbench("run", "small.yaml", cwd=small_disk, check=1)  # nothing has changed, and nothing gets worse
    assert "no space left" in again.stderr
    assert "Traceback" not in again.stderr
    assert assert_whole(root) == finished

    make_room(small_disk)
    machbench("run", "small.yaml", cwd=small_disk)
    assert finished.items() <= assert_whole(root).items()
    assert executions(small_disk) == {0: 1, 1: 1, 2: 2, 3: 1, 4: 1, 5: 1}
    assert untimed(small_disk)["status"].tolist() == ["ok"] * N
    assert not list((root / "runs").glob(".*"))


def fill(folder: Path) -> None:
    with (folder / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while ballast.write(bytes(4096)):
            pass


def test_a_write_to_a_full_disk_names_its_file_and_keeps_its_content(small_disk: Path) -> None:
    path = small_disk / "results" / "kept.txt"
    write_atomic(path, "measured")
    ledger = Ledger(small_disk / "results" / "ledger.jsonl")
    ledger.append("planned", "a")
    fill(small_disk / "results")
    with pytest.raises(OSError, match=r"kept\.txt") as error:
        write_atomic(path, "x" * 10_000)
    assert is_full(error.value)
    assert path.read_text() == "measured"
    assert {p.name for p in path.parent.iterdir()} == {"kept.txt", "ballast", "ledger.jsonl"}
    with pytest.raises(OSError, match=r"ledger\.jsonl") as error:
        ledger.append("planned", "b", long="x" * 10_000)
    assert is_full(error.value)
    (small_disk / "results" / "ballast").unlink()
    ledger.append("planned", "c")
    assert [e["run_id"] for e in ledger.events()] == ["a", "c"]


def test_only_errors_of_a_full_disk_count_as_one() -> None:
    assert is_full(OSError(errno.EDQUOT, "quota"))
    assert not is_full(OSError(errno.EACCES, "not permitted"))
    assert not is_full(InputError("full"))
