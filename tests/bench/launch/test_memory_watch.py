"""The watch over the memory of a run and its children."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.common import procfs
from bench.launch import memory_watch
from bench.run import memory

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
MIB = 2**20
needs_reset = pytest.mark.skipif(not memory.reset_host_peak(), reason="the kernel does not let peaks be reset")


FREED = "import time; held = bytearray(b'1' * (64 * 2**20)); del held; print('held', flush=True); time.sleep(60)"
HOLD = "import sys, time; held = bytearray(b'1' * int(sys.argv[1])); print('held', flush=True); time.sleep(60)"
PARENT = (
    "import subprocess, sys, threading, time\n"
    "start = lambda: subprocess.Popen([sys.executable, '-c', sys.argv[2], sys.argv[1]])\n"
    "thread = threading.Thread(target=start); thread.start(); thread.join(); time.sleep(60)\n"
)


def wait_until_held(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"


@pytest.mark.parametrize("nested", [False, True])
def test_memory_of_a_process_and_its_children_is_added_up(nested: bool) -> None:
    command = [sys.executable, "-c", PARENT, str(64 * MIB), HOLD] if nested else [sys.executable, "-c", HOLD, "1000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        wait_until_held(process)
        held = memory_watch.held_bytes(process.pid)
        assert held is not None
        assert (held > 64 * MIB) == nested
        assert len(list(procfs.family(process.pid))) == 1 + nested
    finally:
        os.killpg(process.pid, 9)
        process.wait()
    assert memory_watch.held_bytes(process.pid) is None


def test_a_peak_between_two_looks_counts() -> None:
    process = subprocess.Popen([sys.executable, "-c", FREED], stdout=subprocess.PIPE, text=True)
    wait_until_held(process)
    held, now = memory_watch.held_bytes(process.pid), procfs.status_bytes(process.pid)["VmRSS"]
    process.kill()
    process.wait()
    assert held is not None
    assert held > 64 * MIB > now


def test_a_watch_kills_above_its_limit_and_only_once() -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(96 * MIB)], stdout=subprocess.PIPE, text=True)
    kills = []

    def kill() -> None:
        kills.append(memory_watch.held_bytes(process.pid))
        process.kill()

    watch = memory_watch.MemoryWatch(process.pid, 64 * MIB, kill)
    code = process.wait(timeout=60)
    watch.stop()
    watch.check(10**12)  # reported too late
    assert watch.over
    assert len(kills) == 1
    assert watch.peak is not None
    assert watch.peak > 64 * MIB
    reason = watch.reason(code)
    assert reason is not None
    assert reason.startswith("killed at the memory limit of 67.1 MB; it held ")


def test_below_its_limit_a_watch_only_looks() -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(MIB)], stdout=subprocess.PIPE, text=True)
    watch = memory_watch.MemoryWatch(process.pid, 10**12, lambda: pytest.fail("killed"))
    wait_until_held(process)
    watch.check(5 * 10**11)  # what the run itself has reported counts
    process.terminate()
    watch.stop()
    assert (watch.peak, watch.over, watch.reason(process.wait())) == (5 * 10**11, False, None)


def test_a_peak_that_only_the_run_knows_of_counts_too() -> None:
    """Of a phase that ended between two looks."""
    kills: list[int] = []
    watch = memory_watch.MemoryWatch(os.getpid(), 10**15, lambda: kills.append(1))
    watch.check(None)
    watch.check(10**15)
    assert not kills
    watch.check(10**15 + 1)
    watch.check(10**15 + 2)
    watch.stop()
    assert (kills, watch.over, watch.peak) == ([1], True, 10**15 + 2)


def test_a_kill_by_the_kernel_for_lack_of_memory_is_distinguished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(procfs, "PROC", tmp_path)
    assert procfs.oom_kills() == 0
    (tmp_path / "vmstat").write_text("pgfault 8\noom_kill 3\n")
    watch = memory_watch.MemoryWatch(1, None, lambda: None)
    watch.check(4_000_000)
    assert watch.reason(-9) is None  # somebody's kill -9
    (tmp_path / "vmstat").write_text("pgfault 8\noom_kill 4\n")
    assert watch.reason(-9) == "killed by the kernel, which was out of memory; it held 4 MB"
    assert watch.reason(-11) is None
    watch.stop()
