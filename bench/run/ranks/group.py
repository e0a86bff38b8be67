"""The process group of one run: each process trains the trunk and its part of the output layer (torch.distributed).

A layer declares the number by ``processes`` (`bench.interface.OutputLayer`). Rank 0 is the process that every run has;
it starts the others (`bench.run.ranks.leader`), which do the same work (`bench.run.ranks.peer_main`) and write no
results. All train a copy of the trunk on the same batches.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from bench.common.errors import InputError
from bench.run.ranks.network_interfaces import address_towards, interface_of
from bench.run.ranks.peer_process import RankAddress

GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"  # environment variable that gloo reads where a group is formed
TIMEOUT = timedelta(minutes=30)  # of waiting for the others; the end of one is noticed at once


@contextmanager
def gloo_interface(host: str | None) -> Iterator[None]:
    """Have gloo use the network interface with this address, unless the user has named an interface.

    By itself gloo uses the interface of this host's name, often a loopback. The variable is set within the block only,
    so that processes started later do not inherit it.
    """
    interface = interface_of(host) if host and GLOO_INTERFACE not in os.environ else None
    if interface:
        os.environ[GLOO_INTERFACE] = interface
    try:
        yield
    finally:
        if interface:
            del os.environ[GLOO_INTERFACE]


class ProcessGroup:
    """The processes of a run, seen from one of them. A single process exchanges nothing.

    `exchange` sends JSON through the store at the rendezvous. The layer exchanges tensors itself, through
    torch.distributed's default group, which exists from `join` to `leave`. ``host``: the address by which processes on
    other machines reach this one; None where all are on this machine.
    """

    def __init__(
        self, rank: int = 0, world_size: int = 1, store: dist.Store | None = None, host: str | None = None
    ) -> None:
        self.rank, self.world_size, self._store, self._host = rank, world_size, store, host
        self._exchanges = 0

    @classmethod
    def create(cls, world_size: int, host: str | None = None) -> tuple[ProcessGroup, str]:
        """The group as rank 0 sees it, and the host:port of its store, which the others connect to.

        The store listens at ``host``, else on the loopback, at a port that the kernel chooses; MASTER_ADDR and
        MASTER_PORT override both. InputError where it cannot listen there.
        """
        given, host = host, os.environ.get("MASTER_ADDR", host or "127.0.0.1")
        port = os.environ.get("MASTER_PORT", "0")
        try:
            listener = socket.create_server((host, int(port)))
        except (ValueError, OverflowError, OSError) as error:
            expected = "expected an address and a free port of this machine"
            raise InputError(f"MASTER_ADDR, MASTER_PORT: found {host}:{port}; {expected} ({error})") from error
        chosen = listener.getsockname()[1]
        descriptor = listener.detach()  # handed to the store: a socket that torch makes would listen on every network
        store = dist.TCPStore(host, chosen, world_size, True, TIMEOUT, False, master_listen_fd=descriptor)
        return cls(0, world_size, store, given), f"{host}:{chosen}"

    @classmethod
    def connect(cls, address: RankAddress) -> ProcessGroup:
        """The group as another rank sees it."""
        host, _, port = address.address.rpartition(":")
        store = dist.TCPStore(host, int(port), address.world_size, False, TIMEOUT, False)
        own = address_towards(host, int(port)) if address.threads else None
        return cls(address.rank, address.world_size, store, own)

    def join(self, device: torch.device) -> None:
        """Form torch.distributed's default group; returns when all have joined. NCCL between GPUs, gloo otherwise.

        ConnectionError where that fails, as it does once another process has ended.
        """
        if self._store is None:
            return
        on_gpu = device.type == "cuda"
        if on_gpu:
            torch.cuda.set_device(device)
            device = torch.device("cuda", torch.cuda.current_device())
        try:
            with gloo_interface(self._host):
                dist.init_process_group(
                    "nccl" if on_gpu else "gloo",
                    store=dist.PrefixStore("group", self._store),
                    rank=self.rank,
                    world_size=self.world_size,
                    timeout=TIMEOUT,
                    device_id=device if on_gpu else None,
                )
        except RuntimeError as error:
            raise ConnectionError(f"joining the other processes: {error}") from error
        self.exchange("joined")  # gloo returns before the others are connected; leaving now would break them

    def leave(self) -> None:
        """Destroy the default group."""
        if self._store is not None:
            dist.destroy_process_group()

    @staticmethod
    def end_process(code: int) -> None:
        """End this process at once if it has not left its group, whose threads may wait for the others for ever."""
        if dist.is_initialized():
            sys.stderr.flush()
            os._exit(code)

    def exchange(self, value: Any) -> list[Any]:
        """Send a JSON value to all processes; returns the values of all, in the order of ranks. All must call this.

        ConnectionError where the store is gone, or when another process sends nothing for TIMEOUT.
        """
        if self._store is None:
            return [value]
        self._exchanges += 1
        keys = [f"{self._exchanges}/{rank}" for rank in range(self.world_size)]
        try:
            self._store.set(keys[self.rank], json.dumps(value))
            return [json.loads(content) for content in self._store.multi_get(keys)]
        except RuntimeError as error:
            raise ConnectionError(f"exchange with the other processes: {error}") from error

    def compare(self, module: nn.Module) -> None:
        """RuntimeError, in all processes, unless a module of float32 parameters has the same bits in all of them.

        Compares a sum of the bits of each parameter.
        """
        if self._store is None:
            return
        own = [int(p.detach().view(torch.int32).sum(dtype=torch.int64)) for p in module.parameters()]
        found = self.exchange(own)
        if differing := [rank for rank, sums in enumerate(found) if sums != found[0]]:
            ranks = ", ".join(map(str, differing))
            raise RuntimeError(
                f"copies of the trunk: found other bits in processes {ranks}; expected those of process 0"
            )

    def first_error(self, error: str | None) -> str | None:
        """The error of this process, else that of the first process that has one; None where no process has one."""
        errors = self.exchange(error)
        others = (
            f"process {rank} of {self.world_size}: {text}" for rank, text in enumerate(errors) if text is not None
        )
        return error if error is not None else next(others, None)


ALONE = ProcessGroup()
