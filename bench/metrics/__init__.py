"""Labels in, numbers out: ranking metrics, quality by label frequency, significance."""

from __future__ import annotations

from bench.metrics.ranking import evaluate

__all__ = ["evaluate"]
