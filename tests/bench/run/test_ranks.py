"""What the processes of one run exchange, which failure is the run's, and what is predicted of them."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.common.errors import InputError
from bench.config.experiment import unfold
from bench.config.spec import RunSpec, TrainSettings
from bench.data.sizes import dataset_sizes
from bench.model import device
from bench.model.methods import Method
from bench.plan.forecast import Forecast, predict_run
from bench.plan.grid import Planner
from bench.plan.rates import Rates
from bench.process.options import Rendezvous, RunOptions
from bench.results.measurements import Memory
from bench.results.run_folder import RunFolder
from bench.run.checkpoint.checkpoint import INDEX, Checkpoints, Done, Refused
from bench.run.execute import execute
from bench.run.outcome import classify
from bench.run.ranks import leader, peer_process
from bench.run.ranks.group import ALONE, GLOO_INTERFACE, ProcessGroup
from bench.run.ranks.leader import FailedElsewhere, LocalPeers, Peers, processes
from bench.run.ranks.network_interfaces import address_towards, interface_of
from bench.run.ranks.peer_process import RANK, Failure, Outcome, RankAddress
from bench.run.ranks.rendezvous import RemotePeers

CPU = torch.device("cpu")
IDENTITY = {"run_id": "run"}


def in_ranks(count: int, work: Callable[[ProcessGroup], Any]) -> list[Any]:
    """The same work for each rank, in threads of this process; results in the order of ranks."""
    first, address = ProcessGroup.create(count)
    ranks = [first, *(ProcessGroup.connect(RankAddress(rank, count, address)) for rank in range(1, count))]
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, ranks))


def spec_of(**settings: Any) -> RunSpec:
    return next(unfold({"dataset": "tiny", "methods": {"full_softmax": settings}}, "test"))


def test_values_are_exchanged_in_the_order_of_ranks() -> None:
    def work(ranks: ProcessGroup) -> list[Any]:
        return [ranks.exchange([ranks.rank, None]), ranks.exchange({"a": "ü"})]

    assert in_ranks(3, work) == [[[[0, None], [1, None], [2, None]], [{"a": "ü"}] * 3]] * 3
    assert ALONE.exchange([1]) == [[1]]


def test_the_error_of_one_process_reaches_all() -> None:
    errors = in_ranks(3, lambda ranks: ranks.first_error("no" if ranks.rank == 1 else None))
    assert errors == ["process 1 of 3: no", "no", "process 1 of 3: no"]
    assert in_ranks(2, lambda ranks: ranks.first_error(None)) == [None, None]
    assert (ALONE.first_error("no"), ALONE.first_error(None)) == ("no", None)


def test_none_goes_on_before_all_have_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first to leave would otherwise close connections that others are still making."""
    connected = []

    def slow_in_the_first(*_: Any, rank: int, **__: Any) -> None:
        time.sleep(0.0 if rank else 0.5)
        connected.append(rank)

    def work(ranks: ProcessGroup) -> int:
        ranks.join(CPU)
        return len(connected)

    monkeypatch.setattr("bench.run.ranks.group.dist.init_process_group", slow_in_the_first)
    assert in_ranks(3, work) == [3, 3, 3]


def test_a_failure_to_join_is_a_connection_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("Gloo connectFullMesh failed: connection closed by peer")

    monkeypatch.setattr("bench.run.ranks.group.dist.init_process_group", fails)
    ranks, _ = ProcessGroup.create(1)
    with pytest.raises(ConnectionError, match=r"joining the other processes: .*closed by peer"):
        ranks.join(CPU)


def test_copies_of_the_trunk_are_compared_bit_for_bit() -> None:
    def work(ranks: ProcessGroup, weight: float) -> str:
        module = torch.nn.Linear(2, 2)
        with torch.no_grad():
            module.weight.fill_(1.0)
            module.bias.fill_(weight if ranks.rank == 1 else 1.0)
        try:
            ranks.compare(module)
        except RuntimeError as error:
            return str(error)
        return "same"

    assert in_ranks(3, lambda ranks: work(ranks, 1.0)) == ["same"] * 3
    expected = "copies of the trunk: found other bits in processes 1; expected those of process 0"
    assert in_ranks(3, lambda ranks: work(ranks, 1.0 + 2**-23)) == [expected] * 3
    ALONE.compare(torch.nn.Linear(2, 2).double())


