"""Where configs are: beside the packages, or where MACHBENCH_CONFIGS says."""

from __future__ import annotations

import os
from pathlib import Path


def config_root() -> Path:
    """The folder that holds ``dataset/``, ``method/`` and ``experiment/``."""
    given = os.environ.get("MACHBENCH_CONFIGS")
    return Path(given) if given else Path(__file__).resolve().parent.parent / "configs"
