"""Peers: the other processes of a run, their failures, and the addresses at which they meet."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks_in_threads import CPU, spec_of

from bench.common.errors import InputError
from bench.config.spec import TrainSettings
from bench.model import device
from bench.process.options import Rendezvous, RunOptions
from bench.results.run_folder import RunFolder
from bench.run.execute import execute
from bench.run.outcome import classify
from bench.run.ranks import leader, peer_process
from bench.run.ranks.group import ALONE, GLOO_INTERFACE, ProcessGroup
from bench.run.ranks.leader import FailedElsewhere, LocalPeers, Peers, processes
from bench.run.ranks.network_interfaces import address_towards, interface_of
from bench.run.ranks.peer_process import RANK, Failure, Outcome, RankAddress
from bench.run.ranks.rendezvous import RemotePeers

# ── Peers: scripts in place of processes that take seconds to start ──


ROW = 'print(\'{"row": {"peak_host_bytes": 7}}\')'
FAILS = 'print(\'{"failure": {"status": "oom_host", "reason": "no room", "secondary": false}}\'); exit(1)'
LOSES_ANOTHER = 'print(\'{"failure": {"status": "crashed", "reason": "lost", "secondary": true}}\'); exit(1)'
KILLED = "import os; print('{\"row', flush=True); os.kill(os.getpid(), 9)"
ENDLESS = "import time; time.sleep(600)"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.setattr(leader, "GRACE_S", 1.0)

    def use(*script: str) -> None:
        def python(_: str, **env: str) -> tuple[list[str], dict[str, str]]:
            rank = json.loads(env[RANK])["rank"]
            return [sys.executable, "-c", script[rank - 1]], {**os.environ, **env}

        monkeypatch.setattr(peer_process, "python", python)

    return use


def test_the_first_process_gets_what_its_peers_measured(scripts: Callable[..., None], tmp_path: Path) -> None:
    scripts(ROW, "import time; time.sleep(0.2); " + ROW.replace("7", "8"))
    with processes(tmp_path, 3, None) as (_, rows):
        assert rows() == [{"peak_host_bytes": 7}, {"peak_host_bytes": 8}]
    with processes(tmp_path, 1, None) as (ranks, rows):
        assert (ranks, rows()) == (ALONE, [])


def test_what_peers_print_is_in_the_log(
    scripts: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scripts("import sys; print('careful', file=sys.stderr); " + ROW)
    with processes(tmp_path, 2, None) as (_, rows):
        rows()
        deadline = time.monotonic() + 20
        text = ""
        while "careful" not in text and time.monotonic() < deadline:
            text += capsys.readouterr().err
            time.sleep(0.01)
    assert text == "[rank 1] careful\n"


@pytest.mark.parametrize(
    ("script", "status", "reason"),
    [
        ((KILLED, ENDLESS), "crashed", "process 1 of 3: killed by signal 9; the kernel does that when memory runs out"),
        ((ENDLESS, FAILS), "oom_host", "process 2 of 3: no room"),
        ((LOSES_ANOTHER, "import time; time.sleep(0.3); " + FAILS), "oom_host", "process 2 of 3: no room"),
        ((LOSES_ANOTHER, ENDLESS), "crashed", "process 1 of 3: lost"),
        (("exit(3)", ROW), "crashed", "process 1 of 3: exit status 3 without a record; see log.txt"),
    ],
)
def test_a_lost_connection_is_reported_as_the_failure_of_the_peer(
    scripts: Callable[..., None], tmp_path: Path, script: tuple[str, ...], status: str, reason: str
) -> None:
    """Both where this process notices in an exchange, and where it waits for what the others measured."""
    scripts(*script)
    with pytest.raises(FailedElsewhere) as caught, processes(tmp_path, 3, None):
        raise ConnectionError("closed by peer")
    assert classify(caught.value) == (status, reason)
    with pytest.raises(FailedElsewhere) as caught, processes(tmp_path, 3, None) as (_, rows):
        rows()
    assert classify(caught.value) == (status, reason)


def test_an_error_of_this_process_stays_its_own(scripts: Callable[..., None], tmp_path: Path) -> None:
    scripts(FAILS)
    with pytest.raises(MemoryError), processes(tmp_path, 2, None):
        raise MemoryError
    scripts(ENDLESS)
    with pytest.raises(ConnectionError), processes(tmp_path, 2, None):
        raise ConnectionError("and nobody knows why")


def test_a_process_that_still_waits_after_a_failure_is_ended(
    scripts: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader, "GRACE_S", 0.2)
    ended, failures = threading.Event(), []
    monkeypatch.setattr(leader.os, "_exit", lambda _: ended.set())
    scripts(KILLED)
    Peers(LocalPeers(tmp_path, 2), "127.0.0.1:1", 2, lambda status, reason: failures.append((status, reason)))
    assert ended.wait(60)
    assert failures == [("crashed", "process 1 of 2: killed by signal 9; the kernel does that when memory runs out")]


def test_a_process_that_came_out_is_not_ended(
    scripts: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader, "GRACE_S", 0.2)
    scripts(KILLED)
    failures: list[str] = []
    with pytest.raises(FailedElsewhere), processes(tmp_path, 2, lambda status, _: failures.append(status)) as (_, rows):
        rows()
    time.sleep(1.0)
    assert failures == []


def test_peers_are_killed_at_the_end(scripts: Callable[..., None], tmp_path: Path) -> None:
    scripts(f"import os; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); {ENDLESS}")
    with processes(tmp_path, 2, None):
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.01)
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state == "Z":
            return
        time.sleep(0.01)
    raise AssertionError("still alive")


# ── Peers that something else starts: threads in its place ──


def rows_by_rendezvous(folder: Path, peers: Callable[[Rendezvous, str], None]) -> list[dict[str, Any]]:
    """The rows that the first process gets from two peers; ``peers`` acts for them, given the address of the store."""
    rendezvous = Rendezvous(str(folder), 3, "127.0.0.1", 1)

    def start() -> None:
        address = RemotePeers(rendezvous).wait_for_address(threading.Event())
        assert address is not None
        peers(rendezvous, address)

    thread = threading.Thread(target=start)
    thread.start()
    try:
        with processes(folder, 3, None, RunOptions.from_env(RunOptions(rendezvous=rendezvous).to_env()).rendezvous) as (
            ranks,
            rows,
        ):
            assert ranks.world_size == 3
            return rows()
    finally:
        thread.join()


def test_rows_of_peers_that_something_else_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def peers(rendezvous: Rendezvous, address: str) -> None:
        RemotePeers(rendezvous).write_outcome(2, Outcome(row={"n": 2}))
        ProcessGroup.connect(RankAddress(1, 3, address, threads=1))  # there is a store
        RemotePeers(rendezvous).write_outcome(1, Outcome(row={"n": 1}), ["one\n", "two\n"])

    assert rows_by_rendezvous(tmp_path, peers) == [{"n": 1}, {"n": 2}]
    assert capsys.readouterr().err == "[rank 1] one\n[rank 1] two\n"


def test_a_failure_of_such_a_peer_is_the_runs(tmp_path: Path) -> None:
    def peers(rendezvous: Rendezvous, _: str) -> None:
        RemotePeers(rendezvous).write_outcome(1, Outcome(failure=Failure("crashed", "lost", secondary=True)))
        RemotePeers(rendezvous).write_outcome(2, Outcome(failure=Failure("oom_host", "no room")))

    with pytest.raises(FailedElsewhere) as caught:
        rows_by_rendezvous(tmp_path, peers)
    assert classify(caught.value) == ("oom_host", "process 2 of 3: no room")


def test_memory_is_predicted_for_the_processes_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is skipped by what its own process takes, where the others are on other machines."""
    monkeypatch.setattr("bench.run.execute.take_share", lambda *_: CPU)  # and leave this process its threads
    spec, reasons = spec_of(shards=2), []
    folder = RunFolder.create(tmp_path / "small" / "runs", "run", spec)
    for rendezvous in (None, Rendezvous(str(tmp_path), 2, "127.0.0.1", 1)):
        record = execute(spec, folder, lambda _: None, RunOptions(skip_above=1.0, rendezvous=rendezvous))
        assert record.status == "skipped_by_plan"
        reasons.append("in 2 processes" in str(record.reason))
    assert reasons == [True, False]


