"""What the processes of one run exchange, which failure is the run's, and what is predicted of them."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks_in_threads import CPU, in_ranks, spec_of

from bench.common.errors import InputError
from bench.data.sizes import dataset_sizes
from bench.model import device
from bench.model.methods import Method
from bench.plan.forecast import Forecast, predict_run
from bench.plan.grid import Planner
from bench.plan.rates import Rates
from bench.results.measurements import Memory
from bench.run.ranks.group import ALONE, ProcessGroup
from bench.run.ranks.peer_process import RankAddress


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
