"""Shared settings of the tests."""

from __future__ import annotations

import os

from bench.environment import THREADS

# Before torch is imported: as runs have it, see bench.environment.
for name, value in THREADS.items():
    os.environ.setdefault(name, value)
