"""The processes of one run, each of which executes it with a part of the output layer (torch.distributed).

A layer says how many by ``processes`` (`bench.interface.OutputLayer`). The first, rank 0, is the process of any run; it
starts the others (`bench.run.ranks.leader`), which do the same work (`bench.run.ranks.peer_main`)
and write no results. All train a copy
of the trunk on the same batches.
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
PATIENCE = timedelta(minutes=30)  # of a process with the others; one that has ended is noticed at once


@contextmanager
def talking_by(host: str | None) -> Iterator[None]:
    """Have gloo take the interface with this address, unless the user has named one; else that of this host's name.

    That one is often a loopback. Nothing else of this process, nor what it starts later, is to find the name.
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
    """The processes of a run, seen from one of them. A process that is alone exchanges nothing.

    What is exchanged here is JSON, through the store where the processes met; tensors are the layer's to exchange,
    through torch.distributed's default group, which exists from `join` to `leave`. ``host``: address of this machine
    by which processes on others reach it; None where all are on this one.
    """

    def __init__(
        self, rank: int = 0, world_size: int = 1, store: dist.Store | None = None, host: str | None = None
    ) -> None:
        self.rank, self.world_size, self._store, self._host = rank, world_size, store, host
        self._exchanges = 0

    @classmethod
    def lead(cls, world_size: int, host: str | None = None) -> tuple[ProcessGroup, str]:
        """Rank 0, and the address where the others find it.

        On this machine, by its address ``host`` or for itself alone, at a port that the kernel chooses, unless
        MASTER_ADDR and MASTER_PORT say otherwise. InputError where nobody can be met there.
        """
        given, host = host, os.environ.get("MASTER_ADDR", host or "127.0.0.1")
        port = os.environ.get("MASTER_PORT", "0")
        try:
            listener = socket.create_server((host, int(port)))
        except (ValueError, OverflowError, OSError) as error:
            expected = "expected an address and a free port of this machine"
            raise InputError(f"MASTER_ADDR, MASTER_PORT: found {host}:{port}; {expected} ({error})") from error
        chosen = listener.getsockname()[1]
        descriptor = listener.detach()  # the store's from now on: torch's own would listen to every network
        store = dist.TCPStore(host, chosen, world_size, True, PATIENCE, False, master_listen_fd=descriptor)
        return cls(0, world_size, store, given), f"{host}:{chosen}"

    @classmethod
    def at(cls, place: RankAddress) -> ProcessGroup:
        """Another rank, which knows the address from its `RankAddress`."""
        host, _, port = place.address.rpartition(":")
        store = dist.TCPStore(host, int(port), place.world_size, False, PATIENCE, False)
        own = address_towards(host, int(port)) if place.threads else None
        return cls(place.rank, place.world_size, store, own)

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
            with talking_by(self._host):
                dist.init_process_group(
                    "nccl" if on_gpu else "gloo",
                    store=dist.PrefixStore("group", self._store),
                    rank=self.rank,
                    world_size=self.world_size,
                    timeout=PATIENCE,
                    device_id=device if on_gpu else None,
                )
        except RuntimeError as error:
            raise ConnectionError(f"joining the other processes: {error}") from error
        self.exchange("joined")  # gloo returns before the others are connected, whom leaving now would fail

    def leave(self) -> None:
        """The default group is over."""
        if self._store is not None:
            dist.destroy_process_group()

    @staticmethod
    def end_process(code: int) -> None:
        """End this process at once if it has not left its group: what is left of that may wait for the others."""
        if dist.is_initialized():
            sys.stderr.flush()
            os._exit(code)

    def exchange(self, value: Any) -> list[Any]:
        """What each process tells, in the order of ranks; all call this, in the same order.

        ConnectionError where the store is gone, or when another does not tell for PATIENCE.
        """
        if self._store is None:
            return [value]
        self._exchanges += 1
        keys = [f"{self._exchanges}/{rank}" for rank in range(self.world_size)]
        try:
            self._store.set(keys[self.rank], json.dumps(value))
            return [json.loads(told) for told in self._store.multi_get(keys)]
        except RuntimeError as error:
            raise ConnectionError(f"exchange with the other processes: {error}") from error

    def compare(self, module: nn.Module) -> None:
        """RuntimeError, in all processes, unless a module of float32 parameters has the same bits in all of them.

        Compared by a sum of the bits of each parameter.
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

    def objection(self, why: str | None) -> str | None:
        """Why this process, or if it has no reason the first that has one, cannot go on; None where all can."""
        told = self.exchange(why)
        others = (f"process {rank} of {self.world_size}: {text}" for rank, text in enumerate(told) if text is not None)
        return why if why is not None else next(others, None)


ALONE = ProcessGroup()
