"""Folders: the configs beside the packages, the cache in the user's home."""

from __future__ import annotations

import os
from pathlib import Path

from bench.common.errors import InputError

CONFIGS, CACHE = "MACHBENCH_CONFIGS", "MACHBENCH_CACHE"  # environment variables that name other folders


def config_root() -> Path:
    """Folder that holds ``dataset/ method/ experiment/ paper/``: ``$MACHBENCH_CONFIGS``, else beside the
    packages. InputError when it does not exist."""
    override = os.environ.get(CONFIGS)
    root = Path(override) if override else Path(__file__).resolve().parents[2] / "configs"
    if not root.is_dir():
        raise InputError(
            f"configs folder {root} does not exist; install with `pip install -e .` from a checkout "
            f"or set {CONFIGS} to the folder that holds dataset/ and experiment/"
        )
    return root


def cache_root() -> Path:
    """Folder for parsed datasets and downloads: ``$MACHBENCH_CACHE``, else ``machbench`` in the
    XDG cache. Not created here."""
    if override := os.environ.get(CACHE):
        return Path(override)
    xdg = os.environ.get("XDG_CACHE_HOME")
    return (Path(xdg) if xdg else Path.home() / ".cache") / "machbench"
