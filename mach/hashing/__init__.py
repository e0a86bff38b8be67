"""Hash families for labels and features."""

from __future__ import annotations

from mach.hashing.families import hash_features, hash_labels

__all__ = ["hash_features", "hash_labels"]
