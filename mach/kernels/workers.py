"""Threads that each work on whole repetitions, so that no step inside a repetition waits for another thread.

Splitting every product and loop of a step over all cores instead makes two thread pools (torch's, and that of the
compiled loops) take turns on them many times a step; as soon as anything else runs on the machine, each turn waits.
"""

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
    pool = ThreadPoolExecutor(count, thread_name_prefix="repetition", initializer=start)
    # torch keeps the number for this thread, but also for threads that are yet to start: those shall have what was set.
    list(pool.map(lambda _: None, range(count)))
    torch.set_num_threads(before)
    return pool
