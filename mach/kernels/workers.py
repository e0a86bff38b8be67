"""Threads that each work on whole repetitions, so that no step inside a repetition waits for another thread.

The alternative, to split every product and loop of a step over all cores, makes two thread pools (torch's and that of
the compiled loops) alternate many times per step, and with anything else running on the machine every change waits.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch


@cache
def workers(count: int) -> ThreadPoolExecutor:
    """``count`` threads in which torch's operations stay on their own core. Their work must release the GIL."""
    started = threading.Barrier(count)

    def start() -> None:
        torch.set_num_threads(1)
        started.wait()

    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, thread_name_prefix="repetition", initializer=start)
    # torch keeps the number for this thread and for threads that start later, so the earlier value is restored.
    list(pool.map(lambda _: None, range(count)))
    torch.set_num_threads(before)
    return pool
