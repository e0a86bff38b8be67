"""From bucket scores to labels: exact top-k over all labels."""

from __future__ import annotations

from mach.decode.decoder import Decoder, top_k, top_k_prefixes

__all__ = ["Decoder", "top_k", "top_k_prefixes"]
