"""Where tasks are placed, by what resources, and how a cluster is found: without a cluster."""

from __future__ import annotations

import subprocess
import sys
import types
from typing import Any

import pytest

from bench.common.errors import InputError
from bench.config.experiment import unfold
from bench.launch.ray.cluster import connect
from bench.launch.ray.forecast import RunForecast
from bench.launch.ray.nodes import Nodes
from bench.launch.ray.tasks import RunTask, consecutive_ranges, gpu_fraction
from bench.plan.plan import PlannedRun


def nodes_of(*resources: dict[str, float]) -> Nodes:
    return Nodes(
        [{"Alive": True, "Resources": node} for node in resources] + [{"Alive": False, "Resources": {"CPU": 99}}]
    )


def test_bundles_are_counted_node_by_node() -> None:
    nodes = nodes_of({"CPU": 8, "GPU": 2, "memory": 100}, {"CPU": 3, "GPU": 4, "memory": 100}, {"memory": 1000})
    assert nodes.room_for({"CPU": 2, "GPU": 1, "memory": 30}) == 3
    assert nodes.room_for({"CPU": 1, "GPU": 0}) == 11
    assert nodes.room_for({"CPU": 1, "memory": 60}) == 2


def test_processes_are_placed_one_by_one_where_no_node_has_room_for_all() -> None:
    def bundle(nodes: Nodes, processes: int, peak: int, **train: Any) -> dict[str, float] | None:
        text = {"dataset": "tiny", "train": train, "methods": {"full_softmax": {"shards": processes}}}
        spec = next(unfold(text, "test"))
        run = PlannedRun("run", spec, None, "", "")
        return nodes.bundle_of(RunTask(run, RunForecast(peak, processes=processes)))

    cpus = nodes_of({"CPU": 4, "memory": 100}, {"CPU": 6, "memory": 100}, {"memory": 1000})
    assert bundle(cpus, 2, 90) is None  # one node has room
    assert bundle(cpus, 2, 120) == {"CPU": 4, "memory": 60}
    assert bundle(cpus, 2, 120, threads=3) == {"CPU": 1, "memory": 60}
    assert bundle(cpus, 3, 120, threads=9) == {"CPU": 3, "memory": 40}
    assert bundle(cpus, 3, 360) is None  # none has: the largest node takes it, to see
    with pytest.raises(InputError, match=r"train\.threads: found 9; expected at most 6, the cores of the largest"):
        bundle(cpus, 1, 90, threads=9)
    gpus = nodes_of({"CPU": 8, "GPU": 2, "memory": 100}, {"CPU": 8, "GPU": 2, "memory": 100})
    assert bundle(gpus, 2, 90) is None
    assert bundle(gpus, 3, 90) == {"CPU": 4, "GPU": 1, "memory": 30}
    assert bundle(gpus, 3, 90, device="cpu") is None
    with pytest.raises(InputError, match="found 5 processes with a GPU each; expected at most 4, for which"):
        bundle(gpus, 5, 90)


def test_missing_repetitions_are_split_into_consecutive_ranges() -> None:
    assert consecutive_ranges([0, 1, 2, 5, 6, 9], 2) == [range(2), range(2, 3), range(5, 7), range(9, 10)]
    assert consecutive_ranges([], 3) == []


def test_tasks_share_a_gpu_by_the_memory_they_need() -> None:
    assert gpu_fraction(10 * 10**9, 80 * 10**9) == 1 / 8
    assert gpu_fraction(25 * 10**9, 80 * 10**9) == 1 / 3
    assert gpu_fraction(10**9, 80 * 10**9) == 1 / 8
    assert gpu_fraction(90 * 10**9, 80 * 10**9) == 1.0
    assert gpu_fraction(None, 80 * 10**9) == gpu_fraction(10**9, None) == 1.0


@pytest.mark.parametrize(
    ("address", "variable", "expected"),
    [(None, None, "local"), (None, "head:1", "head:1"), ("other:2", "head:1", "other:2"), ("auto", None, "auto")],
)
def test_a_cluster_is_started_unless_one_is_named(
    monkeypatch: pytest.MonkeyPatch, address: str | None, variable: str | None, expected: str
) -> None:
    """Whatever cluster somebody has left behind on this machine."""
    addresses = []
    stub: Any = types.ModuleType("ray")
    stub.init = lambda **how: addresses.append(how["address"])
    monkeypatch.setitem(sys.modules, "ray", stub)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    connect(address)
    assert addresses == [expected]


def test_a_cluster_that_does_not_answer_may_want_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise ConnectionError("Failed to connect to Ray cluster at head:1")

    stub: Any = types.ModuleType("ray")
    stub.init = refuse
    monkeypatch.setitem(sys.modules, "ray", stub)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(
        InputError, match=r"no Ray cluster there: Failed .*; a cluster that asks for a token: RAY_AUTH_MODE"
    ):
        connect("head:1")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(InputError, match=r"at head:1$"):
        connect("head:1")


def test_the_launcher_loads_no_ray_unless_asked_for() -> None:
    program = (
        "import sys, bench.__main__\n"
        "assert 'ray' not in sys.modules and 'bench.launch.ray.cluster' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
