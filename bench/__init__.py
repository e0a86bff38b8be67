"""machbench: the harness that trains, measures and compares output layers for extreme classification."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.data import load_dataset as load_dataset
    from bench.results.table import load_results as load_results

__all__ = ["load_dataset", "load_results"]

_MODULES = {"load_dataset": "bench.data", "load_results": "bench.results.table"}


def __getattr__(name: str) -> Any:
    """Resolve the public names on first use, so that `import bench` stays cheap in the launching process."""
    if name not in _MODULES:
        raise AttributeError(f"module 'bench' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
