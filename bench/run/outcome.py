"""Status and reason of a run that ended with an exception."""

from __future__ import annotations

import torch

from bench.run.ranks.leader import FailedElsewhere
from bench.run.train import Diverged


def classify(error: BaseException) -> tuple[str, str]:
    """Status and reason of a run that ended with an exception."""
    text = str(error).strip() or type(error).__name__
    reason = text.splitlines()[0]
    if isinstance(error, FailedElsewhere):
        return error.status, reason
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "oom_device", reason
    # torch reports a failed host allocation as a plain RuntimeError
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in text:
        return "oom_host", reason
    if isinstance(error, Diverged):
        return "diverged", reason
    if isinstance(error, NotImplementedError):
        return "unsupported", reason
    return "crashed", f"{type(error).__name__}: {reason}"
