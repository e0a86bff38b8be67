"""The processes of one run as threads of this process, for tests."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from bench.config.experiment import unfold
from bench.config.spec import RunSpec
from bench.run.ranks.group import ProcessGroup
from bench.run.ranks.peer_process import RankAddress

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
