"""The threads and the GPU of each process of a run, and which precisions a device has."""

from __future__ import annotations

import numba
import torch

from bench.common.errors import InputError
from bench.config.spec import TrainSettings


def threads_each(total: int, processes: int) -> int:
    """Threads of each process. The same for all, because the last bits of results depend on it."""
    return max(1, total // processes)


def set_threads(total: int, processes: int) -> None:
    """Let this process use its share of so many threads; 0: of all that there are."""
    if total or processes > 1:
        each = threads_each(total or torch.get_num_threads(), processes)
        torch.set_num_threads(each)
        numba.set_num_threads(min(each, numba.get_num_threads()))


def take_share(train: TrainSettings, rank: int, world_size: int, threads: int = 0) -> torch.device:
    """Set the threads of a process of a run, and return its device. InputError as from `pick_device`.

    ``threads``: of a process with reserved threads and a GPU of its own, which sees no other GPU; 0: the processes of
    the run share those of the machine.
    """
    device = pick_device(train.device) if threads else pick_device(train.device, rank, world_size)
    if threads:
        set_threads(threads, 1)
    else:
        set_threads(train.threads, world_size)
    return device


def pick_device(name: str, rank: int = 0, world_size: int = 1) -> torch.device:
    """``auto`` takes a GPU when there is one; several processes of a run have one each, in the order of ranks.

    InputError when the setting names a GPU and none is there, or when there are fewer than processes.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("train.device: found cuda; expected cpu or auto, because torch sees no GPU here")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if world_size == 1:
        return torch.device("cuda")
    if (found := torch.cuda.device_count()) < world_size:
        raise InputError(
            f"GPUs: found {found}; expected {world_size}, one for each process of the run (or device: cpu)"
        )
    return torch.device("cuda", rank)


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices itself; torch emulates, slowly, what it does not have."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return bool(supported and torch.backends.mkldnn.is_available() and supported())
