"""Shared settings of the tests."""

from __future__ import annotations

import os
import signal

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
