"""Threads that each work on whole chunks of labels, so that no step inside a chunk waits for another thread."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch


@cache
def workers(count: int) -> ThreadPoolExecutor:
    """``count`` threads in which torch's operations stay on their own core. Work given to them must release the GIL."""
    started = threading.Barrier(count)

    def start() -> None:
        torch.set_num_threads(1)
        started.wait()

    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, thread_name_prefix="labels", initializer=start)
    # torch keeps the number for this thread, but also for threads that are yet to start: those shall have what was set.
    list(pool.map(lambda _: None, range(count)))
    torch.set_num_threads(before)
    return pool
