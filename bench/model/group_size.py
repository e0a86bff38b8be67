"""Memory that is free now, and how many repetitions may be trained in it at a time."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch

from bench.config.spec import TrainSettings

MARGIN = 0.8  # of the free memory: the rest is for batches, predictions and what else the machine is doing
# Limit, use, and file cache in the use, which is given up under pressure; of the two versions of control groups.
CGROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available_bytes(device: torch.device) -> int | None:
    """Free bytes of the GPU, or of the host and of the control group this process is in; None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    known = [n for n in (_host(), *(control_group_bytes(*names) for names in CGROUPS)) if n is not None]
    return min(known, default=None)


def largest_group(repetitions: int, fixed: int, each: int, available: int | None) -> int:
    """How many of the repetitions fit at a time: all, or so many that ``fixed + n·each`` bytes are within the margin.

    ``fixed``: bytes that all repetitions hold however they are grouped. At least 1, in case it fits after all.
    """
    if available is None:
        return repetitions
    return max(1, min(repetitions, (int(available * MARGIN) - fixed) // max(each, 1)))


def group_size(settings: TrainSettings, repetitions: int, n_rows: int, layer_size: int, available: int | None) -> int:
    """Repetitions to train at a time: as many as the settings say or, for 0, as fit into the available bytes.

    n_rows: of the input table of a repetition. layer_size: parameters of a repetition's output layer.
    """
    if settings.repetitions_at_a_time:
        return min(settings.repetitions_at_a_time, repetitions)
    sizes = settings.hidden_sizes()
    table = 4 * n_rows * sizes[0]
    dense = 4 * sum(a * b for a, b in itertools.pairwise(sizes)) + 4 * layer_size
    moments = 2 if settings.optimiser == "adam" else 1 / sizes[0]
    # While a group trains: the state of its optimiser, gradients, and a batch in the network.
    batch = 4 * settings.batch_size * 4 * sum(sizes)
    each = int(table * moments) + dense * 3 + batch
    return largest_group(repetitions, (table + dense) * repetitions, each, available)


def _host() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def control_group_bytes(folder: Path, limit: str, use: str, cache: str) -> int | None:
    """Bytes that a control group still allows; None without a limit."""
    try:
        allowed = (folder / limit).read_text().strip()
        if allowed == "max":
            return None
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return max(0, int(allowed) - int((folder / use).read_text()) + int(stat.get(cache, 0)))
    except (OSError, ValueError):
        return None
