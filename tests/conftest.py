"""Shared settings of the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings

from bench.common.environment import THREADS

# Before torch is imported: as runs have it, see bench.common.environment.
for name, value in THREADS.items():
    os.environ.setdefault(name, value)

# Whoever starts the tests in the background may have them ignore Ctrl-C, and all that they start with them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Several processes share the machine, and a first call compiles: how long an example takes says nothing.
settings.register_profile("machbench", deadline=None)
settings.load_profile("machbench")

ROOT = Path(__file__).resolve().parents[1]


def pytest_sessionstart(session: pytest.Session) -> None:
    """Where several processes will run the tests, numba's kernels are compiled before: each once."""
    option = session.config.option
    if "PYTEST_XDIST_WORKER" in os.environ or not getattr(option, "numprocesses", None) or option.collectonly:
        return
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    script = str(ROOT / "tests" / "compile_kernels.py")
    parts = [
        subprocess.Popen([sys.executable, script, part], env=environment, stdout=subprocess.DEVNULL)
        for part in ("training", "decoding")
    ]
    for part in parts:
        part.wait()  # a failure shows in the tests


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with many end-to-end runs first: no process is left alone with them in the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("soak"))
    items.sort(key=lambda item: -slow[item.path])