def test_the_address_of_the_store_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        monkeypatch.setenv("MASTER_PORT", str(busy.getsockname()[1]))
        with pytest.raises(InputError, match=r"MASTER_PORT: found 127\.0\.0\.1:"):
            ProcessGroup.create(2)
        port = busy.getsockname()[1]
    _, address = ProcessGroup.create(2)
    assert address == f"127.0.0.1:{port}"
    for wrong in ("many", "70000"):
        monkeypatch.setenv("MASTER_PORT", wrong)
        with pytest.raises(InputError, match=f"found 127.0.0.1:{wrong}; expected"):
            ProcessGroup.create(2)


def test_a_rank_address_survives_the_environment() -> None:
    address = RankAddress(1, 2, "127.0.0.1:4711")
    assert RankAddress.from_env(address.to_env()) == address
    assert RankAddress.from_env({"RANK": "1", "WORLD_SIZE": "2"}) is None  # those of another launcher


def test_a_layer_declares_its_number_of_processes() -> None:
    assert Method.load("baselines.full_softmax.FullSoftmax", {"shards": 3}).processes == 3
    assert Method.load("baselines.label_frequency.LabelFrequency", {}).processes == 1


def test_all_processes_have_the_same_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [device.threads_each(total, 3) for total in (1, 3, 5, 6)] == [1, 1, 1, 2]
    before, numbas = torch.get_num_threads(), device.numba.get_num_threads()
    try:
        device.set_threads(4, 2)
        assert torch.get_num_threads() == 2
        monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
        device.set_threads(0, 3)
        monkeypatch.undo()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
        device.numba.set_num_threads(numbas)


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [device.pick_device("auto", rank, 2) for rank in (0, 1)] == [torch.device("cuda", r) for r in (0, 1)]
    assert device.pick_device("auto") == torch.device("cuda")
    assert device.pick_device("cpu", 2, 3) == CPU
    with pytest.raises(InputError, match="GPUs: found 2; expected 3"):
        device.pick_device("auto", 0, 3)
    planner = Planner(Path("results"), None, None, 400_000_000, 4_000_000_000, 2, Rates(1e11, 1e10))
    found = [planner.unsupported(spec_of(shards=shards)) for shards in (1, 2, 3)]
    assert found == ["", "", "GPUs: found 2; expected 3, one for each process of the run"]
    assert planner.plan(spec_of(shards=3), None).state == "unsupported"
    many = planner.plan(spec_of(shards=501, device="cpu"), None)
    assert (many.state, many.reason) == ("unsupported", "shards: found 501; expected at most 500, the number of labels")


def test_bytes_are_predicted_for_a_process_and_must_fit_for_all() -> None:
    sizes = replace(dataset_sizes("tiny"), n_labels=3_000_000)
    specs = [spec_of(shards=n) for n in (1, 3)]
    one, three = (predict_run(Method.load(s.target, s.settings), s, sizes, 0, None, 1) for s in specs)
    assert (one.processes, three.processes) == (1, 3)
    assert one.parameters == three.parameters
    assert one.bytes is not None
    assert three.bytes is not None
    n_weights = 1_000_000 * 129
    assert three.bytes["optimiser"] == one.bytes["optimiser"] - 2 * 8 * n_weights
    assert three.bytes["weights"] == one.bytes["weights"] - 2 * 4 * n_weights
    peak = three.peak_bytes
    assert peak is not None
    assert not three.unfit(3 * peak, None)
    assert three.unfit(3 * peak - 1, None).startswith("needs ")
    assert "in 3 processes" in three.unfit(None, peak)
    assert "processes" not in Forecast(None, None, 10, None, None, 1).unfit(9, None)


def test_the_highest_peak_of_all_processes_stays() -> None:
    row = {"peak_host_bytes": 30, "baseline_host_bytes": 10, "peak_host_above_baseline_bytes": 20, "fit_s": 1.0}
    row["peak_host_fit_bytes"], row["peak_gpu_allocated_bytes"] = 25, None
    others = [{"peak_host_bytes": 50, "peak_host_fit_bytes": 5, "baseline_host_bytes": 12, "fit_s": 2.0}, {}]
    found = Memory.from_json(row).highest([Memory.from_json(other) for other in others]).to_json()
    assert found | {"fit_s": 1.0} == row | {"peak_host_bytes": 50, "peak_host_above_baseline_bytes": 40}


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
