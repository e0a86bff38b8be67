"""The hashed output layer as a torch module."""

from __future__ import annotations

from mach.layer.output import MachOutput

__all__ = ["MachOutput"]
