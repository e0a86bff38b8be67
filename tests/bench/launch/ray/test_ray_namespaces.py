"""Nodes of a Ray cluster in network namespaces of their own: they connect by their addresses alone, as machines do."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from cluster_runs import ROOM, assert_same_models, beside_one_machine, kept, needs_ray, wait_until
from command_line import machbench

HEAD, NODES = "10.213.87.1", ("10.213.87.2", "10.213.87.3")
AUTH = {"RAY_AUTH_MODE": "disabled"}  # the network is this test's own
RAY = (sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def namespaces(stack: ExitStack) -> list[str]:
    """A bridge with the head's address, and a namespace for each node that is linked to it; gone with the stack.

    CalledProcessError, or FileNotFoundError, where this may not be done.
    """
    mark = f"mb{os.getpid() % 100_000}"  # names of links have 15 characters at most
    ip("link", "add", mark, "type", "bridge")
    stack.callback(ip, "link", "del", mark)
    ip("addr", "add", f"{HEAD}/24", "dev", mark)
    ip("link", "set", mark, "up")
    names = []
    for n, address in enumerate(NODES):
        name, outer, inner = f"{mark}n{n}", f"{mark}o{n}", f"{mark}i{n}"
        ip("netns", "add", name)
        stack.callback(ip, "netns", "del", name)
        ip("link", "add", outer, "type", "veth", "peer", "name", inner)
        ip("link", "set", outer, "master", mark, "up")
        ip("link", "set", inner, "netns", name)
        ip("-n", name, "addr", "add", f"{address}/24", "dev", inner)
        ip("-n", name, "link", "set", inner, "up")
        ip("-n", name, "link", "set", "lo", "up")
        names.append(name)
    return names


def begin(stack: ExitStack, command: tuple[str, ...], log: Path) -> None:
    """Start a node, and wait for it; with the stack it and all that it has started are killed.

    One after the other, because two that start at once would choose the same names of sockets in the folder that they
    share here, and because the command looks at its beginning how many there are.
    """
    with log.open("w") as output:
        node = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env=os.environ | AUTH
        )

    def end() -> None:
        with suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            node.wait(timeout=20)
        with suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        node.wait()

    stack.callback(end)
    wait_until(lambda: "Ray runtime started" in log.read_text())


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Of a head without cores; two nodes with one each join it from their namespaces."""
    with ExitStack() as stack:
        if shutil.which("ip") is None:
            pytest.skip("the command ip is not installed (Debian: iproute2)")
        try:
            names = namespaces(stack)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces may not be made here: {error.stderr.decode().strip()}")
        port = str(20_000 + os.getpid() % 10_000)
        head = (*RAY, "--head", f"--node-ip-address={HEAD}", f"--port={port}", "--num-cpus=0")
        begin(stack, (*head, "--include-dashboard=false"), tmp_path / "head.txt")
        for n, name in enumerate(names):
            node = (*RAY, f"--address={HEAD}:{port}", f"--node-ip-address={NODES[n]}", "--num-cpus=1")
            node = (*node, f"--memory={ROOM}")
            begin(stack, ("ip", "netns", "exec", name, *node), tmp_path / f"node{n}.txt")
        yield f"{HEAD}:{port}"


@needs_ray
@pytest.mark.slow
@pytest.mark.soak
def test_nodes_that_connect_by_the_network_give_the_table_of_one_machine(tmp_path: Path, address: str) -> None:
    """Repetitions here and there; and a run in two processes, one on each node."""
    done = []
    for name, methods in (("parts", "mach: {B: 16, R: 4}"), ("shards", "full_softmax: {shards: 2}")):
        folder = beside_one_machine(tmp_path / name, f"methods:\n  {methods}\n")
        done.append(machbench("run", "small.yaml", "--launcher", "ray", "--address", address, cwd=folder, **AUTH))
        assert_same_models(folder, tmp_path / name / "local")
    assert len({about["process"] for about in kept(tmp_path / "parts" / "ray")}) == 2
    assert "process 1 of 2: starts on" in done[1].stdout
