"""Shared settings of the tests."""

from __future__ import annotations

import os

# Before torch is imported: as runs have it, see bench.environment.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
