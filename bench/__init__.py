"""machbench: the harness that trains, measures and compares output layers for extreme classification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.data import load_dataset as load_dataset
    from bench.frame import load_results as load_results

__all__ = ["load_dataset", "load_results"]


def __getattr__(name: str) -> Any:
    """Resolve the public names on first use, so that `import bench` stays cheap in the launching process."""
    if name == "load_dataset":
        from bench.data import load_dataset

        return load_dataset
    if name == "load_results":
        from bench.frame import load_results

        return load_results
    raise AttributeError(f"module 'bench' has no attribute {name!r}")