def test_waiting_for_an_address_ends_when_it_is_stopped(tmp_path: Path) -> None:
    stopped = threading.Event()
    stopped.set()
    assert RemotePeers(Rendezvous(str(tmp_path), 2, "127.0.0.1", 1)).wait_for_address(stopped) is None


def test_a_process_with_threads_of_its_own_divides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(device, "set_threads", lambda *threads: given.append(threads))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert device.take_share(TrainSettings(threads=6), 1, 2, threads=3) == torch.device("cuda")
    with pytest.raises(InputError, match="GPUs: found 1; expected 2"):
        device.take_share(TrainSettings(threads=6), 1, 2)
    assert device.take_share(TrainSettings(threads=6, device="cpu"), 1, 2) == CPU
    assert given == [(3, 1), (6, 2)]


def test_an_interface_is_found_by_its_address() -> None:
    assert address_towards("127.0.0.1", 9) == "127.0.0.1"
    assert interface_of("127.0.0.1") == interface_of("localhost") == "lo"
    assert interface_of("192.0.2.1") is None  # of no network (RFC 5737)
    assert interface_of("nowhere.invalid") is None


def test_processes_of_several_machines_use_the_interface_of_their_address(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    def form(*_: object, **__: object) -> None:
        seen.append(os.environ.get(GLOO_INTERFACE))

    monkeypatch.setattr("bench.run.ranks.group.dist.init_process_group", form)
    assert GLOO_INTERFACE not in os.environ
    for host in (None, "127.0.0.1"):
        ranks, _ = ProcessGroup.create(1, host)
        ranks.join(CPU)
        assert GLOO_INTERFACE not in os.environ  # which processes that are started later would inherit
    monkeypatch.setenv(GLOO_INTERFACE, "given")
    ranks.join(CPU)
    assert os.environ[GLOO_INTERFACE] == "given"
    assert seen == [None, "lo", "given"]
