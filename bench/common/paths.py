"""Where things are: the configs beside the packages, the cache in the user's home."""

from __future__ import annotations

import os
from pathlib import Path

from bench.common.errors import InputError


def config_root() -> Path:
    """Folder that holds ``dataset/ method/ experiment/ paper/``: ``$MACHBENCH_CONFIGS``, else beside the
    packages."""
    override = os.environ.get("MACHBENCH_CONFIGS")
    root = Path(override) if override else Path(__file__).resolve().parents[2] / "configs"
    if not root.is_dir():
        raise InputError(
            f"configs folder {root} does not exist; install with `pip install -e .` from a checkout "
            "or set MACHBENCH_CONFIGS to the folder that holds dataset/ and experiment/"
        )
    return root


def cache_root() -> Path:
    """Folder for parsed datasets and downloads: ``$MACHBENCH_CACHE``, else the XDG cache. Not created
    here."""
    if override := os.environ.get("MACHBENCH_CACHE"):
        return Path(override)
    xdg = os.environ.get("XDG_CACHE_HOME")
    return (Path(xdg) if xdg else Path.home() / ".cache") / "machbench"
